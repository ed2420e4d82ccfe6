"""Files that are whole or not there, a journal that survives a kill, and a folder that one process holds."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from bare_record import RECORD

from runner.arrays import trees
from runner.errors import StorageError
from runner.records import store
from runner.records.disk import files, intact, plain_files
from runner.records.journal import Journal, from_line, read_journal, read_on, to_line
from runner.records.paths import RunFolder, SweepFolder, require_writable

TAKE_LOCK = """
import sys
from pathlib import Path
from runner.errors import StorageError
from runner.records import paths
from runner.records.disk import files
try:
    with files.locked(paths.SweepFolder(Path(sys.argv[1]))):
        print("taken")
except StorageError as error:
    print(error)
"""

DIE_WITH_LOCK = """
import os, sys
from pathlib import Path
from runner.errors import StorageError
from runner.records import paths
from runner.records.disk import files
with files.locked(paths.SweepFolder(Path(sys.argv[1]))):
    os._exit(9)
"""


@pytest.fixture
def run_folder(tmp_path):
    folder = SweepFolder(tmp_path).run(0, RECORD.run_id)
    files.make_run_folder(folder)
    return folder


@pytest.fixture
def journal(tmp_path):
    """A journal of two events."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("started", num=1)
    journal.append("done")
    journal.close()
    return tmp_path / "journal.jsonl"


def refused(call):
    with pytest.raises(StorageError) as caught:
        call()
    return str(caught.value)


def python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def recorded(output):
    return dataclasses.replace(RECORD, output=[trees.summarize_array(path, one) for path, one in output.items()])


def test_sweep_paths_are_fixed(tmp_path):
    sweep = SweepFolder(tmp_path / "mine")
    run = sweep.run(12, "0123456789abcdef")
    paths = [sweep.plan, sweep.journal, sweep.results, sweep.checks, sweep.lock, run.record, run.checkpoint, run.hydra]
    assert [str(path.relative_to(sweep.path)) for path in paths] == [
        "sweep.json",
        "journal.jsonl",
        "results.parquet",
        "checks.md",
        ".lock",
        "runs/12-01234567/record.json",
        "runs/12-01234567/checkpoint",
        "runs/12-01234567/.hydra",
    ]
    assert sweep.name == "mine"


# Whole or not there.


def test_writes_replace_the_whole_file(tmp_path):
    files.write_atomic(tmp_path / "a", b"old and long")
    files.write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_writes_keep_the_old_file(tmp_path, monkeypatch, step):
    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files.write_atomic(tmp_path / "a", b"old")
    monkeypatch.setattr(os, step, no_space)
    with pytest.raises(OSError, match="No space left on device"):
        files.write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_kills_on_a_second_record_damage_nothing(run_folder, monkeypatch):
    """W&B's cost is added to a record whose run is done."""
    (run_folder.path / "output.npy").write_bytes(b"1")
    record = dataclasses.replace(RECORD, files=files.file_digests(run_folder))
    store.write_record(run_folder, record)

    def killed(*_):
        shutil.copy(*kept)
        raise KeyboardInterrupt

    left = plain_files.temporary_name(run_folder.record)
    kept = (run_folder.record, left)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write_record(run_folder, dataclasses.replace(record, wall_s=2.0))
    assert left.exists()
    assert store.read_record(run_folder) == record
    assert intact.changed_files(run_folder, record) == []
    (run_folder.path / ".record.json.tmp").write_bytes(b"1")
    assert intact.changed_files(run_folder, record) == [".record.json.tmp was not written by this run"]


