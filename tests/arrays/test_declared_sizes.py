"""Checkpoints of strangers that declare more than there is: refused with both numbers, before anything is allocated."""

from __future__ import annotations

import json
import re
import shutil
import struct
import zipfile
from pathlib import Path
from urllib.parse import quote

import msgpack
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from bounded_calls import call, codes_of

from runner.arrays import checkpoint, declared_sizes, saved_trees
from runner.errors import StorageError

KERNEL, LEAN = "params.Dense_0.kernel", ("tracking=disabled", "timing=off", "checks=off")
FREE = r"would take [\d,]{13,} bytes, and [\d,]+ of memory are free"

VARIABLES = {"params": {"Dense_0": {"kernel": np.ones((4, 8), np.float32), "bias": np.ones(8, np.float32)}}}

# What the description of an array says instead.
DECLARED = {
    "shape": {"shape": [2**40, 2**40]},
    "rows": {"shape": [2**36, 8]},
    "chunk": {"chunks": [2**36, 2**36]},
    "both": {"shape": [2**36, 8], "chunks": [2**36, 8]},
}


def declare(folder: Path, other: dict) -> None:
    for path in folder.rglob("*kernel/.zarray"):
        path.write_text(json.dumps(json.loads(path.read_text()) | other))


def require_refused(folder: Path) -> None:
    """Whoever reads an Orbax checkpoint refuses it with both numbers."""
    for read in (checkpoint.restore, lambda path: checkpoint.restore_onto(path, lambda _: None)):
        with pytest.raises(checkpoint.CheckpointError, match=FREE):
            read(folder)
    with pytest.raises(StorageError, match=rf"{re.escape(folder.name)} is a damaged checkpoint \(Orbax\): .*{FREE}"):
        saved_trees.read(folder)


@pytest.fixture
def saved(tmp_path) -> Path:
    checkpoint.save(VARIABLES, tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("name", DECLARED)
def test_enormous_stored_arrays_are_refused(name, saved):
    declare(saved, DECLARED[name])
    require_refused(saved)
    (saved / "_METADATA").unlink()
    with pytest.raises(StorageError, match=rf"saved is a damaged checkpoint \(tensorstore's arrays\): .*{FREE}"):
        saved_trees.read(saved)


def test_arrays_that_fit_are_read(saved):
    declare(saved, {"shape": [2, 3]})
    assert checkpoint.restore(saved)["params"]["Dense_0"]["kernel"].shape == (2, 3)
    (saved / KERNEL / ".zarray").write_text("[]")  # is left to who reads it
    declared_sizes.require_folder(saved)


def declare_in_database(folder: Path, other: dict) -> None:
    """Changes a description in the OCDBT database that Orbax writes by default."""
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{quote(str(folder))}/"}).result()
    key = f"{KERNEL}/.zarray"
    found = json.loads(store.read(key).result().value)
    store.write(key, json.dumps(found | other).encode()).result()


@pytest.fixture
def database(tmp_path) -> Path:
    """A checkpoint in a database, in a folder whose name is no plain URL."""
    ocp.PyTreeCheckpointer(use_ocdbt=True).save(tmp_path / "a %20#?b", VARIABLES)
    return tmp_path / "a %20#?b"


@pytest.mark.parametrize("name", DECLARED)
def test_enormous_arrays_in_databases_are_refused(name, database):
    declare_in_database(database, DECLARED[name])
    require_refused(database)


def test_databases_that_fit_are_read(database):
    assert checkpoint.restore(database)["params"]["Dense_0"]["kernel"].shape == (4, 8)
    declare_in_database(database, {"shape": [2, 3]})
    assert checkpoint.restore(database)["params"]["Dense_0"]["kernel"].shape == (2, 3)
    (database / "manifest.ocdbt").write_bytes(b"x")  # is left to who reads it
    declared_sizes.require_folder(database)


def head(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz(path: Path, shape: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("params/k.npy", head(shape) + bytes(64))


def safetensors(path: Path, shape: str) -> None:
    sizes = json.loads(shape.replace("(", "[").replace(")", "]"))
    entry = {"dtype": "F32", "shape": sizes, "data_offsets": [0, 4 * sizes[0] * sizes[1]]}
    text = json.dumps({"params.k": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))


def flax(path: Path, shape: str) -> None:
    sizes = json.loads(shape.replace("(", "[").replace(")", "]"))
    array = msgpack.ExtType(1, msgpack.packb((sizes, "float32", bytes(64))))
    path.write_bytes(msgpack.packb({"params": {"k": array}}))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (npz, r"params/k\.npy of shape \[{0}, 8\] would take {1} bytes, and 64 are there"),
        (safetensors, r"it is cut off: {2} bytes are missing at its end"),
        (flax, r"an array of float32\[{0}, 8\] has 64 bytes"),
    ],
)
@pytest.mark.parametrize("rows", [2**36, 2**60])
def test_enormous_arrays_of_files_are_refused(write, said, rows, tmp_path):
    write(tmp_path / "file", f"({rows}, 8)")
    wanted = said.format(rows, f"{32 * rows:,}", 32 * rows - 64)
    with pytest.raises(StorageError, match=f"file is a damaged checkpoint .*{wanted}"):
        saved_trees.read(tmp_path / "file")


@pytest.mark.slow
@pytest.mark.parametrize("name", DECLARED)
def test_verbs_refuse_enormous_arrays(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(["seed=0", "sweep=s", *LEAN]).code == 0
    shutil.copytree("outputs/s", "outputs/far")
    (near,), (far,) = Path("outputs/s/runs").iterdir(), Path("outputs/far/runs").iterdir()
    declare(far, DECLARED[name])
    lines = [f"reload {far}", f"verify {far} --no-code", f"diff {far} {near}", f"export {far} --to nnx --out o"]
    for line in [*lines, f"import {far}/checkpoint --like {near} --out p", f"variables={far}"]:
        words = line.split()
        found = call([*words, *LEAN] if "=" in line else words)
        assert found.fault(codes_of("" if "=" in line else words[0])) is None, line
        assert found.code == (4 if words[0] == "verify" else 2), line
        assert re.search(FREE, found.said), line
