"""One run over a mesh of devices: placed by the names of its axes, saved in parts, and the same wherever it is read.

JAX takes the number of devices once a process, so what needs eight, or four, runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import runner
from runner.arrays import trees
from runner.arrays.mesh import SPELL_AXES, on_mesh
from runner.commands import main
from runner.errors import ConfigError, LayerError, UserError
from runner.experiment import draft, identity
from runner.records import store
from runner.records.paths import RunFolder

HERE = Path(__file__).resolve().parents[1] / "support"
X = ("input_shape=[4,8]", "features=16", "process.num_cpu_devices=8", "tracking=disabled", "timing=off")
MESH = "mesh.axes={data:2,model:4}"

jax.devices()  # from here on this process has one
LAYERS = ("Block", "boxed", "both", "Keyed")


def python(*arguments: str, folder: Path | None = None) -> str:
    """What a process of its own prints."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Three layers on a mesh of eight devices, the first of them trained for some steps."""
    folder = tmp_path_factory.mktemp("meshed")
    targets = ",".join(f"meshed_layers.{name}" for name in LAYERS)
    words = ("-m", *X, MESH, "layer=custom", "layer.kwargs.features=16", "train=short")
    zipped = (f"layer.target={targets}", "train.steps=3,0,0,0", "grid.zip=[[layer.target,train.steps]]")
    python("-m", "runner", *words, *zipped, "sweep=on", f"output_root={folder}")
    return folder / "on"


def run_of(sweep: Path, num: int) -> RunFolder:
    (path,) = (sweep / "runs").glob(f"{num}-*")
    return RunFolder(path)


@pytest.mark.slow
def test_record_has_mesh_and_leaf_shardings(sweep):
    record = store.read_record(run_of(sweep, 0))
    assert record.mesh is not None
    assert (record.mesh.axes, record.mesh.x, record.mesh.num_processes) == ({"data": 2, "model": 4}, ["data", None], 1)
    assert record.mesh.devices == [f"cpu:{num}" for num in range(8)]
    assert {leaf.name: leaf.spec for leaf in record.variables if leaf.path[0] == "params"} == {
        "params/down/bias": [None],
        "params/down/kernel": ["model", None],
        "params/norm/bias": [None],
        "params/norm/scale": [None],
        "params/up/bias": ["model"],
        "params/up/kernel": [None, "model"],
    }
    both = {leaf.name: leaf.spec for leaf in store.read_record(run_of(sweep, 2)).variables}
    assert both["params/kernel"] == [None, ["data", "model"]]


