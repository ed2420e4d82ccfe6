"""Reads and writes a sweep's records, outputs, journals and plans.

The disk never shows partial work: files are written to a temporary name and renamed, a run's record last, and only a
flushed journal line marks the run as done.
"""

from __future__ import annotations

import functools
import io
import os
import shlex
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import StorageError, listed, nearest
from runner.records import plan_form, plan_text
from runner.records.codec import SMALL_BYTES, data_to_json, from_json, is_sealed, is_whole, loads, parse, seal, to_json
from runner.records.disk import plain_files
from runner.records.disk.files import inside, write_all_atomic, write_atomic
from runner.records.journal import Event, in_order, read_journal
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import Record
from runner.records.record_text import RecordTexts

if TYPE_CHECKING:
    import numpy as np


# numpy is imported lazily: listing runs does not need it, and the import takes 50 ms.

PLAN_VERSION = 1


def write_record(folder: RunFolder, record: Record) -> None:
    """Writes the record of a run."""
    write_records([(record, folder)])


def write_records(records: Iterable[tuple[Record, RunFolder]]) -> None:
    """Writes the records of runs, each as a whole."""
    write_all_atomic({folder.record: to_json(record) for record, folder in records})


def read_record(folder: RunFolder, data_of: Callable[[bytes], Any] = parse) -> Record:
    """Reads the record of a run.

    Args:
      folder: The run.
      data_of: Reads JSON as `codec.parse` does.

    Raises:
      StorageError: It is missing, damaged or of another version, or names a path outside the run's folder.
    """
    path = f"{folder.path}/record.json".removeprefix("./")  # a `Path` takes as long to make as the file to be found
    try:
        text = plain_files.read_bytes(path)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    record = from_json(text, path, data_of)
    for saved in (record.checkpoint, record.train.state if record.train else None):
        if saved is not None:
            inside(folder, saved.path)
    return record


def read_sealed(folder: RunFolder) -> dict[str, Any]:
    """Reads the record of a run as JSON data, checked by its seal; quicker than `read_record`.

    Raises:
      StorageError: It is missing, damaged or of another version.
    """
    if not has_whole_record(folder):
        read_record(folder)  # says why
    data = read_json(folder.record)
    assert isinstance(data, dict)
    return data


def has_whole_record(folder: RunFolder) -> bool:
    """Whether a run's record exists and is intact."""
    return is_whole_record(f"{folder.path}/record.json")


def is_whole_record(path: str) -> bool:
    """Whether the file is a record that is intact."""
    try:
        return is_whole(plain_files.read_bytes(path))
    except OSError:
        return False


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
      StorageError: It can't be read, or is damaged.
    """
    try:
        return loads(plain_files.read_bytes(path))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise StorageError(f"{path} is damaged: {error}") from error


def write_data(path: Path, data: Mapping[str, Any]) -> None:
    """Writes an object as JSON that says what it is by its digest."""
    write_atomic(path, seal(data_to_json(data)))


def read_data(path: Path, suggestion: str) -> dict[str, Any]:
    """Reads what `write_data` wrote.

    Args:
      path: The file.
      suggestion: What to do where it is damaged.

    Raises:
      StorageError: It can't be read, or is not what was written.
    """
    try:
        text = plain_files.read_bytes(path)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    if not is_sealed(text):
        raise StorageError(f"{path} is damaged: it is not what was written, by its digest", suggestion)
    data: dict[str, Any] = loads(text)
    del data["digest"]
    return data


def read_records(folders: Iterable[RunFolder]) -> Iterator[Record]:
    """Yields the existing records one at a time: 10,000 at once take a gigabyte.

    They share the values of settings and fingerprints that are the same.
    """
    texts = RecordTexts()
    for folder in folders:
        try:
            record = read_record(folder, texts.data)
        except StorageError:
            if folder.record.exists():
                raise
            continue
        yield record


def write_output(folder: RunFolder, output: Mapping[str, np.ndarray]) -> None:
    """Writes the output: `output.npy`, or `output.npz` with one entry per path. Dtypes that NumPy lacks
    (bfloat16, float8) are stored as unsigned integers of their bits; the record has the dtype. Nothing is flushed."""
    import numpy as np

    arrays = {path: _plain_bits(array) for path, array in output.items()}
    single = list(arrays) == [""]
    buffer = io.BytesIO()
    if single:
        np.save(buffer, arrays[""], allow_pickle=False)
    else:
        # Like np.savez, which takes names as keywords and so rejects an array called `file`.
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, array in arrays.items():
                with archive.open(_entry(path), "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
    with plain_files.create(folder.output(single=single)) as file:
        file.write(buffer.getbuffer())


def read_output(folder: RunFolder, record: Record) -> dict[str, np.ndarray]:
    """Reads the arrays written by `write_output`, with the dtypes of the record.

    Raises:
      StorageError: A file is missing or damaged.
    """
    import numpy as np

    single = [array.path for array in record.output] == [""]
    path = inside(folder, folder.output(single=single).name)
    try:
        with plain_files.opened(path) as file:  # np.load leaks its own file handle when it raises, and for archives too
            loaded = np.load(file, allow_pickle=False)
            arrays = {"": loaded} if single else {array.path: loaded[_entry(array.path)] for array in record.output}
    except Exception as error:  # a damaged header raises whatever Python's tokenizer raises
        raise StorageError(f"{path}: {type(error).__name__}: {error}") from error
    return {array.path: _typed_bits(arrays[array.path], array.dtype) for array in record.output}


def read_events(folder: SweepFolder) -> list[Event]:
    """Reads the events of all journals of a sweep, in order.

    Raises:
      StorageError: A journal line other than the last is damaged.
    """
    submissions = {
        number: [event for path in submission.journals() for event in read_journal(path)]
        for number, submission in folder.submissions().items()
    }
    return in_order(read_journal(folder.journal), submissions)


def journal_sizes(folder: SweepFolder) -> dict[str, int]:
    """Size in bytes of each journal of a sweep, by path in the folder: anything appended later is new."""
    paths = [path for submission in folder.submissions().values() for path in submission.journals()]
    paths += [folder.journal] if folder.journal.exists() else []
    return {path.relative_to(folder.path).as_posix(): path.stat().st_size for path in paths}


def read_news(folder: SweepFolder, seen: Mapping[str, int]) -> Iterator[Event]:
    """The events appended to a sweep's journals since `journal_sizes` was taken."""
    for name, size in journal_sizes(folder).items():
        if size > seen.get(name, 0):
            yield from read_journal(folder.path / name, offset=seen.get(name, 0))


