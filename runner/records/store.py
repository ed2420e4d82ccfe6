"""What a sweep leaves, written and read again: atomic files, records, outputs, plans.

What is on disk is what happened: files are written beside and renamed, the record of a run last, and only a flushed
line of the journal means that the run is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import StorageError, nearest
from runner.records import locks
from runner.records.journal import Event, in_order
from runner.records.journal import Journal as Journal
from runner.records.journal import read_journal as read_journal
from runner.records.paths import SUGGESTED_ROOT, RunFolder, SweepFolder
from runner.records.record import Record, Row, Status, Trial, data_to_json, from_json, is_whole, to_json

if TYPE_CHECKING:
    import numpy as np

# numpy is imported where arrays are read and written: lists of runs do without it, and it takes 50 ms.

PLAN_VERSION = 1

# Events of the journal that say how a run ended.
STATUSES = frozenset(status.value for status in Status)

# The event of a run whose checkpoint was removed.
REMOVED = "removed"

# The leaves have digests of their own: hashing a large file of a checkpoint again would cost as much as saving it.
HASHED_BYTES = 2**20


def make_sweep_folder(folder: SweepFolder) -> None:
    """Makes the folder of a sweep, if it is not there yet.

    Raises:
      StorageError: It can't be made.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"output folder {folder.path}: {error.strerror or error}", SUGGESTED_ROOT) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Puts `content` at `path`: all of it or nothing, and on the disk when this returns."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_record(folder: RunFolder, record: Record) -> None:
    """Writes the record of a run."""
    write_atomic(folder.record, to_json(record))


def read_record(folder: RunFolder) -> Record:
    """The record of a run.

    Raises:
      StorageError: There is none, it is damaged or of another version, or names a path out of the run's folder.
    """
    try:
        text = folder.record.read_bytes()
    except OSError as error:
        raise StorageError(f"{folder.record}: {error.strerror or error}") from error
    record = from_json(text, str(folder.record))
    for saved in (record.checkpoint, record.train.state if record.train else None):
        if saved is not None:
            inside(folder, saved.path)
    return record


def has_whole_record(folder: RunFolder) -> bool:
    """Whether a run's record is there as it was written."""
    try:
        return is_whole(folder.record.read_bytes())
    except OSError:
        return False


