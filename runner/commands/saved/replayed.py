"""The command line that a sweep's plan keeps, as far as it may be replayed: a stranger may have written it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from runner.commands.typed.hydra_command import MULTIRUN
from runner.commands.typed.saved_config import DIR_FLAGS, NAME_FLAGS, PATH_FLAGS
from runner.config import conf_folder, schema
from runner.config.settings.run import Run
from runner.errors import UserError, listed

# An override: what is before its key (append, delete), the key, and the value.
OVERRIDE = re.compile(r"(?:\+{1,2}|~)?([A-Za-z_][\w./-]*)(?:=(.*))?", re.DOTALL)

# Where the sweep lies, which `resume` itself says.
FOLDERS = ("hydra.sweep.dir=", "hydra.run.dir=")

# Choices of Hydra's own groups that start nothing of their own: files of ours.
SWEEPERS = re.compile(
    r"hydra/sweeper=(optuna|bridge_runner|basic)|hydra/sweeper/sampler=(random|tpe)|"
    r"hydra\.sweeper\.max_batch_size=\d+"
)

# Hydra's flags that say where configs are; the others (`--experimental-rerun` unpickles a file) are never replayed.
CONFIG_FLAGS = (*PATH_FLAGS, *DIR_FLAGS, *NAME_FLAGS)

# Where an earlier version had `fast`, which wrote as Orbax does.
WRITERS = re.compile(r"checkpoint(\.writer)?=[\w,]+")

# JAX's compilation cache holds compiled programs: a folder named by a stranger is his code.
OWN_CACHES = ("auto", "off", "on")

TRUST = "the same with --trust"
MAX_LISTED = 3


def command(origin: Mapping[str, Any], *, trust: bool) -> list[str]:
    """The words of a sweep's command line that `resume` replays.

    Args:
      origin: `command` and `cwd`, as the plan keeps them.
      trust: Whether words may be replayed that run code before any config is read.

    Raises:
      UserError: The plan has none, or its words need trust, or are flags that are never replayed.
    """
    words = origin.get("command")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError("the plan of this sweep keeps no command line", "the sweep's command line again")
    # A search that was resumed before has one of these already.
    words = [_of_today(word) for word in words if not word.startswith(FOLDERS)]
    if never := [word for word in words if word.startswith("-") and not _is_of_configs(word) and word not in MULTIRUN]:
        flags = listed(never, MAX_LISTED)
        raise UserError(f"the plan of this sweep has {flags}, which is not replayed", "the sweep's command line again")
    if not trust and (foreign := list(_need_trust(words))):
        what = f"resuming this sweep replays {listed(foreign, MAX_LISTED)}, which may run its code"
        raise UserError(what, TRUST)
    return words


def _of_today(word: str) -> str:
    """An override of an earlier version as it is now."""
    if not WRITERS.fullmatch(word):
        return word
    key, _, values = word.partition("=")
    return f"{key}={','.join('orbax' if value == 'fast' else value for value in values.split(','))}"


def require_trusted(run: Run) -> None:
    """Refuses a config that runs code which is neither ours, flax's nor jax's.

    Raises:
      UserError: The config imports another module, or names a folder of compiled programs.
    """
    from runner.bridge.trust import foreign_code

    if foreign := foreign_code(run):
        raise UserError(f"resuming this sweep imports {', '.join(foreign)}, which runs its code", TRUST)
    if run.process.compilation_cache not in OWN_CACHES:
        what = f"process.compilation_cache={run.process.compilation_cache} holds compiled programs, which are code"
        raise UserError(f"resuming this sweep runs code: {what}", TRUST)


def _need_trust(words: Sequence[str]) -> list[str]:
    """The words that are no overrides of our own keys."""
    own = {item.name for item in dataclasses.fields(schema.Schema)}
    own |= {path.name for path in conf_folder.config_dir().iterdir() if path.is_dir()} - {"hydra"}
    return [word for word in words if word not in MULTIRUN and not _is_own(word, own)]


def _is_own(word: str, own: set[str]) -> bool:
    if SWEEPERS.fullmatch(word):
        return True
    match = OVERRIDE.fullmatch(word)
    if match is None:
        return False
    key, value = match[1], match[2] or ""
    # The name of a group's file must not lead out of conf/.
    leads_out = "." not in key and (".." in value or value.startswith("/"))
    return re.split(r"[./]", key)[0] in own and not (leads_out and _is_group(key))


def _is_group(key: str) -> bool:
    return (conf_folder.config_dir() / key).is_dir()


def _is_of_configs(word: str) -> bool:
    return word.partition("=")[0] in CONFIG_FLAGS