def write_plan(folder: SweepFolder, plan: Mapping[str, Any]) -> None:
    """Writes the plan of a sweep."""
    write_atomic(folder.plan, seal(data_to_json({"plan_version": PLAN_VERSION, **plan})))


def read_plan(folder: SweepFolder) -> dict[str, Any]:
    """Reads the plan of a sweep; a large one once, while its file is the same. It is never changed.

    Raises:
      StorageError: The folder is not a sweep, its plan is damaged, or is one of another version or form.
    """
    try:
        about = os.stat(folder.plan)
    except OSError:
        return _read_plan(folder)  # says why
    if about.st_size < SMALL_BYTES:
        return _read_plan(folder)
    file = about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
    return _read_large_plan(folder, file)


@functools.lru_cache(maxsize=1)
def _read_large_plan(folder: SweepFolder, file: tuple[Any, ...]) -> dict[str, Any]:
    """The plan in a file, known by all that changes with it: of 100,000 runs it takes a second."""
    del file
    return _read_plan(folder)


def _read_plan(folder: SweepFolder) -> dict[str, Any]:
    try:
        text = plain_files.read_bytes(folder.plan)
        plan = plan_text.loads_plan(text)
    except OSError as error:
        what = f"{folder.path} is no sweep: it has no {folder.plan.name}"
        if batches := _batches(folder.path):
            raise StorageError(f"{what}, and these have one: {listed(batches)}", batches[0]) from error
        raise StorageError(what, _suggest_sweep(folder.path)) from error
    except ValueError as error:
        raise StorageError(f"{folder.plan} is damaged: {error}", _remake(folder)) from error
    if not isinstance(plan, dict) or plan.get("plan_version") != PLAN_VERSION:
        found = plan.get("plan_version") if isinstance(plan, dict) else None
        raise StorageError(f"{folder.plan} has version {found}, this program reads {PLAN_VERSION}")
    if not is_sealed(text):
        raise StorageError(f"{folder.plan} is damaged: it is not what was written, by its digest", _remake(folder))
    del plan["digest"]
    if found := plan_form.fault(plan):
        raise StorageError(f"{folder.plan} is of another form than this program writes: {found}", _remake(folder))
    return plan


def _remake(folder: SweepFolder) -> str:
    """How to get a new plan; the runs that are done stay."""
    return f"rm {shlex.quote(str(folder.plan))}, then the same sweep again"


def _batches(path: Path) -> list[str]:
    """The sweeps that Hydra's own sweeper made of its batches."""
    plans = [plan.parent for plan in path.glob("batch-*/sweep.json") if plan.parent.name[6:].isdecimal()]
    return [str(batch) for batch in sorted(plans, key=lambda batch: int(batch.name[6:]))]


def _suggest_sweep(path: Path) -> str | None:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    sweeps = [name for name in siblings if (path.parent / name / "sweep.json").exists()]
    close = nearest(path.name, sweeps)
    return str(path.parent / close) if close else None


def _entry(path: str) -> str:
    return f"{path or 'output'}.npy"


def _plain_bits(array: np.ndarray) -> np.ndarray:
    import numpy as np

    # Not `isbuiltin`: it is 0 for the dtype of an array that another process sent.
    known = np.dtype(array.dtype.str) == array.dtype
    return array if known else array.view(f"u{array.dtype.itemsize}")


def _typed_bits(array: np.ndarray, dtype: str) -> np.ndarray:
    import ml_dtypes
    import numpy as np

    if array.dtype.name == dtype:
        return array
    return array.view(np.dtype(getattr(ml_dtypes, dtype, dtype)))