def test_folders_are_never_overwritten_by_files(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_atomic(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("folder", [".", "new", "new/and/deeper"])
def test_writability_check_creates_nothing(tmp_path, folder):
    require_writable(tmp_path / folder)
    assert names(tmp_path) == []


@pytest.mark.parametrize("below", [".", "deeper"])
def test_files_blocking_a_folder_are_named(tmp_path, below):
    (tmp_path / "file").write_text("x")
    message = refused(lambda: require_writable(tmp_path / "file" / below))
    assert message.startswith(
        f"output folder {tmp_path / 'file' / below}: {tmp_path / 'file'} is a file, not a folder.\n"
    )


def test_unwritable_folders_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    message = refused(lambda: require_writable(tmp_path))
    assert message == f"output folder {tmp_path}: {tmp_path} is not writable.\n  Try: output_root=~/outputs"


# Runs.


def test_a_record_comes_back(run_folder):
    store.write_record(run_folder, RECORD)
    assert store.read_record(run_folder) == RECORD
    assert names(run_folder.path) == ["record.json"]


def test_missing_records_are_named(run_folder):
    assert refused(lambda: store.read_record(run_folder)) == f"{run_folder.record}: No such file or directory."


def test_damaged_records_name_their_path(run_folder):
    run_folder.record.write_bytes(b"{")
    assert refused(lambda: store.read_record(run_folder)).startswith(f"{run_folder.record} is damaged: ")


def test_existing_records_come_in_order(tmp_path):
    folders = [RunFolder(tmp_path / str(num)) for num in range(3)]
    for num in (2, 0):
        files.make_run_folder(folders[num])
        store.write_record(folders[num], dataclasses.replace(RECORD, num=num))
    assert [record.num for record in store.read_records(folders)] == [0, 2]


@pytest.mark.parametrize("finished", [True, False])
def test_existing_run_folders_are_never_overwritten(run_folder, finished):
    if finished:
        store.write_record(run_folder, RECORD)
    (run_folder.path / "mine.txt").write_text("x")
    assert refused(lambda: files.make_run_folder(run_folder)) == (
        f"{run_folder.path} is there already and is not overwritten."
    )
    assert (run_folder.path / "mine.txt").read_text() == "x"


def test_interrupted_run_remains_are_removed(run_folder):
    (run_folder.path / "checkpoint").mkdir()
    files.remove_unfinished(run_folder)
    files.remove_unfinished(run_folder)
    assert not run_folder.path.exists()


def test_redone_runs_are_archived(run_folder):
    for text in ("first", "second"):
        run_folder.record.write_text(text)
        files.archive_run(run_folder)
        files.make_run_folder(run_folder)
    files.archive_run(run_folder)
    files.archive_run(run_folder)  # nothing is there any more
    name = run_folder.path.name
    assert names(run_folder.path.parent) == [f"{name}.old-{number}" for number in (1, 2, 3)]
    assert (run_folder.path.with_name(f"{name}.old-2") / "record.json").read_text() == "second"


# Outputs.


@pytest.mark.parametrize(
    ("output", "file"),
    [
        ({"": np.arange(3, dtype=np.float32)}, "output.npy"),
        ({"": np.array(5, np.int8)}, "output.npy"),
        ({"": np.array([1.5, np.nan, -0.0], ml_dtypes.bfloat16)}, "output.npy"),
        ({"": np.array(1.5, ml_dtypes.bfloat16)}, "output.npy"),
        ({"": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16).T}, "output.npy"),
        ({"": np.array([1 + 2j], np.complex64)}, "output.npy"),
        ({"": np.array([1, -2], ml_dtypes.int4)}, "output.npy"),
        ({"0": np.array([True]), "1/h": np.ones((2, 2), ml_dtypes.float8_e4m3fn)}, "output.npz"),
        ({"y": np.ones(2, ml_dtypes.bfloat16)}, "output.npz"),
        ({}, "output.npz"),
        ({"file": np.ones(2), "allow_pickle": np.zeros(1)}, "output.npz"),
        ({"a": np.ones(1), "a.npy": np.zeros(1)}, "output.npz"),
    ],
    ids=lambda value: ",".join(f"{k}:{v.dtype.name}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_outputs_round_trip_bit_for_bit(run_folder, output, file):
    store.write_output(run_folder, output)
    assert names(run_folder.path) == [file]
    back = store.read_output(run_folder, recorded(output))
    assert {path: (one.dtype, one.shape, one.tobytes()) for path, one in back.items()} == {
        path: (one.dtype, one.shape, one.tobytes()) for path, one in output.items()
    }


@pytest.mark.parametrize("path", ["", "y"])
@pytest.mark.parametrize("content", [None, b"", b"xx", b"PK\x03\x04xx"])
def test_missing_and_damaged_outputs_are_named(run_folder, path, content):
    file = run_folder.output(single=not path)
    if content is not None:
        file.write_bytes(content)
    message = refused(lambda: store.read_output(run_folder, recorded({path: np.ones(1)})))
    assert message.startswith(f"{file}: ")


def test_arrays_missing_from_files_are_named(run_folder):
    store.write_output(run_folder, {"a": np.ones(1)})
    message = refused(lambda: store.read_output(run_folder, recorded({"b": np.ones(1)})))
    assert message.startswith(f"{run_folder.output(single=False)}: ")


# The journal.


def test_events_come_back_in_order(journal):
    assert read_journal(journal) == [{"event": "started", "num": 1}, {"event": "done"}]


@pytest.mark.parametrize("event", [{}, {"event": 1}, {"event": None}])
def test_sealed_lines_of_another_form_are_refused(event, tmp_path):
    (tmp_path / "journal.jsonl").write_bytes(to_line(event) + to_line({"event": "done"}))
    with pytest.raises(StorageError, match="line 1"):
        read_journal(tmp_path / "journal.jsonl")


def test_missing_journals_have_no_events(tmp_path):
    assert read_journal(tmp_path / "journal.jsonl") == []


def test_torn_last_lines_are_dropped(journal):
    whole = journal.read_bytes()
    for length in range(whole.index(b"\n") + 2, len(whole)):
        journal.write_bytes(whole[:length])
        assert [event["event"] for event in read_journal(journal)][:1] == ["started"]
        again = Journal(journal)
        again.append("next")
        again.close()
        assert [event["event"] for event in read_journal(journal)] == ["started", "next"]


def test_journals_are_followed_line_by_line(journal):
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-3])
    first, position = read_on(journal, 0)
    journal.write_bytes(whole)
    rest, end = read_on(journal, position)
    assert (first + rest, end) == (read_journal(journal), len(whole))
    assert first and rest
    assert read_on(journal.with_name("none"), 7) == ([], 7)


def test_append_flushes_to_disk(tmp_path, monkeypatch):
    seen = []
    fsync = os.fsync
    journal = Journal(tmp_path / "j")
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append((tmp_path / "j").read_bytes()) or fsync(fd))
    journal.append("done", num=1)
    journal.close()
    assert seen == [b'{"event":"done","num":1,"digest":"bc766e96a37db074"}\n']


