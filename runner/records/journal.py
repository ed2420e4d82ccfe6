"""Journals: what happened to the runs of a sweep, one line per event.

Each has a single writer. A sweep in one process has one; a submission to a separate engine has one per job and one for
the submitting process. Merged in order, they are the source of truth after a crash.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import IO, Any

from runner.errors import StorageError
from runner.records.codec import loads
from runner.records.disk import plain_files
from runner.records.row import Row

Event = dict[str, Any]


# Ends every line: the start of the SHA-256 of what is before it, so that a flipped bit is detected.
DIGEST_CHARACTERS = 16

# The types of what is read from a line, by key; others may be anything.
_NUMBER, _COUNT, _TEXT = (int, float, NoneType), (int, NoneType), (str, NoneType)
KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("event", "layer", "device", "software_id", "program_id"), (str,)),
    **dict.fromkeys(("run_id", "error"), _TEXT),
    **dict.fromkeys(("num", "num_params", "number", "after"), (int,)),
    "checkpoint_bytes": _COUNT,
    **dict.fromkeys(("output_norm", "apply_s", "loss_first", "loss_last", "value"), _NUMBER),
    **dict.fromkeys(("apply_flags", "failed_checks", "overrides", "run_ids"), (list,)),
}

# Those of them that are lists, of texts.
LISTS = [key for key, kinds in KINDS.items() if kinds == (list,)]

SEAL_BYTES = len(',"digest":""}') + DIGEST_CHARACTERS

# Row fields that come from other files.
ELSEWHERE = ("settings", "overrides", "trial", "objective")


class Journal:
    """An append-only log, one line per event, flushed before work continues; locked by one process for its lifetime.

    Args:
      path: The file. Waits while another process holds it: a requeued job may overlap with its previous attempt.
      waiting: Called before such a wait.

    Attributes:
      path: The file.

    Raises:
      StorageError: The file is a link, a FIFO or a device.
    """

    def __init__(self, path: Path, waiting: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._file = plain_files.append(path)  # kept open for the life of the sweep
        try:
            try:
                fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(self._file.fileno(), fcntl.LOCK_EX)
            _drop_torn_tail(self._file)
        except BaseException:
            self._file.close()
            raise

    def append(self, event: str, *, sync: bool = True, **values: Any) -> None:
        """Appends a line; with `sync`, waits until it is on disk."""
        self._file.write(to_line({"event": event, **values}))
        if sync:
            os.fsync(self._file.fileno())

    def append_run(self, row: Row, *, software_id: str, sync: bool = True) -> None:
        """Appends the line that marks a run as finished, as in `append`; the event is the run's status."""
        # Not asdict: it copies the whole config, which the journal does not need, and takes milliseconds.
        values = {key: value for key, value in vars(row).items() if key not in ELSEWHERE}
        self.append(values.pop("status"), sync=sync, **values, software_id=software_id)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def to_line(event: Event) -> bytes:
    """`event` as a line of a journal, sealed by its digest."""
    text = json.dumps(event, separators=(",", ":")).encode().removesuffix(b"}")
    return text + _seal(text) + b"\n"


def from_line(line: bytes) -> Event:
    """The event of a line.

    Raises:
      ValueError: The line is not what was written.
    """
    event = loads(_unsealed(line) + b"}")
    if not _are_events([event]):
        raise ValueError("it is no event")
    assert isinstance(event, dict)
    return event


def _from_lines(lines: Sequence[bytes]) -> list[Event] | None:
    """The events of lines, parsed together, which is faster; None if one of them is not what was written."""
    try:
        events = loads(b"[" + b"},".join(map(_unsealed, lines)) + b"}]") if lines else []
    except ValueError:
        return None
    return events if len(events) == len(lines) and _are_events(events) else None


def _unsealed(line: bytes) -> bytes:
    """What a line says, without its digest and the closing brace.

    Raises:
      ValueError: The line is not what was written.
    """
    line = line.rstrip()
    text = line[:-SEAL_BYTES]
    if line[-SEAL_BYTES:] != _seal(text):
        raise ValueError("the line is not what was written, by its digest")
    return text


def _are_events(data: Sequence[Any]) -> bool:
    """Whether every value that is read from lines is of the type that is written there; lists are of texts."""
    if not set(map(type, data)) <= {dict}:
        return False
    # Most lines have the same keys and types: these are looked at once.
    forms = {(tuple(one), tuple(map(type, one.values()))) for one in data}
    if not all("event" in keys and _are_of_kinds(keys, types) for keys, types in forms):
        return False
    return {type(text) for one in data for key in LISTS if key in one for text in one[key]} <= {str}


def _are_of_kinds(keys: Sequence[str], types: Sequence[type]) -> bool:
    return all(kind in KINDS.get(key, (kind,)) for key, kind in zip(keys, types, strict=True))


def _seal(text: bytes) -> bytes:
    """What ends a line, after its text."""
    return b',"digest":"%s"}' % hashlib.sha256(text).hexdigest()[:DIGEST_CHARACTERS].encode()


def read_journal(path: Path, *, offset: int = 0) -> list[Event]:
    """Reads the events of a journal; a torn last line is skipped.

    Args:
      path: The file; a missing one has no events.
      offset: Bytes to skip, up to the end of a line.

    Raises:
      StorageError: A line other than the last is damaged.
    """
    if not path.exists():
        return []
    events = []
    try:
        with plain_files.opened(path) as file:
            file.seek(offset)
            lines = file.read().split(b"\n")
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    whole = _from_lines([line for line in lines if line.strip()])
    if whole is not None:
        return whole
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = from_line(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise StorageError(
                f"{path} line {number} is damaged", f"sed -i {number}d {path}, then the same sweep again"
            ) from error
        events.append(event)
    return events


def read_on(path: Path, position: int) -> tuple[list[Event], int]:
    """The events of a journal from an offset on, and the offset after them: for following a live sweep.

    Raises:
      StorageError: A whole line is damaged.
    """
    if not path.exists():
        return [], position
    with open(path, "rb") as file:
        file.seek(position)
        new = file.read()
    whole = new[: new.rfind(b"\n") + 1]
    try:
        return [from_line(line) for line in whole.splitlines() if line.strip()], position + len(whole)
    except ValueError as error:
        raise StorageError(f"{path} is damaged after byte {position}: {error}") from error


def in_order(own: Sequence[Event], submissions: Mapping[int, Sequence[Event]]) -> list[Event]:
    """Merges all events of a sweep into the order in which they happened.

    By attempt, not by clock, since clocks differ between machines: an attempt in the sweep's own journal starts with
    the number of submissions before it, and within one submission a run belongs to one job.

    Args:
      own: Events of the sweep's own journal.
      submissions: Events of each submission's journals, by submission number from 1.
    """
    sections: list[tuple[int, int, Sequence[Event]]] = [(number, 0, events) for number, events in submissions.items()]
    starts = [index for index, event in enumerate(own) if event["event"] == "start"] or [0]
    starts[0] = 0
    for start, end in zip(starts, [*starts[1:], len(own)], strict=True):
        if start < end:
            sections.append((int(own[start].get("after", 0)), 1, own[start:end]))
    sections.sort(key=lambda section: section[:2])
    return [event for _, _, events in sections for event in events]


def is_held(path: Path) -> bool:
    """Whether a process, on this machine or another that shares the folder, has the journal open."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _drop_torn_tail(file: IO[Any]) -> None:
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        file.truncate(whole)
