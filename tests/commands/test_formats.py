"""`diff`, `variables=` and `import` take a pipeline's checkpoint as it lies there."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from pipeline_files import write_easylm, write_t5x

from runner.commands import main
from runner.commands.typed.hydra_command import quoted_part

LEAN = ("checks=off", "checkpoint=none", "timing=off", "tracking=disabled")
COMMAND = [sys.executable, "-m", "runner"]
PARAMS = {"kernel": np.full((8, 8), 0.5, np.float32), "bias": np.arange(8, dtype=np.float32)}


def write(kind: str, path: Path) -> str:
    """A checkpoint of a linear layer, and how it is typed."""
    if kind == "easylm":
        write_easylm(path, PARAMS)
    elif kind == "t5x":
        write_t5x(path / "checkpoint_9", PARAMS, state={"step": 9})
    elif kind == "npz":
        np.savez(path, **{f"params/{name}": leaf for name, leaf in PARAMS.items()})
        path.with_name(f"{path.name}.npz").rename(path)
    elif kind == "brax":
        ocp.PyTreeCheckpointer().save(path.absolute(), ({"mean": np.ones(3)}, {"params": PARAMS}, {"params": PARAMS}))
        return f"{path}#1"
    elif kind == "part":
        path.write_bytes(
            serialization.to_bytes(
                {"model": {"params": PARAMS}, "other": {"params": jax.tree.map(np.negative, PARAMS)}}
            )
        )
        return f"{path}#model/params"
    return str(path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Path()


def run(capsys, *words) -> tuple[int, str, str]:
    code = main.main(list(map(str, words)))
    out, err = capsys.readouterr()
    return code, out, err


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("easylm", "npz", "part")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5x", "brax", *SLOW])
def test_a_run_starts_from_a_pipelines_checkpoint(kind, here, capsys):
    typed = write(kind, here / "ck")
    words = ("layer=linear", "input_shape=[2,8]", "features=8", f"variables={typed}", "output_root=out", "sweep=s")
    code, _, err = run(capsys, *words, *LEAN)
    assert (code, err) == (0, "")
    (folder,) = (here / "out" / "s" / "runs").iterdir()
    code, out, _ = run(capsys, "import", typed, "--like", folder)
    assert (code, out.splitlines()[0]) == (0, f"2 leaves, 2 of them with the bits of {folder}: ck-variables")
    code, out, _ = run(capsys, "diff", typed, "layer=linear input_shape=[2,8] features=8")
    assert "2 same" in out


@pytest.mark.slow
def test_a_sweep_takes_several_parts(here, capsys):
    write("part", here / "ck")
    words = ("-m", "layer=linear", "input_shape=[2,8]", "features=8", "variables=ck#model,ck#other", "output_root=out")
    assert run(capsys, *words, "sweep=s", *LEAN)[0] == 0
    assert len(list((here / "out" / "s" / "runs").iterdir())) == 2


@pytest.mark.slow
def test_a_damaged_orbax_folder_is_one_sentence(here):
    variables = {"params": PARAMS, "opt_state": {str(index): PARAMS for index in range(9)}}
    ocp.PyTreeCheckpointer().save((here / "ck").absolute(), variables)
    for file in (here / "ck" / "ocdbt.process_0").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    (here / "ck" / "manifest.ocdbt").write_bytes(b"")
    done = subprocess.run([*COMMAND, "import", "ck"], capture_output=True, text=True, timeout=300, check=False)
    said = "error: ck is a damaged checkpoint (Orbax): Orbax can't read which arrays it holds.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def broken(here: Path) -> None:
    (here / "empty").mkdir()
    os.mkfifo(here / "fifo")
    (here / "x.pkl").write_bytes(pickle.dumps({"params": np.ones(2)}))
    (here / "cut").write_bytes(serialization.to_bytes({"params": PARAMS})[:-40])
    (here / "text").write_text("no checkpoint")
    write("brax", here / "brax")


BROKEN = [
    ("empty", "empty holds no checkpoint: it is empty"),
    ("fifo", "fifo is a FIFO, and no file or folder"),
    ("x.pkl", "x.pkl is a pickle: reading it could run any code, so it is never loaded"),
    ("cut", "cut is a damaged checkpoint (flax msgpack): it is cut off: 40 bytes are missing at its end"),
    ("text", "text is no checkpoint of a format that is known: there are Orbax folders"),
    ("brax", "brax holds 2 trees of variables: brax#1, brax#2; the others in it are 0 (mean)"),
    ("brax#nope", "brax holds 0, 1, 2, and no nope"),
    ("nowhere", "there is no file or folder nowhere"),
]


@pytest.mark.parametrize(("name", "said"), BROKEN)
def test_unreadable_files_get_one_sentence(name, said, here, capsys):
    broken(here)
    before = sorted(here.iterdir())
    code, out, err = run(capsys, "import", name)
    assert (code, out) == (2, "") and err.startswith(f"error: {said}")
    assert sorted(here.iterdir()) == before


@pytest.mark.slow
def test_runs_and_diff_say_it_too(here, capsys):
    broken(here)
    before = sorted(here.iterdir())
    for name, said in (BROKEN[2], BROKEN[5]):
        code, out, err = run(capsys, "layer=linear", "input_shape=[2,8]", "features=8", f"variables={name}", *LEAN)
        assert (code, out) == (2, "") and err.startswith(f"error: variables={name}: {said}")
        code, out, err = run(capsys, "diff", name, "layer=linear")
        assert (code, out) == (2, "") and err.startswith(f"error: {said}")
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("variables=ck#1/params", "variables='ck#1/params'"),
        ("variables=a#1,b,c#2", "variables='a#1',b,'c#2'"),
        ("variables='a#1'", "variables='a#1'"),
        ("variables=ck", "variables=ck"),
        ("layer=linear", "layer=linear"),
    ],
)
def test_a_part_is_quoted_for_hydra(word, quoted):
    assert quoted_part(word) == quoted


def test_what_was_taken_is_shown(here, capsys):
    for step in (1, 12):
        write_t5x(here / "model" / f"checkpoint_{step}", {"kernel": np.full((8, 8), step)}, state={"step": 1})
    _, out, _ = run(capsys, "diff", "model", "model#checkpoint_1")
    assert out.splitlines()[:2] == [
        "old  model (model/checkpoint_12#target)",
        "new  model#checkpoint_1 (model/checkpoint_1#target)",
    ]
