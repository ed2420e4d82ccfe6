"""A Hydra command line: one run, or with `-m` a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from runner.config import schema
from runner.errors import UserError
from runner.launch.application import RUN, Act, Application

MULTIRUN = {"-m", "--multirun"}


def hydra_command(words: Sequence[str], act: Act = RUN) -> int:
    """Composes what `words` say, does with it what `act` does, and gives the exit code.

    Args:
      words: What Hydra gets.
      act: What is done with the configs: run, plan or check.

    Raises:
      UserError: Hydra refuses what was typed, or a config can't run.
    """
    make_importable()
    import hydra

    from runner.config.explain import explain, is_hydra_error

    schema.register()
    # Hydra would print its own errors and exit with 1; this way they come here, and bugs keep their traceback.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    # argparse takes no flag between overrides: `seed=0,1 -m` would be refused.
    first = [word for word in words if word in MULTIRUN]
    sys.argv = [sys.argv[0], *first, *(word for word in words if word not in MULTIRUN)]
    job = Application(words, act)
    decorate = hydra.main(version_base="1.3", config_path=str(schema.config_dir()), config_name="config")
    try:
        decorate(job)()
    except UserError:
        raise
    except Exception as error:
        if not is_hydra_error(error):
            raise
        raise explain(error) from error
    if job.error is not None:
        raise job.error
    return job.exit_code


def make_importable() -> None:
    """Puts the user's modules in the working directory, and our Hydra plugins in a checkout, on Python's path."""
    plugins = Path(__file__).resolve().parents[1] / "launch" / "plugins"
    for folder in (os.getcwd(), str(plugins) if plugins.is_dir() else None):
        if folder is not None and folder not in sys.path:
            sys.path.append(folder)
