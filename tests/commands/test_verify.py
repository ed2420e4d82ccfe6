"""`verify`: what was changed behind our back is found and named; what was not is the same bit for bit."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bare_record import RECORD
from command_line import run

import runner
from runner.arrays import trees
from runner.commands import main
from runner.commands.saved import verifier
from runner.errors import UserError
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.records import store
from runner.records.codec import seal
from runner.records.disk import files
from runner.records.paths import RunFolder
from runner.timing import machine

LEAN = ("tracking=disabled", "timing=off")


def redone(sweep: Path) -> str:
    return f"what is damaged or missing is done again by `bridge-runner resume {sweep} --verify`\n"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """A sweep of three layers, two seeds each."""
    folder = tmp_path_factory.mktemp("verified")
    layers = "layer=mlp,sequential,dropout"
    words = ["-m", layers, "seed=0,1", "checks=off", f"output_root={folder}", "sweep=good", *LEAN]
    assert main.main(words) == 0
    return folder / "good"


def run_folder(sweep: Path, num: int) -> Path:
    (path,) = (sweep / "runs").glob(f"{num}-*")
    return path


def edit(folder: Path, change: Callable[[dict], None]) -> None:
    """Changes a record as somebody would who knows how it is sealed."""
    path = folder / "record.json"
    data = json.loads(path.read_text())
    del data["digest"]
    change(data)
    path.write_bytes(seal(json.dumps(data, indent=1).encode()))


def test_every_run_of_a_sweep_verifies(sweep, capsys):
    assert run(capsys, "verify", sweep) == (0, "6 of 6 runs verified\n", "")


def test_a_run_says_what_was_compared(sweep, capsys):
    folder = run_folder(sweep, 0)
    num_files = sum(path.is_file() for path in folder.rglob("*"))
    said = f"{folder.name}: {num_files} files and 4 leaves as they were written; applied again, the output is the same"
    assert run(capsys, "verify", folder) == (0, f"{said} bit for bit\n1 of 1 runs verified\n", "")


def enormous(record: dict) -> None:
    record["settings"]["layer"]["kwargs"]["out_features"] = 99_999_999_999
    record["settings"]["features"] = 99_999_999_999


def test_enormous_sizes_of_a_record_are_refused(sweep, tmp_path, capsys):
    shutil.copytree(sweep, tmp_path / "copy")
    folder = run_folder(tmp_path / "copy", 0)
    edit(folder, enormous)
    for verb in ("verify", "rerun", "reload"):
        code, _, err = run(capsys, verb, folder)
        assert (verb, code) == (verb, 2)
        assert f"{folder} is not built again: it takes at least " in err
        assert " TB of memory (" in err and " GB are free here" in err
        assert err.endswith(f"\n  Try: bridge-runner show {folder}\n")
    code, out, err = run(capsys, "verify", tmp_path / "copy")
    assert code == 2 and "5 of 6 runs verified" in out and "is not built again" in err
    assert run(capsys, "show", folder)[0] == 0


def test_boxed_variables_verify(tmp_path, capsys):
    words = ("layer=linear_with_metadata", f"output_root={tmp_path}", "sweep=boxed", *LEAN)
    assert main.main([*words]) == 0
    capsys.readouterr()
    code, out, _ = run(capsys, "verify", tmp_path / "boxed")
    assert (code, out.partition("; ")[2]) == (
        0,
        "applied again, the output is the same bit for bit\n1 of 1 runs verified\n",
    )


@pytest.mark.slow
def test_copied_runs_verify_with_other_devices(sweep, tmp_path):
    copy = shutil.copytree(run_folder(sweep, 2), tmp_path / "copy")
    command = [sys.executable, "-m", "runner", "verify", str(copy)]
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PATH": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.decode().splitlines()[-1]) == (0, "1 of 1 runs verified"), done.stderr


def flip(path: Path, generator: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def test_swapped_records_are_named(sweep, tmp_path, capsys):
    copy = shutil.copytree(sweep, tmp_path / "swapped")
    one, two = run_folder(copy, 0), run_folder(copy, 1)
    shutil.copyfile(run_folder(sweep, 1) / "record.json", one / "record.json")
    code, out, _ = run(capsys, "verify", copy, "--no-code")
    assert code == 4
    assert f"{one.name}: record.json is that of run {two.name}\n" in out
    assert f"{one.name}: output.npy is not what was written\n" in out
    assert out.endswith(f"5 of 6 runs verified\n{redone(copy)}")


def test_a_lost_folder_alone_is_damage(sweep, tmp_path, capsys):
    copy = shutil.copytree(sweep, tmp_path / "lost")
    shutil.rmtree(gone := run_folder(copy, 3))
    code, out, _ = run(capsys, "verify", copy, "--no-code")
    assert (code, out.splitlines()[:2]) == (4, [f"{gone.name}: the folder is missing", "5 of 6 runs verified"])


def test_verify_names_the_flipped_leaf(sweep, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(run_folder(sweep, 0), tmp_path / "flipped"))
    victim = folder.checkpoint / "params.linear_0.kernel" / "0.0"
    flip(victim, random.Random(1))
    # Somebody has even made the files' digests fit.
    edit(folder.path, lambda data: data["files"].update(files.file_digests(folder)))
    code, out, _ = run(capsys, "verify", folder.path)
    assert code == 4
    assert f"{folder.checkpoint} is not what the run saved: params/linear_0/kernel has other bits\n" in out


def test_fabricated_outputs_are_found(sweep, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(run_folder(sweep, 0), tmp_path / "faked"))
    record = store.read_record(folder)
    output = np.load(folder.path / "output.npy")
    output[0] = np.nextafter(output[0], np.float32(np.inf))
    np.save(folder.path / "output.npy", output)

    def change(data):
        data["output"][0]["digest"] = trees.array_digest(output)
        data["files"].update(files.file_digests(folder))

    edit(folder.path, change)
    code, out, _ = run(capsys, "verify", folder.path)
    assert (code, record.num) == (4, 0)
    assert out.startswith("faked: applied again, the output differs in output by 1 ulp\n")


@pytest.mark.parametrize(
    ("platform", "factor", "said"),
    [
        ("gpu", 1.002, "applied on cpu instead of gpu, the output is within"),
        ("gpu", 1.02, "applied again on cpu instead of gpu, the output differs in output by"),
        ("tpu", 1.02, "and within the tolerance of 0.062 of its largest element"),
        ("cpu", 1.002, "applied again, the output differs in output by"),
    ],
)
def test_rounding_is_tolerated_across_platforms(sweep, tmp_path, capsys, platform, factor, said):
    folder = RunFolder(shutil.copytree(run_folder(sweep, 0), tmp_path / "elsewhere"))
    output = (np.load(folder.path / "output.npy") * np.float32(factor)).astype(np.float32)
    np.save(folder.path / "output.npy", output)

    def change(data):
        data["platform"] = platform
        data["output"][0]["digest"] = trees.array_digest(output)
        data["files"].update(files.file_digests(folder))

    edit(folder.path, change)
    code, out, _ = run(capsys, "verify", folder.path)
    assert (code, said in out) == (4 if "differs" in said else 0, True), out


@pytest.mark.parametrize(
    ("software", "num_eps", "said"),
    [
        ("another", 16, "applied on other software than it was saved with, the output is within 16 ulp"),
        ("another", 256, "applied again on other software than it was saved with, the output differs in output by"),
        pytest.param(None, 16, "applied again, the output differs in output by 16 ulp", marks=pytest.mark.slow),
    ],
)
def test_other_software_is_given_its_rounding(sweep, tmp_path, capsys, software, num_eps, said):
    folder = RunFolder(shutil.copytree(run_folder(sweep, 0), tmp_path / "elsewhere"))
    output = np.load(folder.path / "output.npy")
    for _ in range(num_eps):
        output = np.nextafter(output, np.copysign(np.float32(np.inf), output))
    np.save(folder.path / "output.npy", output)

    def change(data):
        data["fingerprint"]["software_id"] = software or data["fingerprint"]["software_id"]
        data["output"][0]["digest"] = trees.array_digest(output)
        data["files"].update(files.file_digests(folder))

    edit(folder.path, change)
    code, out, _ = run(capsys, "verify", folder.path)
    assert (code, said in out) == (4 if "differs" in said else 0, True), out


def test_a_lost_folder_alone_is_found(sweep, tmp_path, capsys):
    copy = shutil.copytree(sweep, tmp_path / "lost")
    lost = run_folder(copy, 3)
    shutil.rmtree(lost)
    said = f"{lost.name}: the folder is missing\n5 of 6 runs verified\n{redone(copy)}"
    assert run(capsys, "verify", copy, "--no-code") == (4, said, "")


LAYER = """
from flax import nnx

