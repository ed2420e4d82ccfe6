"""Values that are no plain arrays: each kind goes through every command, or the run is refused before it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runner.arrays import checkpoint, trees
from runner.commands import main
from runner.records.paths import RunFolder

LEAN = ("tracking=disabled", "timing=off", "checks=off", "layer=custom", "input_shape=[4,8]")
REFUSED = {
    "Text": "returned a value of type <class 'str'> at output component ['Variable']['mode'], which is not a valid JAX",
    "Empty": "the variables can't be saved: Variable/none has shape [0, 8]: Orbax saves no empty array.\n"
    "  Try: checkpoint=none\n",
    "Unsaved": "the variables can't be saved: Variable/levels is uint4, which Orbax does not store.\n"
    "  Try: checkpoint=none\n",
    "DictOfArrays": "\n  Try: nnx.Dict of Variables in the layer, in place of a Variable that holds a dict: "
    "flax does not load that\n",
}
KINDS = ("Plain", "Numbers", "Structures", "Keys", "Narrow", "Odd", "Names", "ValueParam", "ValueHead", "ValueDeep")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Two runs of every kind."""
    folder = tmp_path_factory.mktemp("kept")
    targets = ",".join(f"kept_layers.{name}" for name in KINDS)
    words = ["-m", f"layer.target={targets}", "seed=0,1", f"output_root={folder}", "sweep=kept"]
    assert main.main([*words, *LEAN]) == 0
    return folder / "kept"


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


def run_of(sweep: Path, kind: str, seed: int) -> RunFolder:
    (path,) = (sweep / "runs").glob(f"{2 * KINDS.index(kind) + seed}-*")
    return RunFolder(path)


def run(capsys, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def bits(folder: Path) -> dict[str, str]:
    return {leaf.name: leaf.digest for leaf in trees.leaves(checkpoint.restore(folder))}


def output_from(kind: str, seed: int, variables: Path, folder: Path) -> bytes:
    """The output of a run that starts from `variables`."""
    words = [f"layer.target=kept_layers.{kind}", f"seed={seed}", f"variables={variables}", f"output_root={folder}"]
    assert main.main([*words, "sweep=again", *LEAN]) == 0
    (path,) = (folder / "again" / "runs").iterdir()
    return np.load(path / "output.npy").tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_unkeepable_values_are_refused(name, tmp_path, capsys):
    words = [f"layer.target=kept_layers.{name}", f"output_root={tmp_path}", "sweep=refused", *LEAN]
    code, out, err = run(capsys, *words)
    assert (code, out, REFUSED[name] in err) == (2, "", True), err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_array_runs_without_checkpoint(tmp_path, capsys):
    words = ["layer.target=kept_layers.Empty", f"output_root={tmp_path}", "sweep=s", "checkpoint=none", *LEAN]
    assert run(capsys, *words)[0] == 0


@pytest.mark.slow
def test_every_kind_verifies(sweep, capsys):
    said = f"{2 * len(KINDS)} of {2 * len(KINDS)} runs verified\n"
    assert run(capsys, "verify", sweep, "--trust") == (0, said, "")


@pytest.mark.slow
@pytest.mark.parametrize("as_", ["linen", "nnx"])
def test_every_kind_reloads(as_, kind, sweep, capsys):
    code, out, err = run(capsys, "reload", run_of(sweep, kind, 1).path, "--trust", "--as", as_)
    assert (code, "output: the recorded one bit for bit" in out, err) == (0, True, "")


@pytest.mark.slow
def test_every_kind_is_a_start(kind, sweep, tmp_path):
    source = run_of(sweep, kind, 1)
    saved = np.load(source.path / "output.npy").tobytes()
    assert output_from(kind, 1, source.checkpoint, tmp_path) == saved


@pytest.mark.slow
@pytest.mark.parametrize("to", ["nnx", "safetensors"])
def test_every_export_is_imported(to, kind, sweep, tmp_path, capsys):
    source = run_of(sweep, kind, 1)
    out = tmp_path / ("x.safetensors" if to == "safetensors" else "x")
    words = ("export", source.path, "--to", to, "--trust", "--out", out)
    if (to, kind) == ("safetensors", "Odd"):
        said = (
            "error: Variable.kept.float4_e2m1fn is float4_e2m1fn, which safetensors has no name for.\n  Try: --to nnx\n"
        )
        assert run(capsys, *words) == (2, "", said)
        return
    assert run(capsys, *words)[0] == 0
    assert run(capsys, "import", out, "--out", tmp_path / "described")[0] == 0
    assert run(capsys, "import", out, "--like", source.path, "--out", tmp_path / "like")[0] == 0
    assert bits(tmp_path / "described") == bits(tmp_path / "like") == bits(source.checkpoint)