@pytest.mark.slow
def test_show_prints_mesh_and_partition_specs(sweep, capsys):
    assert main.main(["show", str(run_of(sweep, 0).path)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "layer Block on cpu: mesh data=2, model=4 over 8 devices, x cut by [data,null]" in lines
    specs = {line.split()[0]: line.partition("  [")[2] for line in lines if line.startswith("params/")}
    assert specs["params/up/kernel"] == "null,model] by [null,model] NNXMeta"
    assert specs["params/down/bias"] == "null]"


@pytest.mark.slow
@pytest.mark.parametrize("num", range(len(LAYERS)))
def test_one_device_check_covers_mesh_runs(sweep, num):
    record = store.read_record(run_of(sweep, num))
    (check,) = (check for check in record.checks if check.name == "one_device")
    # Whether eight devices round as one does is up to the CPU's vector instructions.
    if check.verdict.value == "pass":
        assert check.detail == "init and apply give the bits of one device"
    else:
        assert check.verdict.value == "warn"
        assert check.detail.startswith("against one device init gives the same bits; apply is rounded otherwise (")


@pytest.mark.slow
def test_each_shard_has_its_own_file(sweep):
    files = [path.name for path in (run_of(sweep, 2).checkpoint / "params.kernel").iterdir()]
    assert sorted(files) == sorted([".zarray", *(f"0.{part}" for part in range(8))])


@pytest.mark.slow
def test_verify_is_exact_on_equal_devices(sweep):
    out = python("-m", "runner", "verify", str(run_of(sweep, 0).path), "--trust")
    assert "applied again, the output is the same bit for bit\n1 of 1 runs verified\n" in out


@pytest.mark.slow
@pytest.mark.parametrize("num", range(len(LAYERS)))
def test_verify_on_one_device_reports_tolerance(sweep, num, capsys):
    assert main.main(["verify", str(run_of(sweep, num).path), "--trust"]) == 0
    out = capsys.readouterr().out
    within = "; applied on 1 device instead of 8, the output is within " in out
    assert within or "; applied again, the output is the same bit for bit" in out


@pytest.mark.slow
def test_a_flipped_shard_bit_fails_verify(sweep, tmp_path, capsys):
    folder = shutil.copytree(run_of(sweep, 2).path, tmp_path / "flipped")
    part = folder / "checkpoint" / "params.kernel" / "0.3"
    content = bytearray(part.read_bytes())
    content[5] ^= 1
    part.write_bytes(content)
    assert main.main(["verify", str(folder), "--trust"]) == 4
    assert "is not what the run saved: params/kernel has other bits" in capsys.readouterr().out


def digests(variables) -> dict[str, str]:
    return {leaf.name: leaf.digest for leaf in trees.leaves(variables)}


def recorded(folder: RunFolder) -> dict[str, str]:
    return {leaf.name: leaf.digest for leaf in store.read_record(folder).variables}


@pytest.mark.slow
@pytest.mark.parametrize("num", range(len(LAYERS)))
def test_plain_orbax_restores_onto_one_device(sweep, num):
    folder = run_of(sweep, num)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaves = store.read_record(folder).variables
    shapes = {
        tuple(leaf.path): jax.ShapeDtypeStruct(leaf.shape, np.dtype(leaf.dtype), sharding=here) for leaf in leaves
    }
    found = ocp.StandardCheckpointer().restore(folder.checkpoint, trees.nest(shapes.items()))
    assert digests(found) == recorded(folder)


@pytest.mark.slow
def test_reload_on_one_device_restores_weights(sweep):
    folder = run_of(sweep, 0)
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    for sharding in (None, mesh, jax.sharding.SingleDeviceSharding(jax.devices()[0])):
        assert digests(runner.reload(folder.path, sharding=sharding, trust=True).variables) == recorded(folder)
    tree = jax.tree.map(lambda leaf: leaf.sharding, runner.reload(folder.path, sharding=mesh, trust=True).variables)
    again = runner.reload(folder.path, sharding=tree, trust=True).variables
    assert again["params"]["up"]["kernel"].sharding.spec == jax.sharding.PartitionSpec(None, "model")
    module = runner.reload(folder.path, as_="nnx", trust=True).module
    assert trees.array_digest(module.up.kernel[...]) == recorded(folder)["params/up/kernel"]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", [{}, "model", jax.sharding.PartitionSpec("model")], ids=str)
def test_reload_refuses_invalid_shardings(sweep, sharding):
    with pytest.raises(UserError, match=r"it has no sharding for \w+/") as caught:
        runner.reload(run_of(sweep, 1).path, sharding=sharding, trust=True)
    assert caught.value.suggestion == "sharding=Mesh(…), or a jax.sharding.Sharding, or a tree of them"


ON_FOUR = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
import orbax.checkpoint as ocp
import runner
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from runner.arrays import trees

mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
found = runner.reload(sys.argv[1], sharding=mesh, trust=True).variables
again = ocp.StandardCheckpointer().restore(
    sys.argv[1] + "/checkpoint",
    jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), found),
)
for tree in (found, again):
    print(json.dumps({leaf.name: [leaf.digest, leaf.spec] for leaf in trees.leaves(tree)}))
