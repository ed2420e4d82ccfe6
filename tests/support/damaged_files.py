"""What a disk or a person may do to a file of ours; each takes the file and a source of chance."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

LISTS = (b"[]", b"[1,2]", b"- a\n- b\n", b"null", b'"x"', b"{}", b"1", b"[[[[", b"NaN")


def flip(path: Path, chance: random.Random) -> None:
    """One bit is another one."""
    content = bytearray(path.read_bytes())
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    """The end is missing."""
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content) + 1)])


def empty(path: Path, chance: random.Random) -> None:
    """Nothing is in it."""
    path.write_bytes(b"")


def listed(path: Path, chance: random.Random) -> None:
    """It holds a list, or other JSON and YAML than ours."""
    path.write_bytes(chance.choice(LISTS))


def unreadable(path: Path, chance: random.Random) -> None:
    """A folder, a FIFO, a link to nowhere, to itself or to a device: root may read a file of any mode."""
    path.unlink()
    kind = chance.choice(["folder", "fifo", "fifo", "nowhere", "itself", "device"])
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to({"nowhere": "/nope/x", "itself": path.name, "device": "/dev/zero"}[kind])


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (flip, cut, empty, listed, unreadable)