class Net(nnx.Module):
    def __init__(self, *, rngs):
        self.first = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.first(x)
"""


@pytest.mark.slow
def test_changed_layer_leaves_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "changing_layer.py").write_text(LAYER)
    words = ("layer=custom", "layer.target=changing_layer.Net", "input_shape=[2,4]", "checks=off", "sweep=s", *LEAN)
    assert main.main(words) == 0
    (tmp_path / "changing_layer.py").write_text(LAYER.replace("first", "the_second"))
    del sys.modules["changing_layer"]
    capsys.readouterr()
    code, out, _ = run(capsys, "verify", "outputs/s", "--trust")
    said = "the layer is not the one that was saved: params/the_second/bias is missing (it may be params/first/bias)"
    assert (code, said in out) == (4, True), out


def test_verify_runs_on_the_chosen_device(sweep, capsys):
    folder = run_folder(sweep, 0)
    assert run(capsys, "verify", folder, "--device", "cpu")[0] == 0
    code, _, err = run(capsys, "verify", folder, "--device", "gpu")
    assert (code, err.partition("; ")[0]) == (2, "error: device=gpu: not here")


def test_missing_and_foreign_files_are_named(sweep, tmp_path, capsys):
    copy = shutil.copytree(sweep, tmp_path / "gone")
    one, two, three = (run_folder(copy, num) for num in range(3))
    shutil.rmtree(one / "checkpoint")
    (two / "checkpoint" / "more").write_text("?")
    shutil.rmtree(three)
    code, out, _ = run(capsys, "verify", copy, "--no-code")
    assert code == 4
    assert f"{one.name}: checkpoint/_METADATA is missing\n" in out
    assert f"{two.name}: checkpoint/more was not written by this run\n" in out
    assert out.endswith(f"{three.name}: the folder is missing\n3 of 6 runs verified\n{redone(copy)}")


def test_saved_inputs_verify_without_the_original(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.arange(4, dtype=np.float32))
    assert main.main(["input=file", "input.path=x.npy", "sweep=s", *LEAN]) == 0
    (tmp_path / "x.npy").unlink()
    (path,) = Path("outputs/s/runs").iterdir()
    capsys.readouterr()
    code, out, _ = run(capsys, "verify", path)
    assert (code, "the output is the same bit for bit" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "verify",
            "verify: the following arguments are required: path.\n"
            "  Try: bridge-runner verify outputs/SWEEP[/runs/RUN] [--trust] [--no-code] [--device gpu]",
        ),
        ("verify nowhere", "nowhere is no run: it has no record.json.\n  Try: bridge-runner ls SWEEP"),
    ],
)
def test_verifying_needs_an_existing_run(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *words.split()) == (2, "", f"error: {said}\n")


@pytest.mark.slow
@pytest.mark.parametrize("num", range(6))
def test_reloaded_modules_reproduce_the_recorded_output(sweep, num):
    path = run_folder(sweep, num)
    saved = np.load(path / "output.npy")
    linen = runner.reload(path)
    from runner.bridge.rngs import apply_keys, root_key
    from runner.experiment.saved_run import SavedRun

    x = SavedRun(RunFolder(path)).x
    rngs = apply_keys(root_key(linen.settings.seed), linen.record.streams)
    assert (jax.jit(linen.module.apply)(linen.variables, x, rngs=rngs) == saved).all()
    native = runner.reload(path, as_="nnx")
    from flax import nnx

    assert (nnx.jit(lambda module, x: module(x))(native.module, x) == saved).all()


def test_a_reload_places_casts_and_chooses(sweep):
    path = run_folder(sweep, 0)
    found = runner.reload(path, device="cpu", dtype="bfloat16", only=["params/linear_0"]).variables
    assert list(found["params"]) == ["linear_0"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {"bfloat16"}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = runner.reload(path, sharding=sharding).variables
    assert {leaf.sharding for leaf in jax.tree.leaves(placed)} == {sharding}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"as_": "torch"}, "as_=torch: a run reloads as linen or nnx.\n  Try: as_=nnx"),
        ({"dtype": "float33"}, "dtype=float33: no such dtype.\n  Try: dtype=bfloat16"),
        (
            {"only": ["kernel"]},
            "only=kernel: the run has params/linear_0/bias, params/linear_0/kernel, params/linear_1/bias, "
            "params/linear_1/kernel.\n  Try: only=['params/linear_0/bias']",
        ),
        ({"device": "tpu"}, None),
    ],
)
def test_impossible_reloads_give_a_reason(sweep, options, said):
    with pytest.raises(UserError) as caught:
        runner.reload(run_folder(sweep, 0), **options)
    assert said is None or str(caught.value) == said


def test_a_reload_refuses_a_damaged_leaf(sweep, tmp_path):
    folder = shutil.copytree(run_folder(sweep, 0), tmp_path / "bad")
    flip(folder / "checkpoint" / "params.linear_0.kernel" / "0.0", random.Random(1))
    with pytest.raises(UserError, match="params/linear_0/kernel has other bits"):
        runner.reload(folder)


F32, BF16 = 64 * 2.0**-23, 64 * 2.0**-7


@pytest.mark.parametrize(
    ("platform", "precision", "dtype", "allowed"),
    [
        ("cpu", None, "float32", F32),
        ("cpu", None, "bfloat16", BF16),
        ("cpu", None, "int32", 0.0),
        ("gpu", None, "float32", 8 * 2.0**-10),
        ("tpu", None, "float32", 8 * 2.0**-7),
        ("gpu", None, "bfloat16", BF16),
        ("gpu", "highest", "float32", F32),
    ],
)
def test_tolerances_follow_platform_and_precision(platform, precision, dtype, allowed):
    record = replace(RECORD, platform=platform, fingerprint={"jax_config": {"jax_default_matmul_precision": precision}})
    assert verifier._allowed(np.zeros(2, jnp.dtype(dtype)), record) == allowed


@pytest.mark.parametrize(
    ("platform", "other", "said"),
    [
        ("cpu", {}, None),
        ("cpu", {"machine_id": "x"}, "another machine"),
        ("cpu", {"machine_id": "x", "software_id": "x"}, "other software than it was saved with"),
        ("gpu", {}, "cpu instead of gpu"),
    ],
)
def test_reasons_for_other_bits(make_run, platform, other, said):
    run = make_run()
    record = replace(RECORD, platform=platform, fingerprint={**machine.fingerprint(), **other})
    assert verifier._other_device(record, make_draft(run, identity_of(run))) == said


def test_outputs_unlike_their_digests_are_found(sweep, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(run_folder(sweep, 0), tmp_path / "other"))
    np.save(folder.path / "output.npy", np.load(folder.path / "output.npy") + 1)
    # Somebody has even made the files' digests fit.
    edit(folder.path, lambda data: data["files"].update(files.file_digests(folder)))
    code, out, _ = run(capsys, "verify", folder.path, "--no-code")
    assert (code, out.splitlines()[0]) == (4, "other: output.npy: y has other bits than the record says")