def test_flipped_digits_in_journals_are_found(journal):
    content = journal.read_bytes()
    journal.write_bytes(content.replace(b'"num":1', b'"num":2'))
    assert f"{journal} line 1 is damaged" in refused(lambda: read_journal(journal))
    with pytest.raises(StorageError, match="is damaged after byte 0"):
        read_on(journal, 0)


UNSEALED = b'{"event":"done"}'


@pytest.mark.parametrize("line", [b"xx", b'{"event":', b"\xff", b"\x00\x00", UNSEALED, b"[1]"])
def test_damaged_lines_are_named_by_number(journal, line):
    first, second, _ = journal.read_bytes().split(b"\n")
    journal.write_bytes(first + b"\n" + line + b"\n" + second + b"\n")
    assert refused(lambda: read_journal(journal)) == (
        f"{journal} line 2 is damaged.\n  Try: sed -i 2d {journal}, then the same sweep again"
    )


# The plan.

PLAN = {
    "sweep": "s",
    "written_at": "2026-01-01T10:20:30.000+00:00",
    "origin": {},
    "num_configs": 1,
    "runs": [
        {
            **{"num": 0, "run_id": "a", "result_id": "b", "program_id": "c", "layer": "linear", "overrides": []},
            **{"settings": {"device": "cpu", "seed": 0}},
        }
    ],
}


def test_plans_round_trip_with_version(tmp_path):
    sweep = SweepFolder(tmp_path)
    store.write_plan(sweep, PLAN)
    assert store.read_plan(sweep) == {"plan_version": 1, **PLAN}


def test_large_plans_are_read_once_per_file(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SMALL_BYTES", 0)
    sweep = SweepFolder(tmp_path)
    store.write_plan(sweep, PLAN)
    first = store.read_plan(sweep)
    assert store.read_plan(sweep) is first
    store.write_plan(sweep, PLAN | {"num_configs": 2})
    assert store.read_plan(sweep) == first | {"num_configs": 2}
    sweep.plan.write_bytes(sweep.plan.read_bytes().replace(b'"num_configs": 2', b'"num_configs": 3'))
    assert "is damaged" in refused(lambda: store.read_plan(sweep))
    sweep.plan.unlink()
    assert "is no sweep" in refused(lambda: store.read_plan(sweep))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runs": None}, "runs is no list"),
        ({"num_configs": True}, "num_configs is no int"),
        ({"runs": ["a"]}, "runs[0] is no object"),
        ({"runs": [{**PLAN["runs"][0], "num": "0"}]}, "runs[0].num is no int"),
        ({"runs": [{**PLAN["runs"][0], "overrides": [1]}]}, "runs[0].overrides is no list of words"),
        ({"runs": [{**PLAN["runs"][0], "settings": {"seed": 0}}]}, "runs[0].settings.device is missing"),
        ({"study": []}, "study is no object"),
    ],
)
def test_plans_of_another_form_are_refused(changes, said, tmp_path):
    sweep = SweepFolder(tmp_path)
    store.write_plan(sweep, PLAN | changes)
    assert refused(lambda: store.read_plan(sweep)) == (
        f"{sweep.plan} is of another form than this program writes: {said}.\n"
        f"  Try: rm {sweep.plan}, then the same sweep again"
    )


