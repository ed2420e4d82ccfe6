"""`export` and `import`: every layer of conf/ goes out in each form, others' own calls read it, and it comes back."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from command_line import run
from flax import nnx

from runner.arrays import checkpoint, trees
from runner.arrays.formats import safetensors_file
from runner.arrays.formats.contents import Contents
from runner.bridge import twins, wrap
from runner.commands import main
from runner.commands.derived import exported_variables, imported_variables
from runner.config import schema, serialize
from runner.errors import UserError
from runner.experiment import saved_run
from runner.records import store
from runner.records.disk import files
from runner.records.paths import RunFolder

# A sweep over every layer, three formats each way.
pytestmark = pytest.mark.slow

LAYERS = [name for name in schema.layer_names() if name != "custom"]
NO_VARIABLES = {"dropout", "noise"}
TWINS = {
    *("batch_norm", "conv", "conv_transpose", "einsum", "embed", "group_norm", "instance_norm", "layer_norm"),
    *("linear", "linear_general", "multi_head_attention", "prelu", "rms_norm"),
}
LEAN = ("tracking=disabled", "timing=off", "checks=off")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """One run of every layer."""
    folder = tmp_path_factory.mktemp("exported")
    words = ["-m", f"layer={','.join(LAYERS)}", f"output_root={folder}", "sweep=all", *LEAN]
    assert main.main(words) == 0
    return folder / "all"


@pytest.fixture(params=LAYERS)
def layer(request, sweep) -> RunFolder:
    """The run of one layer."""
    return run_of(sweep, request.param)


def run_of(sweep: Path, name: str) -> RunFolder:
    (path,) = (sweep / "runs").glob(f"{LAYERS.index(name)}-*")
    return RunFolder(path)


def exported(run: RunFolder, to: str, out: Path) -> Path:
    assert exported_variables.export(run.path, to, out=out) == 0
    return out


def bits(tree) -> dict[str, str]:
    return {leaf.name: leaf.digest for leaf in trees.leaves(tree)}


def construct(run: RunFolder) -> nnx.Module:
    """A fresh native module of the layer of a run, as its user would build it."""
    record = store.read_record(run)
    layer = wrap.wrap(serialize.from_data(record.settings).layer)
    return layer.construct(nnx.Rngs(**dict.fromkeys(record.streams, 1)))


def recorded_input(run: RunFolder):
    return saved_run.SavedRun(run).x


# Every layer.


def test_every_export_format_round_trips(layer, tmp_path, capsys):
    record = store.read_record(layer)
    if record.layer in NO_VARIABLES:
        said = f"error: {layer.path}: the layer {record.layer} has no variables, there is nothing to export"
        assert run(capsys, "export", layer.path, "--to", "nnx")[2].startswith(said)
        return
    kinds = [kind for kind in exported_variables.KINDS if kind != "linen" or record.layer in TWINS]
    for kind in kinds:
        out = exported(layer, kind, tmp_path / (f"{kind}.safetensors" if kind == "safetensors" else kind))
        assert imported_variables.import_variables(out) == 0
        assert bits(checkpoint.restore(tmp_path / f"{kind}-variables")) == bits(checkpoint.restore(layer.checkpoint))
        assert imported_variables.import_variables(out, like=layer.path, out=tmp_path / f"{kind}-like") == 0
        assert bits(checkpoint.restore(tmp_path / f"{kind}-like")) == bits(checkpoint.restore(layer.checkpoint))
    assert files.file_digests(layer) == record.files


@pytest.mark.parametrize("as_", saved_run.KINDS)
def test_reloaded_layers_give_the_recorded_output(as_, layer):
    record = store.read_record(layer)
    made = trees.named_arrays(saved_run.reload(layer.path, as_=as_).apply())
    assert {path: trees.array_digest(array) for path, array in made.items()} == {
        array.path: array.digest for array in record.output
    }


def test_nnx_exports_restore_as_documented(layer, tmp_path):
    record = store.read_record(layer)
    if record.layer in NO_VARIABLES:
        return
    out = exported(layer, "nnx", tmp_path / "nnx")
    # The scales of nnx.WeightNorm are no Variables, and nnx.eval_shape loses them: a native save does not restore so.
    abstract = construct(layer) if record.layer == "weight_norm" else nnx.eval_shape(lambda: construct(layer))
    graphdef, abstract_state = nnx.split(abstract)
    with ocp.StandardCheckpointer() as checkpointer:
        model = nnx.merge(graphdef, checkpointer.restore(out, abstract_state))
    wanted = saved_run.reload(layer.path, as_="nnx").module
    assert same_state(model, wanted)


def same_state(one: nnx.Module, two: nnx.Module) -> bool:
    sides = [nnx.to_flat_state(nnx.state(module)) for module in (one, two)]
    assert [path for path, _ in sides[0]] == [path for path, _ in sides[1]]
    return all((raw(first) == raw(second)).all() for (_, first), (_, second) in zip(*sides, strict=True))


def raw(leaf) -> np.ndarray:
    value = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
    is_key = jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(value) if is_key else value)


# Each form.


@pytest.mark.parametrize("name", ["list", "spectral_norm", "bidirectional", "batch_norm"])
def test_native_modules_reproduce_the_recorded_output(name, sweep, tmp_path):
    source = run_of(sweep, name)
    out = exported(source, "nnx", tmp_path / "nnx")
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: construct(source)))
    with ocp.StandardCheckpointer() as checkpointer:
        model = nnx.merge(graphdef, checkpointer.restore(out, abstract))
    output = nnx.jit(lambda model, x: model(x))(model, recorded_input(source))
    assert (np.asarray(output) == np.load(source.path / "output.npy")).all()


def test_nnx_exports_equal_native_saves(sweep, tmp_path):
    source = run_of(sweep, "lstm")
    out = exported(source, "nnx", tmp_path / "nnx")
    save_natively(source, tmp_path / "native")
    metadata = [json.loads((path / "_METADATA").read_text())["tree_metadata"] for path in (out, tmp_path / "native")]
    assert metadata[0].keys() == metadata[1].keys()
    assert imported_variables.import_variables(tmp_path / "native", like=source.path) == 0
    assert bits(checkpoint.restore(tmp_path / "native-variables")) == bits(checkpoint.restore(source.checkpoint))


def save_natively(source: RunFolder, path: Path, change=lambda state: state) -> None:
    _, state = nnx.split(saved_run.reload(source.path, as_="nnx").module)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, change(state))


@pytest.mark.parametrize("name", ["sequential", "lora", "spectral_norm", "lstm"])
def test_pure_dicts_of_state_import(name, sweep, tmp_path):
    source = run_of(sweep, name)
    save_natively(source, tmp_path / "pure", nnx.to_pure_dict)
    assert imported_variables.import_variables(tmp_path / "pure", like=source.path) == 0
    assert bits(checkpoint.restore(tmp_path / "pure-variables")) == bits(checkpoint.restore(source.checkpoint))


@pytest.mark.parametrize("name", sorted(TWINS))
def test_linen_twins_reproduce_the_recorded_output(name, sweep, tmp_path):
    source = run_of(sweep, name)
    layer = wrap.wrap(serialize.from_data(store.read_record(source).settings).layer)
    twin = twins.twin_of(layer.model.nnx_class, layer.model.kwargs, layer.call).layer.model
    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore(exported(source, "linen", tmp_path / "linen"))
    mutable = [collection for collection in variables if collection != "params"]
    apply = jax.jit(lambda variables, x: twin.apply(variables, x, mutable=mutable)[0])
    output = apply(variables, recorded_input(source))
    assert (np.asarray(output) == np.load(source.path / "output.npy")).all()


def named(contents: Contents) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): leaf for path, leaf in trees.flatten(contents.load(contents.tree))}


def test_safetensors_files_describe_their_arrays(sweep, tmp_path):
    source = run_of(sweep, "list")
    record = store.read_record(source)
    contents = safetensors_file.read(exported(source, "safetensors", tmp_path / "x.safetensors"))
    arrays, metadata = named(contents), contents.texts
    assert sorted(arrays) == [f"params.layers.{index}.{name}" for index in (0, 1) for name in ("bias", "kernel")]
    found = json.loads(metadata["bridge_runner"])
    assert (found["settings"], found["run_id"], found["layer"]) == (record.settings, record.run_id, "list")
    first = record.variables[0]
    assert found["leaves"][0] == {
        "name": "params.layers.0.bias",
        "collection": "params",
        "path": ["params", "layers", 0, "bias"],
        "keys": ["str", "str", "int", "str"],
        "shape": first.shape,
        "dtype": "float32",
        "axes": None,
        "digest": first.digest,
    }


def test_tuple_keys_are_marked_in_safetensors(sweep, tmp_path):
    found = safetensors_file.read(exported(run_of(sweep, "weight_norm"), "safetensors", tmp_path / "x.safetensors"))
    leaf = json.loads(found.texts["bridge_runner"])["leaves"][0]
    assert (leaf["path"][1:], leaf["keys"]) == (["scales", "('kernel',)"], ["str", "str", "tuple"])


@pytest.mark.parametrize("dtype", sorted(safetensors_file.DTYPES.values()))
def test_every_safetensors_dtype_round_trips(dtype, tmp_path):
    array = np.arange(6).reshape(2, 3).T.astype(getattr(ml_dtypes, dtype, dtype))
    safetensors_file.write(tmp_path / "x.safetensors", {"a": array, "scalar": array[1, 1]}, {"text": "t"})
    contents = safetensors_file.read(tmp_path / "x.safetensors")
    back, metadata = named(contents), contents.texts
    assert (back["a"].dtype, back["a"].shape, back["a"].tobytes()) == (array.dtype, (3, 2), array.tobytes())
    assert (back["scalar"].shape, metadata) == ((), {"text": "t"})


def test_unsupported_safetensors_dtypes_are_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        safetensors_file.write(tmp_path / "x.safetensors", {"a": np.ones(2, np.complex128)}, {})
    assert str(caught.value) == "a is complex128, which safetensors has no name for.\n  Try: --to nnx"


def test_imported_variables_give_the_same_output(sweep, tmp_path, capsys):
    source = run_of(sweep, "spectral_norm")
    out = exported(source, "safetensors", tmp_path / "x.safetensors")
    capsys.readouterr()
    place = tmp_path / "x-variables"
    said = f"4 leaves, the same bits as exported: {place}\nstart from them: bridge-runner KEY=… variables={place}\n"
    assert run(capsys, "import", out) == (0, said, "")
    words = ("layer=spectral_norm", f"variables={place}", f"output_root={tmp_path}", "sweep=again")
    assert main.main([*words, *LEAN]) == 0
    (again,) = (tmp_path / "again" / "runs").iterdir()
    assert (np.load(again / "output.npy") == np.load(source.path / "output.npy")).all()


def test_import_counts_leaves_changed_by_training(sweep, tmp_path, capsys):
    source = run_of(sweep, "linear")
    variables = checkpoint.restore(source.checkpoint)
    variables["params"]["kernel"] = variables["params"]["kernel"] * 2
    checkpoint.save(variables, tmp_path / "more")
    place = tmp_path / "new"
    code, said, _ = run(capsys, "import", tmp_path / "more", "--like", source.path, "--out", place)
    assert (code, said.splitlines()[0]) == (0, f"2 leaves, 1 of them with the bits of {source.path}: {place}")
    assert bits(checkpoint.restore(place)) == bits(variables)


# Where.


@pytest.mark.parametrize(("kind", "end"), [("nnx", "-nnx"), ("linen", "-linen"), ("safetensors", ".safetensors")])
def test_exports_are_never_overwritten(kind, end, sweep, capsys):
    source = run_of(sweep, "linear")
    place = sweep / "exports" / f"{source.path.name}{end}"
    assert run(capsys, "export", source.path, "--to", kind) == (0, f"2 leaves, 160 bytes: {place}\n", "")
    another = sweep / "exports" / (f"{source.path.name}-2{end}" if end[0] == "." else f"{source.path.name}{end}-2")
    refusal = f"error: {place} is there already and is not overwritten.\n  Try: --out {another}\n"
    assert run(capsys, "export", source.path, "--to", kind) == (2, "", refusal)
    assert not [path for path in place.parent.iterdir() if path.name.startswith(".")]
    assert run(capsys, "verify", source.path, "--no-code")[0] == 0


@pytest.mark.parametrize("place", [".", "..", "/"])
def test_folders_without_a_name_are_refused(place, sweep, capsys, monkeypatch, tmp_path):
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    source = run_of(sweep, "linear")
    another = Path(place, "export-2")
    refusal = f"error: {Path(place)} is there already and is not overwritten.\n  Try: --out {another}\n"
    assert run(capsys, "export", source.path, "--to", "safetensors", "--out", place) == (2, "", refusal)
    if place != "/":
        assert run(capsys, "export", source.path, "--to", "safetensors", "--out", another)[0] == 0


def test_exports_into_a_run_are_refused(sweep, capsys):
    source = run_of(sweep, "linear")
    place = source.path / "export"
    said = (
        f"error: {place} is inside the run's folder, and verify would call it foreign.\n  Try: the same without --out\n"
    )
    assert run(capsys, "export", source.path, "--to", "linen", "--out", place) == (2, "", said)


def test_paths_with_wildcards_are_refused(sweep, tmp_path, capsys):
    place = tmp_path / "shape=[4]"
    said = (
        f"error: {place}: Orbax reads '[' in a path as a wildcard, or not at all.\n"
        "  Try: --out with letters, digits, . _ and -\n"
    )
    assert run(capsys, "export", run_of(sweep, "linear").path, "--to", "linen", "--out", place) == (2, "", said)


# What can't be done.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "export",
            "export: the following arguments are required: run, --to.\n  Try: bridge-runner export "
            "outputs/SWEEP/runs/RUN --to nnx|linen|safetensors [--out PATH] [--trust]",
        ),
        ("export nowhere --to nxx", "export: --to nxx: there are nnx, linen, safetensors.\n  Try: --to nnx"),
        (
            "export nowhere --to tensors",
            "export: --to tensors: there are nnx, linen, safetensors.\n  Try: --to safetensors",
        ),
        ("export nowhere --to nnx", "nowhere is no run: it has no record.json.\n  Try: bridge-runner ls SWEEP"),
        (
            "import",
            "import: the following arguments are required: path.\n  Try: bridge-runner import PATH "
            "[--like outputs/SWEEP/runs/RUN] [--out FOLDER]",
        ),
        ("import nowhere", "there is no file or folder nowhere."),
    ],
)
def test_invalid_arguments_exit_with_2(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *words.split()) == (2, "", f"error: {said}\n")


def test_linen_export_without_twin_is_explained(sweep, tmp_path, capsys):
    words = ("export", run_of(sweep, "mlp").path, "--to", "linen", "--out", tmp_path / "x")
    said = "error: the layer mlp has no Linen twin: flax.linen has no MLP.\n  Try: --to nnx\n"
    assert run(capsys, *words) == (2, "", said)


def one_run(folder: Path, *words: str) -> RunFolder:
    assert main.main([*words, f"output_root={folder}", "sweep=s", *LEAN]) == 0
    (path,) = (folder / "s" / "runs").iterdir()
    return RunFolder(path)


def test_twins_with_another_tree_are_refused(tmp_path, capsys):
    path = one_run(tmp_path, "layer=einsum", "layer.kwargs.bias_shape=[1,8]", "input_shape=[2,4]").path
    said = (
        "error: the Linen twin of einsum, nn.Einsum, has another tree: "
        "params/bias is float32[1,8], wanted float32[8].\n  Try: --to nnx\n"
    )
    capsys.readouterr()
    assert run(capsys, "export", path, "--to", "linen") == (2, "", said)


@pytest.fixture(scope="module")
def host_run(tmp_path_factory) -> RunFolder:
    """A run of a host."""
    return one_run(tmp_path_factory.mktemp("host"), "host=mlp")


@pytest.mark.parametrize(("kind", "what"), [("nnx", "native module"), ("linen", "Linen twin")])
def test_hosts_export_only_to_safetensors(kind, what, host_run, capsys):
    host = store.read_record(host_run).host
    said = f"error: {host_run.path} is a run of the host {host}, which has no {what}.\n  Try: --to safetensors\n"
    capsys.readouterr()
    assert run(capsys, "export", host_run.path, "--to", kind) == (2, "", said)


def test_a_host_comes_back_from_safetensors(host_run, tmp_path):
    out = exported(host_run, "safetensors", tmp_path / "host.safetensors")
    assert imported_variables.import_variables(out) == 0
    assert bits(checkpoint.restore(tmp_path / "host-variables")) == bits(checkpoint.restore(host_run.checkpoint))


def test_missing_checkpoints_suggest_saving_one(tmp_path, capsys):
    path = one_run(tmp_path, "checkpoint=none").path
    said = f"error: {path} has no checkpoint.\n  Try: checkpoint=orbax\n"
    capsys.readouterr()
    assert run(capsys, "export", path, "--to", "nnx") == (2, "", said)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_damaged_leaves_stop_the_export(sweep, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(run_of(sweep, "linear").path, tmp_path / "bad"))
    flip(folder.checkpoint / "params.kernel" / "0.0")
    said = f"error: {folder.checkpoint} is not what the run saved: params/kernel has other bits.\n"
    for kind in exported_variables.KINDS:
        assert run(capsys, "export", folder.path, "--to", kind) == (2, "", said)
    assert not (tmp_path / "exports").exists()


def test_missing_safetensors_package_is_explained(sweep, tmp_path, monkeypatch, capsys):
    source = run_of(sweep, "linear")
    out = exported(source, "safetensors", tmp_path / "x.safetensors")
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    said = "error: the package safetensors is not installed.\n  Try: pip install 'bridge-runner[safetensors]'\n"
    assert run(capsys, "export", source.path, "--to", "safetensors", "--out", tmp_path / "y") == (2, "", said)
    assert run(capsys, "import", out)[0] == 0  # reading takes no package


# Imports of what is not what it says.


def import_refused(capsys, *words: object) -> str:
    capsys.readouterr()
    code, out, error = run(capsys, "import", *words)
    assert (code, out) == (2, "")
    return error.removeprefix("error: ").rstrip("\n")


def test_import_names_the_flipped_leaf(sweep, tmp_path, capsys):
    folder = exported(run_of(sweep, "linear"), "linen", tmp_path / "linen")
    flip(folder / "params.kernel" / "0.0")
    file = exported(run_of(sweep, "linear"), "safetensors", tmp_path / "x.safetensors")
    content = bytearray(file.read_bytes())
    arrays = named(safetensors_file.read(file))
    content[content.index(arrays["params.kernel"].tobytes())] ^= 1
    file.write_bytes(content)
    for path in (folder, file):
        said = f"{path} is not what was exported: params/kernel has other bits.\n  Try: export the run again"
        assert import_refused(capsys, path) == said
    assert not (tmp_path / "x-variables").exists()


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (
            {"bias": (8,), "kernel": (8, 4), "scale": (3,)},
            "params/kernel is float32[8,4], wanted float32[4,8], scale is extra.",
        ),
        (
            {"params": {"bias": (8,), "kernal": (4,)}},
            "params/kernel is missing (the nearest is params/kernal), params/kernal is extra.",
        ),
        (
            {"params": {"bias": (8,), "inner": {"kernel": (4, 8)}}},
            "params/kernel is missing (it may be params/inner/kernel).",
        ),
        ({"params": {"bias": (8,)}}, "params/kernel is missing."),
    ],
    ids=["misshapen", "misspelt", "moved", "missing"],
)
def test_import_names_leaves_that_differ(tree, said, sweep, tmp_path, capsys):
    source = run_of(sweep, "linear")
    arrays = jax.tree.map(lambda shape: np.ones(shape, np.float32), tree, is_leaf=lambda node: isinstance(node, tuple))
    checkpoint.save(arrays, tmp_path / "c")
    wanted = f"{tmp_path / 'c'} is not what {source.path} says: {said}"
    assert import_refused(capsys, tmp_path / "c", "--like", source.path) == wanted


def test_native_saves_need_like(tmp_path, capsys):
    path = tmp_path / "native"
    checkpoint.save({"kernel": np.ones((4, 8), np.float32)}, path)
    said = f"{path} does not say what its arrays are: bridge-runner did not write it.\n  Try: import {path} --like RUN"
    assert import_refused(capsys, path) == said


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "TypeError: list indices must be integers or slices, not str"),
        ('{"version": 1}', "KeyError: 'leaves'"),
        ('{"version": 1, "leaves": [{"path": [], "shape": [], "dtype": "f4", "digest": ""}]}', "ValueError: "),
        ("[" * 100_000, "RecursionError: "),
    ],
    ids=["empty", "list", "no leaves", "no path", "deep"],
)
def test_a_damaged_description_is_refused(content, reason, sweep, tmp_path, capsys):
    out = exported(run_of(sweep, "linear"), "linen", tmp_path / "linen")
    (out / "bridge_runner.json").write_text(content)
    said = import_refused(capsys, out)
    assert said.startswith(f"{out}: its description is damaged: {reason}")
    assert said.endswith(f"Try: import {out} --like RUN")


def test_other_description_versions_are_refused(sweep, tmp_path, capsys):
    out = exported(run_of(sweep, "linear"), "linen", tmp_path / "linen")
    (out / "bridge_runner.json").write_text('{"version": 2}')
    assert import_refused(capsys, out) == f"{out}: its description has version 2, this program reads 1."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"not tensors", "no checkpoint of a format that is known: there are Orbax folders, flax msgpack"),
        (pickle.dumps({"a": 1}), "a pickle: reading it could run any code, so it is never loaded"),
        (b"\xff" * 64, "no checkpoint of a format that is known"),
        (b"\x09" + bytes(7) + b'{"a": 1 }', "a damaged checkpoint (safetensors): its header is no description"),
        (b"\x09" + bytes(6) + b"\x01" + b'{"a": 1 }', "no checkpoint of a format that is known"),
        (b"\x99" + bytes(7) + b'{"a": 1 }', "a damaged checkpoint (safetensors): it is cut off"),
    ],
)
def test_foreign_files_are_refused(content, said, tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert import_refused(capsys, path).startswith(f"{path} is {said}")


def test_folders_without_a_checkpoint_are_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert import_refused(capsys, tmp_path / "empty").startswith(f"{tmp_path / 'empty'} holds no checkpoint")


# Strangers.


STRANGER = """
import pathlib
from flax import nnx

pathlib.Path("ran").touch()


class Layer(nnx.Linear):
    def __init__(self, *, rngs):
        super().__init__(4, 2, rngs=rngs)
"""


def test_untrusted_layers_are_not_built(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strangers_module.py").write_text(STRANGER)
    path = one_run(tmp_path, "layer=custom", "layer.target=strangers_module.Layer").path
    del sys.modules["strangers_module"]
    (tmp_path / "ran").unlink()
    capsys.readouterr()
    reason = "rebuilding this run imports strangers_module.Layer, which runs its code"
    for kind in ("nnx", "linen"):
        refusal = f"error: {reason}.\n  Try: the same with --trust\n"
        assert run(capsys, "export", path, "--to", kind) == (2, "", refusal)
    assert run(capsys, "export", path, "--to", "safetensors", "--out", "x.safetensors")[0] == 0
    assert run(capsys, "import", "x.safetensors")[0] == 0
    assert run(capsys, "import", "x.safetensors", "--like", path, "--out", "y")[0] == 0
    assert not (tmp_path / "ran").exists()
    assert run(capsys, "export", path, "--to", "nnx", "--trust")[0] == 0
    assert (tmp_path / "ran").exists()
