"""`reload` on the command line: what is loaded, how its output agrees, and Python that does the same."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import runner
from runner.arrays import checkpoint, trees
from runner.commands import main
from runner.errors import UserError
from runner.records import find, store
from runner.records.paths import RunFolder

LEAN = ("tracking=disabled", "timing=off", "checks=off")
WORDS = {
    "plain": ("layer=mlp", "input_shape=[2,4]"),
    # Statistics that apply changes, and masks that it draws.
    "norm": ("layer=batch_norm", "input_shape=[2,4]"),
    "masks": ("layer=transformer_block", "input_shape=[3,4]", "layer.kwargs.dropout_rate=0.5"),
    "host": ("host=mlp", "input_shape=[2,4]"),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a plain run; those of other kinds are made where a test wants them."""
    folder = tmp_path_factory.mktemp("reapplied")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make("plain")
        yield folder


def make(name: str) -> None:
    if not Path("outputs", name).exists():
        assert main.main([*WORDS[name], f"sweep={name}", *LEAN]) == 0


def run(capsys, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main.main(["reload", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def folder_of(name: str) -> RunFolder:
    return find.find_run(Path("outputs", name))


def test_reload_prints_variables_and_agreement(here, capsys):
    folder = folder_of("plain")
    code, out, err = run(capsys, "outputs/plain")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{folder.path.name}: mlp as ToLinen (linen)",
        "  params/linear_0/bias    linear_0.bias    float32[16]    64 B   host",
        "  params/linear_0/kernel  linear_0.kernel  float32[4,16]  256 B  host",
        "  params/linear_1/bias    linear_1.bias    float32[8]     32 B   host",
        "  params/linear_1/kernel  linear_1.kernel  float32[16,8]  512 B  host",
        "",
        "4 leaves have the digests of the record",
        "output: the recorded one bit for bit",
        "",
        "the same in Python:",
        "  import runner",
        f"  saved = runner.reload('{folder.path}')",
        "  y = saved.apply()  # saved.module.apply(saved.variables, saved.x), compiled",
    ]


@pytest.mark.sampled
@pytest.mark.parametrize("as_", ["linen", "nnx"])
@pytest.mark.parametrize("name", WORDS)
def test_printed_python_reproduces_the_recorded_output(name, as_, here, capsys):
    make(name)
    if (name, as_) == ("host", "nnx"):
        said = f"error: {folder_of(name).path} is a run of the host mlp, which has no native module.\n"
        assert run(capsys, f"outputs/{name}", "--as", as_)[2].startswith(said)
        return
    code, out, _ = run(capsys, f"outputs/{name}", "--as", as_)
    assert (code, "output: the recorded one bit for bit" in out) == (0, True)
    names: dict = {}
    lines = out.partition("the same in Python:\n")[2]
    exec(re.sub(r"^  ", "", lines, flags=re.MULTILINE), names)
    kept = store.read_output(folder_of(name), names["saved"].record)[""]
    assert (np.asarray(names["y"]) == kept).all()
    if as_ == "linen":  # a native module has drawn and changed meanwhile
        applied = eval(re.search(r"# (.*), compiled", lines)[1], names)
        np.testing.assert_allclose(applied[0] if isinstance(applied, tuple) else applied, kept, rtol=1e-4, atol=1e-5)


def test_cast_runs_report_their_output_error(here, capsys):
    code, out, _ = run(capsys, "outputs/plain", "--as", "nnx", "--dtype", "bfloat16", "--device", "cpu")
    saved = runner.reload("outputs/plain", as_="nnx", dtype="bfloat16", device="cpu")
    kept = store.read_output(folder_of("plain"), saved.record)[""]
    apart = np.abs(np.asarray(saved.apply(), np.float64) - kept).max()
    assert code == 0
    assert "4 leaves have the digests of the record; cast to bfloat16\n" in out
    assert f"output: at most {apart:.3g} from the recorded one (largest value {np.abs(kept).max():.3g}, " in out
    assert out.count("bfloat16[") == 4
    assert out.count("cpu:0") == 4


def test_partial_reloads_can_be_written(here, tmp_path, capsys):
    place = tmp_path / "half"
    code, out, _ = run(
        capsys,
        "outputs/plain",
        "--only",
        "params/linear_0,params/linear_1/bias",
        "--dtype=bfloat16",
        "--out",
        str(place),
    )
    assert code == 0
    assert "4 leaves have the digests of the record; 3 of them loaded; cast to bfloat16\n" in out
    assert "output: not computed, since leaves are left out\n" in out
    assert out.endswith(f"written: {place}; start from it with variables={place}\n")
    saved = runner.reload("outputs/plain", only=["params/linear_0", "params/linear_1/bias"], dtype="bfloat16")
    written = trees.leaves(checkpoint.restore(place))
    assert [(leaf.name, leaf.digest) for leaf in written] == [
        (leaf.name, leaf.digest) for leaf in trees.leaves(saved.variables)
    ]


def test_reloaded_variables_start_another_run(here, tmp_path, monkeypatch, capsys):
    place = tmp_path / "whole"
    assert run(capsys, "outputs/plain", "--out", str(place))[0] == 0
    assert main.main([*WORDS["plain"], f"variables={place}", "sweep=again", *LEAN]) == 0
    records = [store.read_record(folder_of(name)) for name in ("plain", "again")]
    assert records[0].output == records[1].output


def test_other_input_is_taken(here):
    saved = runner.reload("outputs/plain")
    assert np.asarray(saved.apply(np.zeros((5, 4), np.float32))).shape == (5, 8)


def test_native_modules_keep_updates_to_themselves(here):
    make("norm")
    native = runner.reload("outputs/norm", as_="nnx")
    before = jax.device_get(native.variables["batch_stats"]["mean"])
    native.apply()
    assert not np.array_equal(native.module.mean[...], before)
    assert np.array_equal(native.variables["batch_stats"]["mean"], before)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "reload: the following arguments are required: run"),
        ("outputs/plain --as torch", "reload: argument --as: invalid choice: 'torch' (choose from 'linen', 'nnx')"),
        ("outputs/plain --dtype float33", "dtype=float33: no such dtype"),
        ("outputs/plain --only kernel", "only=kernel: the run has params/linear_0/bias, params/linear_0/kernel, "),
        ("outputs/plain --device tpu", "device=tpu: not here; here are cpu:0"),
        ("outputs/plain --out outputs", "outputs is there already and is not overwritten"),
        ("outputs/plain --out a[1]", "a[1]: Orbax reads '[' in a path as a wildcard, or not at all"),
        ("nowhere", "nowhere is no run: it has no record.json"),
    ],
)
def test_invalid_reloads_exit_with_2(words, said, here, capsys):
    code, out, err = run(capsys, *words.split())
    assert (code, out) == (2, "")
    assert re.sub(re.escape(f"{here}/"), "", err).startswith(f"error: {said}")


@pytest.mark.slow
def test_early_failures_cannot_be_reloaded(here, capsys):
    words = ("layer=dropout", "layer.rngs=[]", "sweep=failed", "checks=strict", "tracking=disabled", "timing=off")
    assert main.main(list(words)) == 1
    with pytest.raises(UserError, match="the run failed before it had variables"):
        runner.reload("outputs/failed")
