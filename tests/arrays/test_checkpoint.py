"""Variables to an Orbax folder and back: what is refused, what is left behind, what damage is noticed."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from runner.arrays import checkpoint, host_saves, readings
from runner.arrays.checkpoint import CheckpointError

ONES = np.ones(3, np.float32)
VARIABLES = {
    "params": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": ONES},
    "batch_stats": {"n": ONES},
}


@pytest.fixture
def saved(tmp_path):
    checkpoint.save(VARIABLES, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def refused_save(variables, path):
    with pytest.raises(CheckpointError) as caught:
        checkpoint.save(variables, path)
    return str(caught.value)


def refused_restore(path):
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "array",
    [
        np.array(3, np.int32),
        np.array([np.nan, -0.0, np.inf], np.float32),
        np.arange(4).astype(ml_dtypes.bfloat16),
        np.arange(4).astype(ml_dtypes.float8_e4m3fn),
        np.array([True, False]),
        np.array([1 + 2j], np.complex64),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
    ],
    ids=lambda array: f"{array.dtype.name}{list(array.shape)}",
)
def test_arrays_round_trip_bit_for_bit(tmp_path, array):
    checkpoint.save({"params": {"w": array}}, tmp_path / "c")
    back = checkpoint.restore(tmp_path / "c")["params"]["w"]
    assert type(back) is np.ndarray
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_integer_keys_come_back_as_strings(tmp_path):
    checkpoint.save({"params": {"layers": {0: ONES, 2: ONES * 2}}}, tmp_path / "c")
    back = checkpoint.restore(tmp_path / "c")["params"]["layers"]
    assert {key: leaf.tolist() for key, leaf in back.items()} == {"0": [1, 1, 1], "2": [2, 2, 2]}


def test_relative_paths_use_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(VARIABLES, Path("c"))
    assert set(checkpoint.restore(Path("c"))) == set(VARIABLES)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "the layer has no variables: there is nothing to save"),
        ({"params": {}}, "the layer has no variables: there is nothing to save"),
        (
            {"a.b": ONES, "a": {"b": ONES}},
            "the paths ('a', 'b') and ('a.b',) are one to Orbax (a.b)",
        ),
        (
            {"params": {"w": np.ones((0, 3))}},
            "params/w has shape [0, 3]: Orbax saves no empty array",
        ),
        (
            {"a/b": ONES, "a": {"c": ONES}},
            "the path ('a/b',) has a slash or a backslash in a name: Orbax would not give it back",
        ),
        (
            {"params": {"w\\b": ONES}},
            r"the path ('params', 'w\\b') has a slash or a backslash in a name: Orbax would not give it back",
        ),
    ],
)
def test_trees_orbax_cannot_restore_are_refused(tmp_path, variables, message):
    assert refused_save(variables, tmp_path / "c") == message
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(saved):
    assert refused_save({"params": {"w": ONES}}, saved) == f"saving checkpoint: {saved} is there already"
    assert set(checkpoint.restore(saved)) == set(VARIABLES)


def test_an_unsupported_leaf_type_is_reported(tmp_path):
    message = refused_save({"params": {"w": ONES, "z": object()}}, tmp_path / "c")
    assert message.startswith("saving c: ValueError: TypeHandler lookup failed for: type=<class 'object'>")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_no_folder(tmp_path, monkeypatch):
    left = []

    def no_space(source, *_, **__):
        left.extend(path.name for path in tmp_path.iterdir())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, no_space)
    message = refused_save(VARIABLES, tmp_path / "c")
    assert message == "saving c: OSError: [Errno 28] No space left on device"
    assert left == ["c.orbax-checkpoint-tmp"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["_METADATA", "params.kernel/.zarray", "params.kernel/0.0"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "garbage"])
def test_a_damaged_file_is_noticed(saved, file, damage):
    path = saved / file
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes({"empty": b"", "cut": content[:-1], "garbage": b"\xff\x00"}[damage])
    assert refused_restore(saved).startswith(f"restoring {saved}: ")


def test_a_missing_leaf_is_detected(saved):
    for path in (saved / "batch_stats.n").iterdir():
        path.unlink()
    (saved / "batch_stats.n").rmdir()
    assert refused_restore(saved).startswith(f"restoring {saved}: ")


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path / "nothing"
    assert refused_restore(path) == f"restoring {path}: FileNotFoundError: Checkpoint at {path} not found."


def test_an_unfinished_save_is_refused(saved):
    unfinished = saved.rename(saved.with_name("c.orbax-checkpoint-tmp-3"))
    assert refused_restore(unfinished) == f"restoring {unfinished}: the save that made it never ended"


@pytest.mark.parametrize("kind", ["file", "empty folder", "other folder"])
def test_what_is_no_checkpoint_is_refused(tmp_path, kind):
    path = tmp_path / "c"
    if kind == "file":
        path.write_bytes(b"x")
    else:
        path.mkdir()
    if kind == "other folder":
        (path / "notes.txt").write_text("x")
    assert refused_restore(path).startswith(f"restoring {path}: ")


SAVES = {
    "whole": lambda folder: checkpoint.save(VARIABLES, folder / "1"),
    "step": lambda folder: checkpoint.save_step(VARIABLES, folder, 1, keep=1, metadata={}),
    "first step": lambda folder: checkpoint.save_step(VARIABLES, folder / "steps", 1, keep=1, metadata={}),
}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_save_fsyncs_every_file_and_folder(tmp_path, monkeypatch, save):
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    save(tmp_path)
    names = {name.replace(host_saves.TEMPORARY, "") for name in flushed}
    assert {str(path) for path in [tmp_path, *tmp_path.rglob("*")]} <= names


def test_a_checkpoint_gets_its_name_between_its_flush_and_that_of_its_folder(tmp_path, monkeypatch):
    seen, fsync, rename = [], os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    monkeypatch.setattr(os, "rename", lambda old, new: seen.append("named") or rename(old, new))
    checkpoint.save(VARIABLES, tmp_path / "c")
    assert seen[-2:] == ["named", str(tmp_path)]
    assert all(f"c{host_saves.TEMPORARY}" in name for name in seen[:-2])
    files = {path.name for path in (tmp_path / "c").iterdir()}
    assert files <= {os.path.basename(name) for name in seen[:-2]}, "all were there to be flushed"


def test_a_save_leaves_what_orbax_leaves(saved, tmp_path):
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False))
    checkpointer.save(tmp_path / "orbax", VARIABLES)
    ours, theirs = files_of(saved), files_of(tmp_path / "orbax")
    for each in (ours, theirs):
        step = json.loads(each.pop("_CHECKPOINT_METADATA"))
        assert step["item_handlers"] == checkpointer.handler.typestr()
        assert 0 < step["init_timestamp_nsecs"] <= step["commit_timestamp_nsecs"] <= time.time_ns()
    said = ours.pop("commit_success.txt").decode()
    assert said.replace(str(saved), str(tmp_path / "orbax")) == theirs.pop("commit_success.txt").decode()
    assert ours == theirs
    assert ocp.metadata.get_step_metadata(saved).item_handlers == checkpointer.handler.typestr()


def test_a_save_says_nothing(tmp_path, caplog):
    host_saves._OWN.__dict__.clear()  # as in a new process
    checkpoint.save(VARIABLES, tmp_path / "c")
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == []


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_killed_save_left_is_replaced(saved, tmp_path):
    left = tmp_path / f"c{host_saves.TEMPORARY}"
    saved.rename(left)
    (left / "params.other").mkdir()
    checkpoint.save(VARIABLES, tmp_path / "c")
    assert not left.exists()
    assert not (tmp_path / "c" / "params.other").exists()
    assert set(checkpoint.restore(tmp_path / "c")) == set(VARIABLES)


@pytest.mark.parametrize("collection", ["batch_stats", "cache", "LoRAParam", "intermediates"])
def test_known_collections_are_not_bare_params(collection):
    tree = {collection: {"mean": ONES}}
    assert readings.as_variables(tree) == tree
    assert readings.as_variables({"other": {"mean": ONES}}) == {"params": {"other": {"mean": ONES}}}


LEAF = {"w": 1}
READINGS = {
    "variables": ({"params": LEAF}, {"params": LEAF}),
    "bare params": (LEAF, {"params": LEAF}),
    "boxes": ({"params": {"w": {"value": 1}}}, {"params": LEAF}),
    "a box in a box": ({"params": {"w": {"value": {"value": 1}}}}, {"params": LEAF}),
    "a train state": ({"params": LEAF, "opt_state": {"mu": LEAF}, "step": 3}, {"params": LEAF}),
    "a train state of variables": ({"params": {"params": LEAF}, "step": 3}, {"params": LEAF}),
    "a param called value": ({"params": {"value": 1}}, {"params": {"value": 1}}),
    "a bare param called value": ({"value": 1}, {"params": {"value": 1}}),
    "a head called value": ({"params": {"value": LEAF}}, {"params": {"value": LEAF}}),
    "a boxed head called value": ({"params": {"value": {"w": {"value": 1}}}}, {"params": {"value": LEAF}}),
    "a boxed param called value": ({"params": {"value": {"value": 1}}}, {"params": {"value": 1}}),
    "a value beside a box": (
        {"params": {"a": {"value": 1}, "b": {"value": 2}}},
        {"params": {"a": 1, "b": {"value": 2}}},
    ),
    "values within values": ({"params": {"value": {"value": {"value": 1}}}},) * 2,
    "a module called params": ({"params": {"params": LEAF}},) * 2,
    "bare params of a module called params": ({"params": LEAF}, {"params": {"params": LEAF}}),
    "modules called as a state's fields": ({"params": {"step": LEAF, "opt_state": LEAF}},) * 2,
    "a collection of one's own": ({"Noise": {"key": 1}, "params": LEAF},) * 2,
    "only a collection of one's own": ({"Noise": {"key": 1}},) * 2,
}


@pytest.mark.parametrize("name", READINGS)
def test_saved_trees_take_the_expected_structure(name):
    saved, expected = READINGS[name]
    assert readings.as_variables(saved, expected) == expected


@pytest.mark.parametrize("dtype", sorted(checkpoint.UNSTORED))
def test_dtypes_orbax_lacks_are_named(dtype, tmp_path):
    array = ONES.astype(getattr(ml_dtypes, dtype))
    said = f"params/w is {dtype}, which Orbax does not store"
    assert refused_save({"params": {"w": array}}, tmp_path / "c") == said


@pytest.mark.parametrize("name", ["_METADATA", "params.kernel/0.0", "commit_success.txt"])
def test_fifo_in_a_checkpoint_is_refused(saved, name):
    (saved / name).unlink(missing_ok=True)
    os.mkfifo(saved / name)
    said = f"StorageError: {saved / name} is a FIFO, and no file."
    assert refused_restore(saved) == f"restoring {saved}: {said}"
    with pytest.raises(CheckpointError) as caught:
        checkpoint.tree_metadata(saved)
    assert str(caught.value) == f"reading {saved}: {said}"


def test_links_in_a_checkpoint_are_followed(saved, tmp_path):
    (saved / "params.bias").rename(tmp_path / "elsewhere")
    (saved / "params.bias").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path)
    assert checkpoint.restore(saved)["params"]["bias"].tolist() == [1, 1, 1]
    os.mkfifo(tmp_path / "elsewhere" / "pipe")
    assert "pipe is a FIFO" in refused_restore(saved)


def test_big_endian_arrays_are_restored_correctly(tmp_path):
    checkpoint.save({"params": {"kernel": np.arange(4, dtype=">f4")}}, tmp_path / "a")
    assert checkpoint.restore(tmp_path / "a")["params"]["kernel"].tolist() == [0, 1, 2, 3]
