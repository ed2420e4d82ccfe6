"""The memory that is free for this process: of the machine, and within its container's or job's limit (Linux)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# Limits, use, and the file cache that counts as used but is given back, by version of the control groups.
CGROUP_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


def free_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still get; None where that is not known.

    Args:
      root: Where `proc` and `sys` are found.
    """
    found = _numbers(root / "proc/meminfo")
    free = [1024 * (found["MemAvailable"] + found.get("SwapFree", 0))] if "MemAvailable" in found else []
    return min([*free, *_left_in_groups(root)], default=None)


def num_oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes this machine's kernel has killed for want of memory since it started; None if not known."""
    return _numbers(root / "proc/vmstat").get("oom_kill")


def _left_in_groups(root: Path) -> Iterator[int]:
    """What the limits of the control groups that this process is in leave."""
    for group in _groups(root):
        for limit_name, used_name, cached in CGROUP_FILES:
            limit, used = _text(group / limit_name).strip(), _text(group / used_name).strip()
            if limit.isdigit() and used.isdigit():
                stat = _numbers(group / "memory.stat")
                yield max(int(limit) - int(used) + sum(stat.get(name, 0) for name in cached), 0)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the groups, up to the topmost: a limit holds for all below it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, controllers_and_path = line.partition(":")
        controllers, _, path = controllers_and_path.partition(":")
        if controllers in ("", "memory"):
            top = root / "sys/fs/cgroup" / controllers
            below = top / path.lstrip("/")
            yield from (one for one in (below, *below.parents) if one == top or top in one.parents)


def _numbers(path: Path) -> dict[str, int]:
    """Lines such as `MemAvailable: 12 kB` or `oom_kill 0`."""
    return {name: int(number) for name, number in re.findall(r"^(\w+):?\s+(\d+)", _text(path), re.MULTILINE)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
