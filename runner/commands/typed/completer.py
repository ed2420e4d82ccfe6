"""Completes the last word of a command line, from conf/ and the folders in outputs/, without Hydra or JAX."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from runner.commands.typed import verb
from runner.commands.typed.verb import VERBS, PathKind, Verb
from runner.config import conf_folder
from runner.records.paths import SweepFolder

DEFAULT_ROOT = "outputs"

# Flags that need no verb; the last ones are Hydra's.
FLAGS = ("--help", "--version", "-m", "--multirun", "--cfg", "--config-dir", "--hydra-help", "--info", "--resolve")
CONFIG_DIR = ("--config-dir", "-cd")


def complete(words: Sequence[str]) -> list[str]:
    """Sorted completions of the last of `words`.

    Those that end with `=`, `/` or `.` are prefixes; the others are complete.

    Args:
      words: What was typed after the program name; the last word is unfinished and may be empty.
    """
    *before, current = words or [""]
    found: Iterable[str]
    name = next((word for word in before if not word.startswith("-")), None)
    if name in VERBS:
        found = _of_verb(verb.load(str(name)), before, current)
    elif current.startswith("-"):
        found = FLAGS
    else:
        found = _overrides(before, current, plus=True)
        if name is None:
            found = (*VERBS, *found)
    return sorted({one for one in found if one.startswith(current)})


def _of_verb(found: Verb, before: Sequence[str], current: str) -> Iterator[str]:
    """What may follow a verb: flags and their values, paths, overrides, other verbs."""
    parser = found.parser()
    counts = parser.value_counts()
    last = before[-1] if before else ""
    if current.startswith("-"):
        yield from counts
        yield from FLAGS[2:4] if found.takes_overrides else ()
    elif counts.get(last):
        yield from parser.values(last)
        yield from _paths(current, found.paths.get(last.lstrip("-")))
    elif found.name == "help":
        yield from VERBS
    elif found.name == "completion":
        yield from ("bash", "zsh", "fish")
    elif found.takes_overrides or (found.name == "resume" and last != "resume"):
        yield from _overrides(before, current, plus=True)
    else:
        dests = [dest for dest in parser.positionals() if dest in found.paths]
        yield from _paths(current, found.paths[dests[0]] if dests else None)


# Sweeps and runs.


def _paths(current: str, kind: PathKind | None) -> Iterator[str]:
    """Sweeps, and runs if this kind of path allows them, below the folder typed so far."""
    if kind is None:
        return
    typed = current.rpartition("/")[0] or ("/" if current.startswith("/") else "")
    folder = typed or ("" if Path(current or DEFAULT_ROOT) != Path(DEFAULT_ROOT) else DEFAULT_ROOT)
    if not typed and DEFAULT_ROOT.startswith(current):
        folder = DEFAULT_ROOT
    runs_of = Path(folder).parent if Path(folder).name == "runs" else Path(folder)
    if SweepFolder(runs_of).plan.exists():
        if kind in ("run", "either"):
            yield from (str(path) for path in (runs_of / "runs").glob("*-*"))
        return
    for path in Path(folder or ".").glob("*/"):
        if SweepFolder(path).plan.exists():
            yield f"{path}/" if kind == "run" else str(path)
        elif not path.name.startswith("."):
            yield f"{path}/"


# Keys and choices.


def _overrides(before: Sequence[str], current: str, *, plus: bool) -> Iterator[str]:
    """Keys and groups, or after `=` the choices for one."""
    groups = _groups(before)
    signs = re.match(r"[+~]*", current)
    sign = signs[0] if signs else ""
    key, equals, value = current[len(sign) :].partition("=")
    if equals:
        done = value[: value.rfind(",") + 1]
        choices = groups.get(key) or _values(key)
        yield from (f"{sign}{key}={done}{choice}" for choice in choices)
        return
    added = _added(groups)
    yield from (f"{sign or ('+' if name in added else '')}{name}=" for name in groups)
    yield from (f"{sign}{name}=" for name in _keys() if ("." in name) == ("." in key))
    if "." not in key:
        heads = dict.fromkeys(name.partition(".")[0] for name in _keys() if "." in name)
        yield from (f"{sign}{head}." for head in heads if head not in groups)


def _groups(before: Sequence[str]) -> dict[str, list[str]]:
    """Choices of every group in conf/ and in the folder given by `--config-dir`."""
    roots = [conf_folder.config_dir()]
    roots += [Path(folder) for flag, folder in itertools.pairwise(before) if flag in CONFIG_DIR]
    roots += [Path(word.partition("=")[2]) for word in before if word.startswith("--config-dir=")]
    found: dict[str, list[str]] = {}
    for root in roots:
        for path in root.rglob("*.yaml"):
            if path.parent != root:
                found.setdefault(path.parent.relative_to(root).as_posix(), []).append(path.stem)
    return found


def _added(groups: dict[str, list[str]]) -> set[str]:
    """Groups that are not in the defaults list, so that they need a `+`."""
    text = (conf_folder.config_dir() / "config.yaml").read_text()
    there = set(re.findall(r"^  - (?:override )?([\w/]+):", text, flags=re.MULTILINE))
    return {name for name in groups if name not in there and not name.startswith("hydra/")}


def _keys() -> dict[str, type]:
    """Every dotted key of the config, and its type."""
    from runner.config import schema

    return dict(_fields(schema.Schema, ""))


def _fields(node: type, prefix: str) -> Iterator[tuple[str, type]]:
    types_of = typing.get_type_hints(node)
    for item in dataclasses.fields(node):
        kind = types_of[item.name]
        if dataclasses.is_dataclass(kind):
            yield from _fields(kind, f"{prefix}{item.name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{item.name}", kind


def _values(key: str) -> list[str]:
    """The values of a key that allows only a few."""
    kind = _keys().get(key)
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    found = []
    for one in kinds:
        if isinstance(one, type) and issubclass(one, enum.Enum):
            found += [str(member.name) for member in one]
        elif one is bool:
            found += ["true", "false"]
    return found