"""


@pytest.mark.slow
def test_four_devices_restore_eight_device_checkpoint(sweep):
    folder = run_of(sweep, 0)
    ours, plain = map(json.loads, python("-c", ON_FOUR, str(folder.path)).splitlines())
    assert ours == plain
    assert {name: digest for name, (digest, _) in ours.items()} == recorded(folder)
    assert ours["params/up/kernel"][1] == [None, "model"]


BLOCKS = """
import itertools
import jax
jax.config.update("jax_num_cpu_devices", 8)
import ml_dtypes
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from runner.arrays import shards, trees

mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
shards.BLOCK_BYTES = 200
names = (None, "data", "model", ("data", "model"))
num = 0
for dtype in (np.float32, ml_dtypes.bfloat16, np.int8):
    for spec in itertools.product(names, repeat=3):
        array = np.arange(16 * 8 * 8).reshape(16, 8, 8).astype(dtype)
        try:
            placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
        except Exception:  # one axis twice, or an array too small
            continue
        blocks = list(shards.blocks(placed))
        assert all(block.nbytes <= max(200, 64 * array.itemsize) for block in blocks), spec
        assert b"".join(block.tobytes() for block in blocks) == array.tobytes(), spec
        assert trees.array_digest(placed) == trees.array_digest(array), spec
        num += 1
for array in (np.float32(3), np.zeros((0, 4), np.float32)):
    placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec()))
    assert trees.array_digest(placed) == trees.array_digest(np.asarray(array))
print(num)
"""


@pytest.mark.slow
def test_sharded_digests_never_gather_the_array():
    assert int(python("-c", BLOCKS)) == 48


REFUSED = """
import json, sys
from runner.arrays import devices
from runner.sweep import plan
from runner.config.composing import compose
from runner.errors import UserError
devices.prepare_process(8, "off")
for words in json.loads(sys.argv[1]):
    try:
        plan.validate([plan.Config(run=compose.compose(words))])
    except UserError as error:
        print(f"error: {error}")
