"""The clone writer leaves what Orbax leaves, byte for byte, or leaves the writing to Orbax."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from runner.arrays import checkpoint, fast_checkpoint, trees
from runner.arrays.fast_checkpoint import CloneWriter


def make(seed: int, shapes) -> dict:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(dtype) for name, (shape, dtype) in shapes.items()}


TREES = {
    "linear": lambda seed: {"params": make(seed, {"kernel": ((4, 8), "f4"), "bias": ((8,), "f4")})},
    "scalar": lambda seed: {"params": make(seed, {"scale": ((), "f4")})},
    "types": lambda seed: {
        "params": make(seed, {"a": ((3,), ml_dtypes.bfloat16), "b": ((3,), "f2"), "c": ((2, 2), "i4")}),
        "counts": {"steps": np.array(seed, np.int32), "mask": np.array([True, bool(seed % 2)])},
    },
    "nested": lambda seed: {
        "params": {"layers": {"0": make(seed, {"kernel": ((2, 3, 4), "f4")})}},
        "b": make(seed, {"x": ((5,), "f4")}),
    },
    "zeros": lambda seed: {"params": {"bias": np.zeros(8, np.float32), "kernel": np.full((2, 2), seed, np.float32)}},
}


def files(path: Path) -> dict[str, bytes]:
    """The files of a checkpoint, without its times and its own path."""
    found = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    metadata = json.loads(found[fast_checkpoint.STAMPED])
    found[fast_checkpoint.STAMPED] = json.dumps({**metadata, **dict.fromkeys(fast_checkpoint.TIMESTAMPS)}).encode()
    return {name: content.replace(str(path).encode(), b"") for name, content in found.items()}


@pytest.mark.parametrize("name", TREES)
def test_both_writers_leave_the_same_folder(name, tmp_path):
    writer = CloneWriter()
    for seed in range(3):
        checkpoint.save(TREES[name](seed), tmp_path / f"clone{seed}", writer)
        checkpoint.save(TREES[name](seed), tmp_path / f"orbax{seed}")
        assert files(tmp_path / f"clone{seed}") == files(tmp_path / f"orbax{seed}")


@pytest.mark.parametrize("name", TREES)
def test_every_orbax_reader_restores_a_clone(name, tmp_path):
    writer = CloneWriter()
    for seed in range(2):
        checkpoint.save(TREES[name](seed), tmp_path / str(seed), writer)
    want = trees.leaves(TREES[name](1))
    for reader in (ocp.PyTreeCheckpointer(), ocp.StandardCheckpointer()):
        assert trees.tree_digest(trees.leaves(reader.restore(tmp_path / "1"))) == trees.tree_digest(want)


def test_orbax_writes_each_structure_once(tmp_path):
    writer, calls = CloneWriter(), []

    def save(seed: int, name: str) -> bool:
        tree = TREES["linear"](seed)
        leaves = [(".".join(path), array) for path, array in trees.flatten(tree)]
        path = tmp_path / name

        def by_orbax() -> None:
            calls.append(name)
            checkpoint.save(tree, path)

        return writer.save(leaves, path, by_orbax)

    assert [save(0, "a"), save(1, "b"), save(2, "c")] == [False, True, True]
    assert calls == ["a"]


def test_big_endian_arrays_are_restored_correctly(tmp_path):
    writer = CloneWriter()
    tree = {"params": {"kernel": np.arange(4, dtype=">f4")}}
    for name in ("a", "b"):
        checkpoint.save(tree, tmp_path / name, writer)
        assert checkpoint.restore(tmp_path / name)["params"]["kernel"].tolist() == [0, 1, 2, 3]


def test_metadata_without_times_is_no_template(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / fast_checkpoint.STAMPED).write_text("{}")
    (tmp_path / "params.k").mkdir()
    assert fast_checkpoint._learn([], tmp_path / "a") is None


def test_a_failed_clone_leaves_no_folder(tmp_path, monkeypatch):
    writer = CloneWriter()
    checkpoint.save(TREES["linear"](0), tmp_path / "a", writer)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "in the way").touch()
    with pytest.raises(checkpoint.CheckpointError, match="^saving b: OSError: "):
        checkpoint.save(TREES["linear"](1), tmp_path / "b", writer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