def test_flipped_digits_in_plans_are_found(tmp_path):
    sweep = SweepFolder(tmp_path)
    store.write_plan(sweep, {"runs": [{"num": 12}]})
    sweep.plan.write_bytes(sweep.plan.read_bytes().replace(b"12", b"13"))
    assert refused(lambda: store.read_plan(sweep)) == (
        f"{sweep.plan} is damaged: it is not what was written, by its digest.\n"
        f"  Try: rm {sweep.plan}, then the same sweep again"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", " has version None, this program reads 1."),
        (b'{"plan_version": 9}', " has version 9, this program reads 1."),
        (b"{", " is damaged: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."),
        (b"\xff", " is damaged: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte."),
    ],
)
def test_unreadable_plans_explain_why(tmp_path, content, message):
    sweep = SweepFolder(tmp_path)
    sweep.plan.write_bytes(content)
    again = f"\n  Try: rm {sweep.plan}, then the same sweep again" if "damaged" in message else ""
    assert refused(lambda: store.read_plan(sweep)) == f"{sweep.plan}{message}{again}"


def test_non_sweeps_suggest_the_nearest_sweep(tmp_path):
    (tmp_path / "width").mkdir()
    store.write_plan(SweepFolder(tmp_path / "width"), {})
    near, far = SweepFolder(tmp_path / "wdth"), SweepFolder(tmp_path / "qqqqqqqq")
    assert refused(lambda: store.read_plan(near)) == (
        f"{near.path} is no sweep: it has no sweep.json.\n  Try: {tmp_path / 'width'}"
    )
    assert refused(lambda: store.read_plan(far)) == f"{far.path} is no sweep: it has no sweep.json."


# The lock.


def test_sweep_lock_excludes_other_processes(tmp_path):
    sweep = SweepFolder(tmp_path)
    with files.locked(sweep):
        assert python(TAKE_LOCK, tmp_path).stdout == (
            f"{tmp_path}: another process works on this sweep.\n  Try: wait for it, or sweep=another_name\n"
        )
    assert python(TAKE_LOCK, tmp_path).stdout == "taken\n"


def test_dead_processes_release_the_lock(tmp_path):
    assert python(DIE_WITH_LOCK, tmp_path).returncode == 9
    with files.locked(SweepFolder(tmp_path)):
        assert names(tmp_path) == [".lock"]


def test_checkpoint_size_leaves_out_time_and_place(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x").write_bytes(b"123")
    (tmp_path / "a" / "b" / "y").write_bytes(b"45")
    for name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
        (tmp_path / name).write_bytes(b"when and where")
    assert files.checkpoint_bytes(tmp_path) == 5


@pytest.mark.parametrize(
    "other",
    [{"run_id": [1]}, {"after": {}}, {"num": True}, {"apply_flags": [[]]}, {"output_norm": "1"}, {"event": None}],
)
def test_sealed_lines_of_other_types_are_damaged(other):
    whole = {"event": "done", "num": 0, "run_id": "a", "apply_flags": ["noisy"], "output_norm": 1.5, "after": 1}
    assert from_line(to_line(whole)) == whole
    with pytest.raises(ValueError, match=r"^it is no event$"):
        from_line(to_line(whole | other))


@pytest.mark.parametrize(("more", "start"), [(0, "sha256:"), (1, f"{2**20 + 1} bytes")])
def test_only_files_up_to_a_mebibyte_are_hashed(tmp_path, more, start):
    (tmp_path / "a").write_bytes(bytes(2**20 + more))
    assert files.file_digest(tmp_path / "a").startswith(start)
