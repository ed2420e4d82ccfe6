"""Runs a Hydra command line: a single run, or a sweep with `-m`."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from runner.commands.typed.saved_config import use_saved
from runner.config import conf_folder, schema
from runner.config.settings import rules as rules_settings
from runner.config.settings.run import Run
from runner.errors import UserError, literal, quoted
from runner.launch.application import RUN, Act, Application, RunFailed

MULTIRUN = {"-m", "--multirun"}

# No flag with a hyphen in its name: no key has one.
AGENTS_WORD = re.compile(r"--([A-Za-z_][\w./@]*)=(.*)", re.DOTALL)
HYDRA_FLAGS = ("cfg", "info", "package")


def hydra_command(words: Sequence[str], act: Act = RUN, admit: Callable[[Run], None] | None = None) -> int:
    """Composes the configs that `words` describe, applies `act` to them, and returns the exit code.

    Args:
      words: Arguments for Hydra.
      act: What to do with the configs: run, plan or check.
      admit: See `Application`; the words are then a stranger's, and his modules are not to be found.

    Raises:
      UserError: Hydra rejects the command line, or a config can't run.
    """
    make_importable(own=admit is None)
    import hydra

    from runner.config.explain import explain, is_hydra_error

    schema.register()
    words = [as_override(word) for word in words]
    words = rules_settings.as_overrides(words)
    # Otherwise Hydra prints its errors and exits with 1; this way they reach us, and bugs keep their traceback.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    words = [quoted_part(word) for word in words]
    # argparse allows no flags between overrides: it would reject `seed=0,1 -m`.
    first = [word for word in words if word in MULTIRUN]
    sys.argv = [sys.argv[0], *first, *use_saved([word for word in words if word not in MULTIRUN])]
    job = Application(words, act) if admit is None else Application(words, act, admit)
    decorate = hydra.main(version_base="1.3", config_path=str(conf_folder.config_dir()), config_name="config")
    try:
        decorate(job)()
    except UserError:
        raise
    except RunFailed:  # of another sweeper, which ends with it; the failure has been reported
        return 1
    except Exception as error:
        if not is_hydra_error(error):
            raise
        raise explain(error) from error
    if job.error is not None:
        raise job.error
    return job.exit_code


def as_override(word: str) -> str:
    """`--KEY=VALUE`, as `wandb agent` types what it chose, as `KEY=VALUE`; other words as they are.

    The value is one value, as Python prints it: `None`, `False`, `[4, 8]`, `{'steps': 3}`.
    """
    match = AGENTS_WORD.fullmatch(word)
    if match is None or match[1] in HYDRA_FLAGS:
        return word
    try:
        return f"{match[1]}={literal(ast.literal_eval(match[2]))}"
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return f"{match[1]}={quoted(match[2]) if ',' in match[2] else match[2]}"


def quoted_part(word: str) -> str:
    """`variables=CHECKPOINT#NAMES` with the value in quotes: Hydra's grammar has no `#`."""
    key, _, value = word.partition("=")
    if key.lstrip("+") != "variables" or "#" not in value or re.search(r"['\"\[\](){}]", value):
        return word
    return f"{key}={','.join(quoted(part) if '#' in part else part for part in value.split(','))}"


def make_importable(*, own: bool = True) -> None:
    """Adds the working directory (the user's modules) and, in a checkout, our Hydra plugins to `sys.path`.

    Args:
      own: Whether the user's modules may be imported: in a stranger's folder, Hydra and JAX would import his plugins.
    """
    plugins = Path(__file__).resolve().parents[2] / "launch" / "plugins"
    for folder in (os.getcwd() if own else None, str(plugins) if plugins.is_dir() else None):
        if folder is not None and folder not in sys.path:
            sys.path.append(folder)
