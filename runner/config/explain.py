"""Turns Hydra's errors into ours: what was typed, and the closest match."""

from __future__ import annotations

import enum
import re
import sys
import traceback
from collections.abc import Sequence

from hydra.errors import HydraException, OverrideParseException

from runner.config import schema, serialize, tracker_names
from runner.errors import UserError, literal, nearest, typed

# Whose errors are about what was typed, or about a file of the config.
READERS = ("hydra", "omegaconf", "antlr4", "yaml")


def is_hydra_error(error: BaseException) -> bool:
    """Whether Hydra, or what it reads the command line and YAML with, rejected what was typed.

    For some of it they have no error of their own: any exception that their code raises is meant so.
    """
    from omegaconf.errors import OmegaConfBaseException

    return isinstance(error, (HydraException, OmegaConfBaseException)) or _owner(error) in READERS


def _owner(error: BaseException) -> str | None:
    """The package whose code raised `error`; Python's own code belongs to who called it."""
    frames = [
        str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    return next((name for name in reversed(frames) if name not in sys.stdlib_module_names), None)


def explain(error: BaseException) -> UserError:
    """Hydra's error as one sentence with what to type, if it is about a name; otherwise Hydra's message."""
    text = str(error)
    cause = str(error.__cause__ or "")
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, choice = match[1], match[2]
        return _unknown_choice(group, choice, _choices(text))
    if match := re.search(r"Could not override '([^']+)'\.\nTo append to your config use \+(\S+)", text):
        return _unknown_key(match[1], match[2])
    if match := re.search(r"Could not override '([^']+)'\. No match in the defaults list\.\n.* use (\S+?)\.?$", text):
        return UserError(f"{match[1]}: this config, a saved one, has no choice to replace", match[2])
    if match := re.search(r"Error merging override (.+)", text):
        reason = cause.splitlines()[0].rstrip(".") if cause else "it does not fit"
        key, _, value = match[1].partition("=")
        return UserError(f"{match[1]}: {reason}", _member_of(key, value) or _whole(key, value) or _default_of(key))
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, " ".join(text.splitlines()[0].split()))
    lines = [line.strip() for line in f"{text}\n{cause}".splitlines() if line.strip()]
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"a file of the config is not UTF-8: {text}", "iconv -f latin1 -t utf-8 FILE > NEW")
    if isinstance(error, OSError) and error.filename is not None:  # of the folder that a sweeper or job makes first
        blocked = isinstance(error, (FileExistsError, NotADirectoryError))
        why = "a file is in its place" if blocked else error.strerror
        return UserError(f"output folder {error.filename}: {why}", "the same without it, and output_root=FOLDER")
    if not isinstance(error, HydraException) and not type(error).__module__.startswith("omegaconf"):
        lines = [f"Hydra can't read what was typed: {' '.join(lines) or type(error).__name__}"]
    return UserError("\n".join(lines[:5]).rstrip("."))


def _unreadable(override: str, reason: str) -> UserError:
    if re.fullmatch(r"[A-Za-z_][\w.]*(:\w+|\.[A-Z]\w*)", override):
        what = "a layer's class or factory by itself, where KEY=VALUE is wanted"
        return UserError(f"{override}: {what}", f"layer.target={override}")
    if re.fullmatch(r"[\w./-]+", override):
        layers = [] if "." in override else schema.layer_names()
        close = nearest(override, [*layers, *serialize.defaults()], cutoff=0.7)
        suggestion = f"layer={close}" if close in layers else _default_of(close or "")
        return UserError(f"{override}: a word by itself, where KEY=VALUE is wanted", suggestion or serialize.ALL_KEYS)
    return UserError(f"{override}: {reason}", "\"KEY='VALUE'\" around a value with blanks, brackets or signs")


def _unknown_choice(group: str, choice: str, choices: Sequence[str]) -> UserError:
    close = nearest(choice, choices)
    if group == "layer":
        reason = f"no such layer; there are {', '.join(choices)}"
        return UserError(f"layer={choice}: {reason}", f"layer={close or 'custom layer.target=my_pkg.MyLayer'}")
    if group == "tracking" and choice in tracker_names.installed():
        return UserError(f"tracking={choice}: it is a tracker without a file of settings", f"tracking.name={choice}")
    there = f"; there are {', '.join(choices)}" if choices else ""
    return UserError(f"{group}={choice}: no such choice{there}", f"{group}={close}" if close else None)


def _unknown_key(key: str, override: str) -> UserError:
    value = override.partition("=")[2]
    if member := _member_of(key, value):
        return UserError(f"{key}={value}: {key} is a group of keys", member)
    known = list(serialize.defaults())
    groups = sorted({name.partition(".")[0] for name in known})
    close = _near_open(key) or serialize.meant(key.removeprefix("hydra.sweeper."), [*known, *groups])
    return UserError(f"{key}={value}: no such key", typed(close, value) if close else serialize.ALL_KEYS)


def _near_open(key: str) -> str | None:
    """`key` under the intended node, if the name of a node that accepts any key was misspelt."""
    parts = key.split(".")
    for depth in range(1, len(parts)):
        if close := nearest(
            ".".join(parts[:depth]), [name for name in schema.OPEN_NODES if name.count(".") == depth - 1]
        ):
            return ".".join([close, *parts[depth:]])
    return None


def _member_of(group: str, value: str) -> str | None:
    """The first key of a group of settings that got a bare value: `mesh.axes` for `mesh={data:2}`."""
    members = [key for key in serialize.defaults() if key.startswith(f"{group}.")]
    named = any(value.startswith(f"{{{key.removeprefix(f'{group}.')}:") for key in members)
    return typed(members[0], value) if members and not named else None


def _whole(key: str, value: str) -> str | None:
    """`train.steps=1000` for `train.steps=1e3`: a whole number where one is wanted."""
    if type(serialize.defaults().get(key)) is not int:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return f"{key}={int(number)}" if number.is_integer() and abs(number) < 2**53 else None


def _default_of(key: str) -> str | None:
    default = serialize.defaults().get(key)
    return None if default is None else f"{key}={literal(default.value if isinstance(default, enum.Enum) else default)}"


def _choices(text: str) -> list[str]:
    _, _, rest = text.partition("Available options in")
    return re.findall(r"^\t([^\s=]+)$", rest, flags=re.MULTILINE)
