"""A damaged checkpoint of every format that is read, given to `import`, `variables=` and `diff`: no traceback, no hang.

What is refused leaves nothing behind. `BRIDGE_RUNNER_FUZZ=SEED[:NUM]` draws other damages, or more of them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
from bounded_calls import RUN, call, codes_of, sweep_two_runs
from damaged_files import DAMAGES
from flax import serialization
from fuzz import SEED, num_drawn, report_held
from pipeline_files import write_easylm, write_t5x
from safetensors.numpy import save_file

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # to a user, a warning is no error

NUM_FILES = num_drawn(90)

LAYER = ("layer=linear", "features=4", "input_shape=[2,4]")
LEAN = ("tracking=disabled", "timing=off", "checks=off")
VARIABLES = {"params": {"kernel": np.arange(16, dtype=np.float32).reshape(4, 4), "bias": np.ones(4, np.float32)}}
FLAT = {f"params/{name}": leaf for name, leaf in VARIABLES["params"].items()}


def _orbax(*, ocdbt: bool, zarr3: bool) -> Callable[[Path, Any], None]:
    def write(path: Path, tree: Any) -> None:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)) as checkpointer:
            checkpointer.save(path.absolute(), tree)

    return write


def _index(path: Path, tree: Any) -> None:
    path.mkdir()
    save_file(FLAT, path / "model-1.safetensors")
    names = ", ".join(f'"{name}": "model-1.safetensors"' for name in FLAT)
    (path / "model.safetensors.index.json").write_text(f'{{"metadata": {{}}, "weight_map": {{{names}}}}}')


WRITERS: Mapping[str, Callable[[Path, Any], Any]] = {
    "old.msgpack": lambda path, tree: path.write_bytes(serialization.to_bytes(tree)),
    "stream": write_easylm,
    "old.npz": lambda path, tree: np.savez(path, **FLAT),
    "old.safetensors": lambda path, tree: save_file(FLAT, path),
    "shards": _index,
    "t5x": lambda path, tree: write_t5x(path, tree["params"]),
    "t5x3": lambda path, tree: write_t5x(path, tree["params"], driver="zarr3"),
    "orbax": _orbax(ocdbt=False, zarr3=False),
    "orbax3": _orbax(ocdbt=False, zarr3=True),
    "ocdbt": _orbax(ocdbt=True, zarr3=False),
}
LINES = (
    "import NAME --like outputs/s/0 --out made",
    "variables=NAME sweep=v",
    "diff NAME outputs/s/0",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A folder with a run, and a checkpoint of its layer in every format."""
    folder = sweep_two_runs(tmp_path_factory.mktemp("checkpoints"), [*LAYER, *LEAN])
    for name, write in WRITERS.items():
        write(folder / name, VARIABLES)
    return folder


def _files(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


def _typed(name: str) -> str:
    """A checkpoint as a user names it: T5X keeps the params in a part of it."""
    return f"{name}#target" if name.startswith("t5x") else name


def _called(line: str, name: str) -> tuple[Any, str]:
    """A call on the checkpoint `name`, and the verb."""
    words = line.replace("NAME", _typed(name)).split()
    verb = RUN if "=" in words[0] else words[0]
    return call([*words, *LAYER, *LEAN] if verb == RUN else words), verb


def _made() -> list[str]:
    """What a refused call must not leave."""
    return [name for name in ("made", "outputs/v") if Path(name).exists()]


@pytest.fixture
def here(written, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(written / "outputs", "outputs")
    return tmp_path


@pytest.mark.parametrize("name", WRITERS)
def test_whole_checkpoints_are_taken(name, written, here):
    _place(written, name)
    for line in LINES:
        found, verb = _called(line, name)
        assert found.code == 0 or (verb == "diff" and found.code == 1), found
    assert _made() == ["made", "outputs/v"]


def test_no_damaged_checkpoint_ends_in_a_traceback(written, here, capsys):
    chance = random.Random(SEED)
    places = {name: [one.relative_to(written) for one in _files(written / name)] for name in WRITERS}
    faults, refused = [], 0
    for num in range(NUM_FILES):
        name = list(WRITERS)[num % len(WRITERS)]
        file, damage = chance.choice(places[name]), chance.choice(DAMAGES)
        _place(written, name)
        for made in ("made", "outputs/v"):
            shutil.rmtree(made, ignore_errors=True)
        damage(Path(file), chance)
        found, verb = _called(LINES[num // len(WRITERS) % len(LINES)], name)
        fault = found.fault(codes_of(verb))
        if found.code == 2 and _made():
            fault = f"exit 2, and {_made()} is there: {found.said[-500:]}"
        refused += found.code == 2
        faults += [f"{damage.__name__} {file}, {verb or 'run'}: {fault}"] if fault else []
    with capsys.disabled():
        report_held("foreign checkpoints", NUM_FILES, faults, num_refused=refused)


def _place(written: Path, name: str) -> None:
    """Puts a whole copy of a checkpoint into the working directory."""
    if Path(name).is_dir():
        shutil.rmtree(name)
    Path(name).unlink(missing_ok=True)
    (shutil.copytree if (written / name).is_dir() else shutil.copy)(written / name, name)