def read_json(path: Path) -> Any:
    """The JSON data of a file.

    Raises:
      StorageError: It can't be read, or is damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise StorageError(f"{path} is damaged: {error}") from error


def read_records(folders: Iterable[RunFolder]) -> Iterator[Record]:
    """The records that are there, one after the other: 10,000 at once take a gigabyte."""
    return (read_record(folder) for folder in folders if folder.record.exists())


def write_output(folder: RunFolder, output: Mapping[str, np.ndarray]) -> None:
    """Writes the output: `output.npy`, or `output.npz` with one entry a path. Types that NumPy has no name for
    (bfloat16, float8) are kept as unsigned integers of their bits; the record has the type."""
    import numpy as np

    arrays = {path: _plain_bits(array) for path, array in output.items()}
    single = list(arrays) == [""]
    buffer = io.BytesIO()
    if single:
        np.save(buffer, arrays[""], allow_pickle=False)
    else:
        # As np.savez, which takes names as keywords and so can't have an array called `file`.
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, array in arrays.items():
                with archive.open(_entry(path), "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
    write_atomic(folder.output(single=single), buffer.getvalue())


def read_output(folder: RunFolder, record: Record) -> dict[str, np.ndarray]:
    """The arrays that `write_output` wrote, with the types of the record.

    Raises:
      StorageError: A file is missing or damaged.
    """
    import numpy as np

    single = [array.path for array in record.output] == [""]
    path = inside(folder, folder.output(single=single).name)
    try:
        with open(path, "rb") as file:  # np.load leaves its own open where it raises, and an archive too
            loaded = np.load(file, allow_pickle=False)
            arrays = {"": loaded} if single else {array.path: loaded[_entry(array.path)] for array in record.output}
    except Exception as error:  # a damaged header raises whatever Python's tokenizer does
        raise StorageError(f"{path}: {type(error).__name__}: {error}") from error
    return {array.path: _typed_bits(arrays[array.path], array.dtype) for array in record.output}


def read_events(folder: SweepFolder) -> list[Event]:
    """The events of all journals of a sweep, in order.

    Raises:
      StorageError: A line in the middle of a journal is damaged.
    """
    submissions = {
        number: [event for path in submission.journals() for event in read_journal(path)]
        for number, submission in folder.submissions().items()
    }
    return in_order(read_journal(folder.journal), submissions)


def journal_sizes(folder: SweepFolder) -> dict[str, int]:
    """Bytes of every journal of a sweep, by its path in the folder: what stands behind them later is news."""
    paths = [path for submission in folder.submissions().values() for path in submission.journals()]
    paths += [folder.journal] if folder.journal.exists() else []
    return {path.relative_to(folder.path).as_posix(): path.stat().st_size for path in paths}


def read_news(folder: SweepFolder, seen: Mapping[str, int]) -> Iterator[Event]:
    """The events that have come to the journals of a sweep since they were as long as `journal_sizes` said."""
    for name, size in journal_sizes(folder).items():
        if size > seen.get(name, 0):
            yield from read_journal(folder.path / name, offset=seen.get(name, 0))


def write_plan(folder: SweepFolder, plan: Mapping[str, Any]) -> None:
    """Writes what the sweep is going to do."""
    write_atomic(folder.plan, data_to_json({"plan_version": PLAN_VERSION, **plan}) + b"\n")


def read_plan(folder: SweepFolder) -> dict[str, Any]:
    """What the sweep was going to do.

    Raises:
      StorageError: The folder is no sweep, or one of another version.
    """
    try:
        plan = json.loads(folder.plan.read_bytes())
    except OSError as error:
        raise StorageError(
            f"{folder.path} is no sweep: it has no {folder.plan.name}", _suggest_sweep(folder.path)
        ) from error
    except ValueError as error:
        raise StorageError(f"{folder.plan} is damaged: {error}") from error
    if not isinstance(plan, dict) or plan.get("plan_version") != PLAN_VERSION:
        found = plan.get("plan_version") if isinstance(plan, dict) else None
        raise StorageError(f"{folder.plan} has version {found}, this program reads {PLAN_VERSION}")
    return plan


def read_rows(folder: SweepFolder) -> list[Row]:
    """One line for every run of a sweep, from the plan and the journal alone; a run not in the journal is `missing`.

    Raises:
      StorageError: The folder is no sweep, or its journal is damaged.
    """
    rows = {
        run["run_id"]: Row(
            num=run["num"],
            run_id=run["run_id"],
            status="missing",
            layer=run["layer"],
            device=run["settings"]["device"],
            settings=run["settings"],
        )
        for run in read_plan(folder)["runs"]
    }
    known = {item.name for item in dataclasses.fields(Row)}
    for event in read_events(folder):
        if event.get("run_id") in rows and event["event"] in STATUSES:
            values = {key: value for key, value in event.items() if key in known}
            rows[event["run_id"]] = dataclasses.replace(rows[event["run_id"]], status=event["event"], **values)
        elif event["event"] == REMOVED and event["run_id"] in rows:
            rows[event["run_id"]] = dataclasses.replace(rows[event["run_id"]], checkpoint_bytes=None)
    for trial in sorted(read_trials(folder), key=lambda trial: -trial.number):
        if trial.run_id in rows:
            rows[trial.run_id] = dataclasses.replace(rows[trial.run_id], trial=trial.number, objective=trial.value)
    return list(rows.values())


def read_trials(folder: SweepFolder) -> list[Trial]:
    """The trials of a search that were told, in that order; none of a sweep that is no search.

    Raises:
      StorageError: A line is damaged.
    """
    known = {item.name for item in dataclasses.fields(Trial)}
    lines = read_journal(folder.trials)
    return [Trial(**{key: value for key, value in line.items() if key in known}) for line in lines]


def find_sweeps(root: Path) -> list[SweepFolder]:
    """The sweeps in a folder, oldest plan first."""
    plans = sorted(root.glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    return [SweepFolder(path.parent) for path in plans]


def find_run(path: Path) -> RunFolder:
    """The run at `path`: its folder, its record, or a sweep's folder and the first letters of the run's name.

    Raises:
      StorageError: None is there, or more than one.
    """
    folder = path.parent if path.name == "record.json" else path
    # os.path answers for names that no file system takes, where pathlib raises.
    if os.path.exists(folder / "record.json"):
        return RunFolder(folder)
    first_letters = f"runs/{glob.escape(folder.name)}*/record.json"
    found = sorted(folder.parent.glob(first_letters)) or sorted(folder.glob("runs/*/record.json"))
    exact = [record for record in found if record.parent.name.split("-")[0] == folder.name]
    found = exact or found
    if len(found) == 1:
        return RunFolder(found[0].parent)
    if found:
        suggestion = f"bridge-runner show {found[0].parent}"
        raise StorageError(f"{path}: {len(found)} runs are there, one is wanted", suggestion)
    raise StorageError(f"{path} is no run: it has no record.json", "bridge-runner ls SWEEP")


def find_runs(path: Path) -> tuple[list[RunFolder], list[str]]:
    """The run at `path`, or those of a sweep that are done or failed, and the names of those whose folder is gone.

    Raises:
      StorageError: It is neither a run nor a sweep, or no run of the sweep is done.
    """
    sweep = SweepFolder(path)
    if not sweep.plan.exists():
        return [find_run(path)], []
    rows = [row for row in read_rows(sweep) if row.status in STATUSES]
    if not rows:
        raise StorageError(f"{path}: no run of this sweep is done", f"bridge-runner resume {path}")
    folders = [sweep.run(row.num, row.run_id) for row in rows]
    return [one for one in folders if one.path.is_dir()], [one.path.name for one in folders if not one.path.is_dir()]


def make_run_folder(folder: RunFolder) -> None:
    """Makes an empty folder for a run.

    Raises:
      StorageError: One is there: no run is ever written over another.
    """
    try:
        folder.path.mkdir(parents=True)
    except FileExistsError:
        raise StorageError(f"{folder.path} is there already and is not overwritten") from None


def remove_unfinished(folder: RunFolder, *, but_steps: bool = False) -> None:
    """Removes what a run left that was interrupted before the journal had it; with `but_steps` not the steps."""
    if not (but_steps and folder.steps.is_dir()):
        if folder.path.exists():
            shutil.rmtree(folder.path)
        return
    for path in folder.path.iterdir():
        if path.is_dir() and path != folder.steps:
            shutil.rmtree(path)
        elif path != folder.steps:
            path.unlink()


def remove_checkpoint(folder: RunFolder) -> None:
    """Removes the checkpoints of a run whose record says so and is on the disk."""
    descriptor = os.open(folder.path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for path in folder.checkpoints:
        shutil.rmtree(path, ignore_errors=True)


def is_of_checkpoint(name: str) -> bool:
    """Whether a file of a run's folder, by its relative path, is one of a checkpoint's."""
    return name.partition("/")[0] in {path.name for path in RunFolder(Path()).checkpoints}


def archive_run(folder: RunFolder) -> None:
    """Moves a failed or stale run aside (`<folder>.old-<n>`), so that it can be done again and nothing is lost."""
    if not folder.path.exists():
        return
    number = 1
    while (aside := folder.path.with_name(f"{folder.path.name}.old-{number}")).exists():
        number += 1
    os.rename(folder.path, aside)


@contextlib.contextmanager
def locked(folder: SweepFolder) -> Iterator[None]:
    """Holds the folder for this process; the lock goes with the process, however it ends.

    Raises:
      StorageError: Another process works there.
    """
    with locks.whole(folder.lock) as taken:
        if not taken:
            raise StorageError(
                f"{folder.path}: another process works on this sweep", "wait for it, or sweep=another_name"
            )
        yield


def inside(folder: RunFolder, relative: str) -> Path:
    """The path that a record names, which lies in the run's folder.

    Raises:
      StorageError: It leads out of it.
    """
    path = folder.path / relative
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder.path)):
        raise StorageError(f"{folder.record}: the path {relative} leads out of the run's folder")
    return path


def links(folder: RunFolder) -> list[str]:
    """Relative paths of the symbolic links in a run's folder; no run writes one."""
    return sorted(path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_symlink())


def file_digests(folder: RunFolder) -> dict[str, str]:
    """What every file of a run's folder but its record holds: `sha256:…`, or of a large one its size (`123 bytes`)."""
    files = sorted(path for path in folder.path.rglob("*") if path.is_file() and path != folder.record)
    return {path.relative_to(folder.path).as_posix(): file_digest(path) for path in files}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or its size where that is over `HASHED_BYTES`."""
    num_bytes = path.stat().st_size
    if num_bytes > HASHED_BYTES:
        return f"{num_bytes} bytes"
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def folder_bytes(path: Path) -> int:
    """Size of all files below `path`."""
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())


def _suggest_sweep(path: Path) -> str | None:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    sweeps = [name for name in siblings if (path.parent / name / "sweep.json").exists()]
    close = nearest(path.name, sweeps)
    return str(path.parent / close) if close else None


def _entry(path: str) -> str:
    return f"{path or 'output'}.npy"


def _plain_bits(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")


def _typed_bits(array: np.ndarray, dtype: str) -> np.ndarray:
    import ml_dtypes
    import numpy as np

    if array.dtype.name == dtype:
        return array
    return array.view(np.dtype(getattr(ml_dtypes, dtype, dtype)))
