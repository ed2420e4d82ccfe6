"""Every format is read as its own writer wrote it, bit for bit, and what can't be read is one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import tensorstore
from flax import serialization
from flax.training import train_state
from pipeline_files import leaves, write_easylm, write_t5x
from safetensors.numpy import save_file

from runner.arrays import saved_trees
from runner.arrays.formats import contents, registry
from runner.errors import StorageError

RANDOM = np.random.default_rng(0)
PARAMS = {
    "dense": {"kernel": RANDOM.standard_normal((4, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)},
    "layers": {"0": {"scale": RANDOM.standard_normal(5).astype(ml_dtypes.bfloat16)}, "10": {"scale": np.ones(2)}},
    "embed": np.arange(6, dtype=np.int32).reshape(2, 3),
}
STATS = {"norm": {"mean": RANDOM.standard_normal(3).astype(np.float32)}}
VARIABLES = {"params": PARAMS, "batch_stats": STATS}
BF16 = {"params": {"kernel": RANDOM.standard_normal((2, 3)).astype(ml_dtypes.bfloat16)}}


class State(train_state.TrainState):
    batch_stats: Any = None


def flat(tree: Any, sign: str) -> dict[str, np.ndarray]:
    return {name.replace("/", sign): leaf for name, leaf in named(tree).items()}


def named(tree: Any, path: str = "") -> dict[str, np.ndarray]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        name: leaf for key, child in tree.items() for name, leaf in named(child, f"{path}/{key}".lstrip("/")).items()
    }


def state(**fields: Any) -> State:
    return State.create(apply_fn=None, tx=optax.adam(1e-3), **fields)


def same(place: str, wanted: Any) -> bool:
    return list(leaves(saved_trees.read(place).variables)) == list(leaves(wanted))


def test_flax_bytes_are_read(here):
    (here / "variables").write_bytes(serialization.to_bytes(VARIABLES))
    (here / "state").write_bytes(serialization.to_bytes(state(params=PARAMS, batch_stats=STATS)))
    (here / "whole").write_bytes(serialization.to_bytes(state(params=VARIABLES)))
    (here / "bare").write_bytes(serialization.to_bytes(PARAMS))
    assert all(same(name, VARIABLES) for name in ("variables", "state", "whole"))
    assert same("bare", {"params": PARAMS}) and same("state#params", {"params": PARAMS})


@pytest.mark.parametrize(
    "array", [np.arange(100.0).reshape(20, 5), np.ones(9, ml_dtypes.bfloat16), np.array([True] * 9)]
)
def test_arrays_in_chunks_are_joined(array, here, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 8)
    (here / "ck").write_bytes(serialization.to_bytes({"params": {"kernel": array}}))
    write_easylm(here / "stream", {"kernel": array})
    assert same("ck", {"params": {"kernel": array}}) and same("stream", {"params": {"kernel": array}})


@pytest.mark.parametrize("dtype", ["int4", "float8_e4m3fn", "uint16", "complex64", "bool", "float16", "int64"])
def test_element_types_of_flax_bytes_are_kept(dtype, here):
    array = np.arange(4).astype(contents.dtype_named(dtype))
    (here / "ck").write_bytes(serialization.to_bytes({"params": {"kernel": array, "scalar": array[1]}}))
    assert same("ck", {"params": {"kernel": array, "scalar": array[1]}})


def test_the_stream_of_easylm_is_read(here):
    write_easylm(here / "streaming_params", PARAMS)
    write_easylm(here / "streaming_train_state_7", state(params=VARIABLES))
    assert same("streaming_params", {"params": PARAMS})
    assert same("streaming_train_state_7", VARIABLES)
    assert same("streaming_train_state_7#params/params", {"params": PARAMS})


GZIP, BLOSC, ZSTD = {"id": "gzip"}, {"id": "blosc", "cname": "lz4"}, {"id": "zstd", "level": 3}
ZARR3 = [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 3}}]


@pytest.mark.parametrize(
    ("driver", "compressor"),
    [("zarr", None), ("zarr", GZIP), ("zarr", BLOSC), ("zarr", ZSTD), ("zarr3", None), ("zarr3", ZARR3)],
)
def test_a_t5x_folder_is_read(driver, compressor, here):
    params = {key: PARAMS[key] for key in ("dense", "layers")}
    more = {"state": {"step": np.int32(3), "param_states": {"dense": {"kernel": {"v": np.ones((4, 3))}}}}}
    write_t5x(
        here / "checkpoint_3",
        params,
        driver=driver,
        compressor=compressor,
        flax_mutables={"batch_stats": STATS},
        **more,
    )
    found = saved_trees.read("checkpoint_3")
    assert list(leaves(found.variables)) == list(leaves({"params": params, "batch_stats": STATS}))
    assert (found.where, found.contents.format) == ("checkpoint_3#target", "T5X")
    assert same("checkpoint_3#target", {"params": params})


def test_t5x_folders_are_found_by_file(here):
    write_t5x(here / "checkpoint_3", {"dense": PARAMS["dense"]}, state={"step": 3})
    assert same("checkpoint_3/checkpoint", {"params": {"dense": PARAMS["dense"]}})


def test_empty_flax_arrays_are_read(here):
    variables = {"params": {"empty": np.zeros((0, 3), np.float32), "last": np.ones(0, np.int8)}}
    (here / "ck").mkdir()
    for step in (9, 10):  # as flax.training.checkpoints names its files
        state = {**variables, "step": step, "opt_state": {}}
        (here / "ck" / f"checkpoint_{step}").write_bytes(serialization.to_bytes(state))
    save_file(variables["params"], here / "tensors")
    assert same("ck", variables) and same("tensors", variables)


def test_the_newest_t5x_step_is_taken(here):
    for step in (5, 10, 9):
        write_t5x(
            here / "model" / f"checkpoint_{step}",
            {"dense": {"kernel": np.full((2, 2), float(step))}},
            state={"step": step},
        )
    (here / "model" / "checkpoint_11.tmp-123").mkdir()
    (here / "model" / "train").mkdir()
    assert same("model", {"params": {"dense": {"kernel": np.full((2, 2), 10.0)}}})
    assert same("model#checkpoint_9", {"params": {"dense": {"kernel": np.full((2, 2), 9.0)}}})
    assert same("model/checkpoint_5", {"params": {"dense": {"kernel": np.full((2, 2), 5.0)}}})


def test_a_placeholder_is_no_array(here):
    write_t5x(here / "ck", {"dense": {"kernel": np.ones((2, 2))}})
    (here / "alone").mkdir()
    (here / "alone" / "checkpoint").write_bytes((here / "ck" / "checkpoint").read_bytes())
    (here / "old").mkdir()
    (here / "old" / "checkpoint").write_bytes(serialization.to_bytes({"params": {"k": "PLACEHOLDER://params.k"}}))
    for place, name in (("alone", "target.dense.kernel"), ("old", "params.k")):
        with pytest.raises(StorageError, match=f"^{place}: {name} is a placeholder, not arrays"):
            saved_trees.read(place)


def test_npz_of_big_vision_is_read(here):
    np.savez(here / "ck.npz", **flat({"params": PARAMS, "opt": {"mu": np.ones(2)}, "extra": {"step": np.ones(1)}}, "/"))
    np.savez(here / "old.npz", **flat({"opt": {"target": PARAMS, "state": {"step": np.ones(1)}}}, "/"))
    np.savez_compressed(here / "bare.npz", **flat(PARAMS, "/"))
    assert all(same(place, {"params": PARAMS}) for place in ("ck.npz", "ck.npz#params", "old.npz", "bare.npz"))
    assert set(saved_trees.read("ck.npz", None).variables) == {"params"}


def test_the_arrays_of_big_vision_are_read(here):
    for name, leaf in flat(VARIABLES, "~").items():
        place = {"driver": "file", "path": f"ck-000000010/{name}/"}
        spec = {"driver": "zarr", "kvstore": place, "dtype": leaf.dtype.name, "metadata": {"shape": list(leaf.shape)}}
        tensorstore.open({**spec, "create": True}).result().write(leaf).result()
    (here / "ck-LAST").write_text("000000010")
    assert same("ck-000000010", VARIABLES) and same("ck", VARIABLES)


@pytest.mark.parametrize("sign", [".", "/"])
def test_safetensors_are_read(sign, here):
    save_file(flat(VARIABLES, sign), here / "model.safetensors", {"format": "np"})
    assert same("model.safetensors", VARIABLES)
    (here / "model.safetensors").rename(here / "weights")
    assert same("weights", VARIABLES)


def test_sharded_safetensors_are_read(here):
    names = flat(PARAMS, ".")
    for index, (name, leaf) in enumerate(names.items()):
        save_file({name: leaf}, here / f"model-{index}.safetensors")
    files = {name: f"model-{index}.safetensors" for index, name in enumerate(names)}
    (here / "model.safetensors.index.json").write_text(f'{{"weight_map": {files}}}'.replace("'", '"'))
    assert same(".", {"params": PARAMS})


# Orbax.


def by_pytree(path: Path, tree: Any, **options: Any) -> None:
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)).save(path.absolute(), tree)


def by_standard(path: Path, tree: Any) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree)


def by_v1(path: Path, tree: Any) -> None:
    from orbax.checkpoint import experimental

    (getattr(experimental.v1, "save", None) or experimental.v1.save_pytree)(path.absolute(), tree)


@pytest.mark.parametrize(
    "save",
    [
        lambda path, tree: by_pytree(path, tree, use_ocdbt=True),
        lambda path, tree: by_pytree(path, tree, use_ocdbt=False),
        lambda path, tree: by_pytree(path, tree, use_ocdbt=True, use_zarr3=True),
        by_standard,
        by_v1,
    ],
    ids=["ocdbt", "folders", "zarr3", "standard", "v1"],
)
def test_orbax_is_read(save, here):
    save(here / "state", state(params=jnp_like(PARAMS), batch_stats=jnp_like(STATS)))
    assert same("state", VARIABLES_ON_DEVICE)


def jnp_like(tree: Any) -> Any:
    return {key: jnp_like(child) for key, child in tree.items()} if isinstance(tree, dict) else jnp.asarray(tree)


VARIABLES_ON_DEVICE = jnp_like(VARIABLES)


def test_a_member_of_a_tuple_is_chosen(here):
    normalizer = {"count": np.zeros(1), "mean": np.ones(3)}
    by_pytree(here / "brax", (normalizer, {"params": PARAMS}, {"params": BF16["params"]}))
    said = r"^brax holds 2 trees of variables: brax#1, brax#2; the others in it are 0 \(count, mean\)\.\n  Try: brax#1$"
    with pytest.raises(StorageError, match=said):
        saved_trees.read("brax")
    assert same("brax#1", {"params": PARAMS}) and same("brax#2/params", BF16)


def test_a_tuple_without_params_is_listed(here):
    by_pytree(here / "ck", (STATS, {"dense": {"kernel": np.ones(2)}}))
    said = r"^ck holds 0 \(norm\), 1 \(dense\): none of them is called params\.\n  Try: ck#0$"
    with pytest.raises(StorageError, match=said):
        saved_trees.read("ck")
    assert same("ck#1", {"params": {"dense": {"kernel": np.ones(2)}}})


def test_items_of_a_step_are_one_tree(here):
    items = {"params": PARAMS, "batch_stats": STATS, "opt_state": {"mu": np.ones(2)}}
    with ocp.CheckpointManager((here / "ck").absolute()) as manager:
        for step in (1, 20):
            manager.save(step, args=ocp.args.Composite(**{key: ocp.args.PyTreeSave(one) for key, one in items.items()}))
    assert same("ck", VARIABLES) and same("ck#params", {"params": PARAMS}) and same("ck#1/params", {"params": PARAMS})


def test_only_what_is_wanted_is_read(here, monkeypatch):
    by_pytree(here / "ck", state(params=PARAMS), use_ocdbt=False)
    for name in (here / "ck").glob("opt_state.*"):
        for file in name.rglob("*"):
            if file.is_file() and file.name != ".zarray":
                file.write_bytes(b"damaged")
    assert same("ck", {"params": PARAMS})


def test_arrays_outlive_their_file(here):
    (here / "ck").write_bytes(serialization.to_bytes(VARIABLES))
    found = saved_trees.read("ck").variables
    (here / "ck").write_bytes(b"")
    found["params"]["dense"]["bias"] += 1
    assert (found["params"]["dense"]["kernel"] == PARAMS["dense"]["kernel"]).all()


@pytest.mark.slow
def test_memory_is_not_taken_twice(here):
    big = np.ones(2**23, np.float32)
    (here / "ck").write_bytes(serialization.to_bytes({"params": {"k": big}, "opt_state": {"mu": big, "nu": big}}))
    tracemalloc.start()
    found = saved_trees.read("ck")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert big.nbytes <= peak < 1.2 * big.nbytes and found.rest == ("opt_state",)


# What can't be read.


class Exploding:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def pickles(here: Path) -> None:
    for protocol in range(6):
        (here / f"p{protocol}").write_bytes(pickle.dumps({"params": Exploding()}, protocol))
    (here / "plain.pkl").write_bytes(b"anything")
    np.savez(here / "objects.npz", params=np.ones(2), config=np.array([Exploding()], object))
    np.save(here / "one.npy", np.array([Exploding()], object))
    with zipfile.ZipFile(here / "torch.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Exploding()))


@pytest.mark.parametrize("name", [*(f"p{number}" for number in range(6)), "plain.pkl", "objects.npz", "torch.pt"])
def test_a_pickle_is_never_loaded(name, here):
    pickles(here)
    with pytest.raises(
        StorageError, match=f"^{name} is .*pickle.*: reading it could run any code, so it is never loaded"
    ):
        saved_trees.read(name)
    assert not (here / "it-ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text", b"model_checkpoint_path: 'x'"),
        ("random", bytes(range(0x20, 0x90))),
        ("zip", b"PK\x05\x06" + bytes(18)),
        ("keras.h5", b"\x89HDF\r\n\x1a\n" + bytes(50)),
        ("array.npy", b"\x93NUMPY\x01\x00" + bytes(50)),
        ("packed", b"\x1f\x8b" + bytes(50)),
    ],
)
def test_an_unknown_file_gets_the_formats(name, content, here):
    (here / name).write_bytes(content)
    with pytest.raises(StorageError) as raised:
        saved_trees.read(name)
    assert str(raised.value).startswith(f"{name} is ") and registry.FORMATS in str(raised.value)


def written(here: Path) -> dict[str, bytes]:
    np.savez(here / "npz", **flat(VARIABLES, "/"))
    (here / "npz.npz").rename(here / "npz")
    (here / "flax").write_bytes(serialization.to_bytes(VARIABLES))
    write_easylm(here / "easylm", PARAMS)
    save_file(flat(VARIABLES, "."), here / "safetensors")
    return {path.name: path.read_bytes() for path in here.iterdir()}


@pytest.mark.parametrize("name", ["npz", "flax", "easylm", "safetensors"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_named(name, part, here):
    whole = written(here)[name]
    (here / name).write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(StorageError, match=rf"^{name} is (a damaged checkpoint \(.*\): |no checkpoint of a format)"):
        saved_trees.read(name)


@pytest.mark.parametrize("name", ["npz", "flax", "easylm", "safetensors"])
def test_flipped_bytes_end_in_a_sentence(name, here):
    whole = written(here)[name]
    for at in range(0, min(len(whole), 400), 3):
        (here / name).write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(StorageError):
            saved_trees.read(name)


@pytest.mark.parametrize("content", [b"", b"{", b"\x82"])
def test_a_damaged_t5x_folder_is_named(content, here):
    write_t5x(here / "ck", {"dense": {"kernel": np.ones((2, 2))}})
    (here / "ck" / "target.dense.kernel" / ".zarray").write_bytes(content)
    with pytest.raises(
        StorageError, match=r"^ck is a damaged checkpoint \(T5X\): target.dense.kernel/.zarray does not"
    ):
        saved_trees.read("ck")


@pytest.mark.parametrize("fifo", ["model.safetensors.index.json", "model-1.safetensors"])
def test_a_fifo_within_a_checkpoint_is_not_opened(fifo, here):
    folder = here / "sharded"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"kernel": "model-1.safetensors"}}')
    (folder / fifo).unlink(missing_ok=True)
    os.mkfifo(folder / fifo)
    with pytest.raises(StorageError, match="it is a FIFO, and no file"):
        saved_trees.read("sharded")


def test_a_fifo_is_not_opened(here):
    os.mkfifo(here / "fifo")
    with pytest.raises(StorageError, match="^fifo is a FIFO, and no file or folder"):
        saved_trees.read("fifo")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_named(here):
    (here / "closed").mkdir(mode=0)
    (here / "file").write_bytes(b"\x81")
    (here / "file").chmod(0)
    for name in ("closed", "file", "closed/x", "closed#x"):
        with pytest.raises(StorageError, match=f"^{name.partition('#')[0]} can't be read: permission denied"):
            saved_trees.read(name)


def test_a_wrong_part_names_the_nearest(here):
    (here / "ck").write_bytes(serialization.to_bytes({"model": VARIABLES}))
    for part, said, typed in [
        ("nope", "ck holds model, and no nope", "ck#model"),
        ("model/parms", "ck#model holds params, batch_stats, and no parms", "ck#model/params"),
        ("model/params/embed", "ck#model/params/embed holds an array, not a tree of variables", None),
        ("model/params/embed/x", "ck#model/params/embed holds an array, and no x", "ck#model/params/embed"),
    ]:
        with pytest.raises(StorageError) as raised:
            saved_trees.read(f"ck#{part}")
        assert (raised.value.what, raised.value.suggestion) == (said, typed)


def test_paths_may_contain_the_sign(here):
    (here / "a#b").mkdir()
    (here / "a#b" / "ck").write_bytes(serialization.to_bytes({"model": VARIABLES}))
    assert same("a#b/ck", VARIABLES) and same("a#b/ck#model/params", {"params": PARAMS})


def test_names_that_collide_stay_flat(here):
    save_file({"a": np.ones(1), "a.b": np.ones(2)}, here / "ck")
    assert set(saved_trees.read("ck").variables["params"]) == {"a", "a.b"}


def test_bfloat16_in_npz_is_read(here):
    buffer = io.BytesIO()
    np.savez(buffer, **flat(BF16, "/"))
    (here / "ck").write_bytes(buffer.getvalue())
    assert same("ck", BF16)