"""

CUSTOM = ("layer=custom", "layer.kwargs.features=16", "layer.target=meshed_layers.")

WRONG = [
    (["mesh.axes=8"], "mesh.axes=8: a mesh has named axes, each with its size", "'mesh.axes={data:2,model:4}'"),
    (
        ["mesh.axes={data:0}"],
        "mesh.axes={data:0}: an axis has a name and a whole number of devices, and data:0 is none",
        "'mesh.axes={data:2,model:4}'",
    ),
    (["mesh.input=[data]"], "mesh.input=[data]: there is no mesh", "'mesh.axes={data:2}'"),
    (["mesh.rules={embed:data}"], "mesh.rules={embed:data}: there is no mesh", "'mesh.axes={data:2}'"),
    (
        [MESH, "device=cpu:1"],
        "device=cpu:1: a mesh takes the first devices of a kind, and none by its index",
        "device=cpu",
    ),
    (
        ["mesh.axes={data:3,model:4}"],
        "mesh.axes={data:3,model:4}: it takes 12 devices, and here are 8 of the kind cpu",
        "process.num_cpu_devices=12 'mesh.axes={data:3,model:4}'",
    ),
    (
        [MESH, "mesh.input=[batch]"],
        "mesh.input=[batch]: x has the axis name batch, and the mesh has data, model",
        "'mesh.input=[data]'",
    ),
    (
        [MESH, "mesh.input=[model]", "input_shape=[6,8]"],
        "mesh.input=[model]: axis 0 of x has 6 elements, which model=4 can't cut into equal parts",
        "'mesh.input=[]'",
    ),
    (
        [MESH, "mesh.input=[data,null,model]"],
        "mesh.input=[data,null,model]: x has 2 axes and 3 names",
        "'mesh.input=[]'",
    ),
    (
        ["mesh.axes={data:2,model:2}", *CUSTOM[:-1], CUSTOM[-1] + "Block", "layer.kwargs.features=9"],
        "mesh.axes={data:2,model:2}: axis 0 of params/down/kernel has 9 elements, which model=2 can't cut into "
        "equal parts",
        "'mesh.axes={data:2,model:1}'",
    ),
    (
        [MESH, *CUSTOM[:-1], CUSTOM[-1] + "both", "layer.kwargs.features=12"],
        f"{MESH}: axis 1 of params/kernel has 12 elements, which data=2, model=4 can't cut into equal parts",
        "'mesh.axes={data:1,model:1}'",
    ),
    (
        [MESH, *CUSTOM[:-1], CUSTOM[-1] + "logical"],
        f"{MESH}: params/kernel has the axis name embed, and the mesh has data, model",
        "'mesh.rules={embed:data}'",
    ),
    (
        [MESH, *CUSTOM[:-1], CUSTOM[-1] + "three_names"],
        f"{MESH}: params/kernel has 2 axes and 3 names",
        SPELL_AXES,
    ),
    (
        [MESH, *CUSTOM[:-1], CUSTOM[-1] + "twice"],
        f"{MESH}: params/kernel is cut along model twice",
        SPELL_AXES,
    ),
    (
        [MESH, *CUSTOM[:-1], CUSTOM[-1] + "FourBits"],
        f"{MESH}: Variable/levels is int4, which JAX passes on to no program over several devices",
        "mesh.axes=null",
    ),
]


@pytest.fixture(scope="module")
def refusals() -> list[str]:
    """What is said of each of `WRONG`."""
    words = json.dumps([[*X, *wrong] for wrong, _, _ in WRONG])
    said = python("-c", REFUSED, words)
    return said.removeprefix("error: ").split("\nerror: ")


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(WRONG)), ids=lambda index: WRONG[index][1].partition(": ")[2])
def test_invalid_meshes_are_refused_up_front(refusals, index):
    _, what, suggestion = WRONG[index]
    assert refusals[index].strip() == f"{what}.\n  Try: {suggestion}"


def test_mesh_axis_order_changes_all_ids(make_run):
    meshes = (
        "mesh.axes={data:2,model:4}",
        "mesh.axes={model:4,data:2}",
        "mesh.axes={data:4,model:2}",
        "mesh.axes=null",
    )
    names = [identity.identity_of(make_run(mesh)) for mesh in meshes]
    for key in ("program_id", "result_id", "run_id"):
        assert len({getattr(one, key) for one in names}) == len(meshes)


def test_axis_names_need_a_mesh(make_run):
    run = make_run("layer.kwargs.kernel_metadata={out_sharding:[data,model]}")
    with pytest.raises(LayerError, match="An auto mesh context or metadata is required") as caught:
        draft.make_draft(run, identity.identity_of(run))
    assert caught.value.suggestion == "'mesh.axes={data:1,model:1}'"


def test_remote_runs_trace_on_one_device(make_run):
    words = ("layer.kwargs.kernel_metadata={out_sharding:[data,model]}", "input_shape=[4,8]", "device=gpu")
    run = make_run("mesh.axes={data:2,model:4}", *words)
    drafted = draft.make_draft(run, identity.identity_of(run, remote_platform="gpu"))
    assert drafted.placement.mesh.size == 1
    other = make_run("mesh.axes={data:2,model:3}", *words)
    named = identity.identity_of(other, remote_platform="gpu")
    with pytest.raises(ConfigError, match="axis 1 of params/kernel has 8 elements, which model=3"):
        draft.make_draft(other, named)


def test_unshardable_inputs_are_replicated(make_run):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    for shape, spec in ([4], [None]), ([3, 4], ["data", None]):
        run = make_run("mesh.axes={data:1}", f"input_shape={shape}")
        info = on_mesh(run, mesh, jax.ShapeDtypeStruct(shape, "float32"), {}).info()
        assert info is not None and info.x == spec
