"""A training run that is stopped goes on from its last whole step, and its curve is that of one that never stopped."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from bare_record import RECORD
from started_processes import Started

from runner.arrays import checkpoint, readings, trees
from runner.bridge import rngs
from runner.commands import main
from runner.errors import StorageError
from runner.experiment import inputs
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.program import compile_program
from runner.experiment.train import curve, training
from runner.experiment.train.curve import Step, Stopped
from runner.experiment.train.training import Trained
from runner.records import store
from runner.records.codec import seal
from runner.records.disk import files
from runner.records.paths import RunFolder
from runner.records.record import CheckpointInfo
from runner.sweep import intact
from runner.sweep.writing.steps import StepFolder

NUM_STEPS = 6
LEAN = ("layer=batch_norm", "input_shape=[4,4]", "tracking=disabled", "timing=off", "checks=off")


@pytest.fixture(scope="module")
def train(make_run) -> Callable[..., Trained]:
    """Trains a layer with statistics, compiled once."""
    run = make_run(*LEAN, f"train.steps={NUM_STEPS}")
    program = compile_program(make_draft(run, identity_of(run)))
    x = jnp.asarray(inputs.make_input(run.input, run.input_shape))
    start, teacher = (program.init(rngs.root_key(seed), x) for seed in (0, 1))

    def trained(steps: StepFolder | None = None) -> Trained:
        assert program.training is not None
        return training.train(
            program.training,
            start,
            saved=None,
            teacher=teacher,
            key=rngs.root_key(0),
            batch=lambda step: jnp.asarray(inputs.make_batch(run.input, run.input_shape, step)),
            num_steps=NUM_STEPS,
            clock=time.perf_counter_ns,
            steps=steps,
        )

    return trained


@pytest.fixture(scope="module")
def whole(train) -> Trained:
    """What an undisturbed run without steps gives."""
    return train()


def step_folder(path: Path, **options) -> StepFolder:
    return StepFolder(path / "steps", **{"every": 1, "keep": 3, "software_id": "this", **options})


def bits(trained: Trained) -> tuple:
    trees_of_it = [trees.tree_digest(trees.leaves(tree)) for tree in (trained.variables, trained.state)]
    return trained.info.losses, *trees_of_it


def stopped_at(num: int, train, path: Path, **options) -> None:
    """Trains until step `num` is made."""
    asked = iter([False] * (num - 1) + [True])
    with pytest.raises(Stopped):
        train(step_folder(path, stopping=lambda: next(asked), **options))


def test_stopped_training_resumes_bit_for_bit(train, whole, tmp_path):
    stopped_at(2, train, tmp_path, every=5)
    stopped_at(2, train, tmp_path, every=5)
    again = train(step_folder(tmp_path, every=5))
    assert bits(again) == bits(whole)
    assert (again.info.resumed_at, again.info.first_step, len(again.info.steps_s)) == ([2, 4], 0, NUM_STEPS)
    assert again.info.not_moved == whole.info.not_moved


def test_steps_are_saved_and_pruned(train, whole, tmp_path):
    assert bits(train(step_folder(tmp_path, every=4, keep=1))) == bits(whole)
    assert [path.name for path in (tmp_path / "steps").iterdir()] == ["6"]
    train(step_folder(tmp_path / "more", every=2, keep=2))
    assert sorted(path.name for path in (tmp_path / "more" / "steps").iterdir()) == ["4", "6"]


def test_steps_are_plain_orbax_train_states(train, whole, tmp_path):
    train(step_folder(tmp_path, every=3))
    with ocp.CheckpointManager(tmp_path / "steps") as manager:
        assert list(manager.all_steps()) == [3, 6]
        tree = manager.restore(6, args=ocp.args.StandardRestore())
    assert trees.tree_digest(trees.leaves({key: tree.pop(key) for key in ("step", "opt_state")})) == bits(whole)[2]
    assert trees.tree_digest(trees.leaves(tree)) == bits(whole)[1]
    variables = readings.as_variables(checkpoint.restore(tmp_path / "steps" / "6"))
    assert trees.tree_digest(trees.leaves(variables)) == bits(whole)[1]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flip in a leaf": lambda step: flip(next((step / "default").glob("params*/0*"))),
    "flip in the curve": lambda step: flip_a_loss(step / "_CHECKPOINT_METADATA"),
    "cut leaf": lambda step: next((step / "default").glob("opt_state*mu*/0*")).write_bytes(b"x"),
    "no tree": lambda step: shutil.rmtree(step / "default"),
    "no metadata": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
    "garbage": lambda step: (step / "_CHECKPOINT_METADATA").write_bytes(b"\xff\x00"),
    "empty": lambda step: [shutil.rmtree(step), step.mkdir()],
}


def flip_a_loss(path: Path) -> None:
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"]["curve"]["losses"][0] += 1e-9
    path.write_text(json.dumps(metadata))


@pytest.mark.sampled
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_last_steps_fall_back(damage, train, whole, tmp_path):
    stopped_at(4, train, tmp_path)
    DAMAGES[damage](tmp_path / "steps" / "4")
    said: list[str] = []
    again = train(step_folder(tmp_path, warn=said.append))
    assert bits(again) == bits(whole)
    assert again.info.resumed_at == [3]
    (remark,) = again.info.remarks
    assert remark.startswith("step 4 was damaged (")
    assert said == [f"{tmp_path.name}: {remark}: going on from step 3"]


def test_training_restarts_without_an_intact_step(train, whole, tmp_path):
    stopped_at(2, train, tmp_path)
    for num in (1, 2):
        DAMAGES["cut leaf"](tmp_path / "steps" / str(num))
    said: list[str] = []
    assert bits(train(step_folder(tmp_path, warn=said.append))) == bits(whole)
    assert [text.rpartition(": ")[2] for text in said] == ["going on from the start"] * 2


def test_half_written_steps_are_ignored(train, whole, tmp_path):
    stopped_at(2, train, tmp_path)
    shutil.copytree(tmp_path / "steps" / "2" / "default", tmp_path / "steps" / "3.orbax-checkpoint-tmp" / "default")
    shutil.rmtree(tmp_path / "steps" / "1" / "default")  # it was being removed
    again = train(step_folder(tmp_path, every=5, keep=9))
    assert (bits(again), again.info.resumed_at, again.info.remarks) == (bits(whole), [2], [])
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["2", "5", "6"]


def test_steps_from_other_software_are_noted(train, tmp_path):
    stopped_at(2, train, tmp_path, software_id="older")
    assert train(step_folder(tmp_path)).info.remarks == ["the steps up to 2 were made by other software"]


def test_collections_cannot_shadow_state_names(tmp_path):
    step = Step(num=1, variables={"step": np.ones(1)}, state={"step": np.ones(1)}, curve=curve.Curve())
    with pytest.raises(checkpoint.CheckpointError, match="a collection is called step, as a part of the state is"):
        step_folder(tmp_path).made(1, False, lambda: step)


def test_full_disks_are_storage_errors(train, tmp_path, monkeypatch):
    import errno
    import os

    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, no_space)
    with pytest.raises(StorageError) as caught:
        train(step_folder(tmp_path))
    assert str(caught.value) == (
        f"writing step 1 to {tmp_path}/steps: No space left on device.\n"
        "  Try: make room; the same command goes on from here"
    )


# On the command line.


def test_changed_steps_and_state_are_found(train, tmp_path):
    folder = RunFolder(tmp_path)
    done = train(step_folder(tmp_path))
    state = trees.to_save(done.state)
    checkpoint.save(state, folder.train_state)
    info = CheckpointInfo(
        path="train_state", digest=trees.tree_digest(trees.leaves(state)), num_bytes=0, writer="orbax"
    )
    record = dataclasses.replace(RECORD, train=dataclasses.replace(done.info, state=info))
    assert intact._training(folder, record) == []
    flip(next((folder.steps / "5" / "default").glob("params*/0*")))
    assert intact._training(folder, record) == [
        f"{folder.steps / '5'} is not what the run saved: it has other bits than were saved"
    ]
    other = dataclasses.replace(
        RECORD, train=dataclasses.replace(done.info, state=dataclasses.replace(info, digest="x"))
    )
    assert intact._training(folder, other)[0] == f"{folder.train_state} is not what the run saved"


def only_run(sweep: str) -> RunFolder:
    (path,) = Path("outputs", sweep, "runs").iterdir()
    return RunFolder(path)


@pytest.mark.slow
def test_verify_checks_the_saved_steps(here, capsys):
    words = [*LEAN, "train.steps=4", "train.save_every=2", "sweep=s"]
    assert main.main(words) == 0
    folder = only_run("s")
    record = store.read_record(folder)
    assert {name.split("/")[1] for name in record.files if name.startswith("steps/")} == {"2", "4"}
    assert main.main(["verify", str(folder.path)]) == 0
    shutil.copytree(folder.path, "damaged")
    flip(next(Path("damaged/steps/2/default").glob("params*/0*")))
    data = json.loads(Path("damaged/record.json").read_text())
    # Somebody has even made the files' digests fit, as they do of a file that is too large to be hashed.
    del data["digest"]
    data["files"] = files.file_digests(RunFolder(Path("damaged")))
    Path("damaged/record.json").write_bytes(seal(json.dumps(data, indent=1).encode()))
    capsys.readouterr()
    assert main.main(["verify", "damaged", "--no-code"]) == 4
    said = "damaged: damaged/steps/2 is not what the run saved: it has other bits than were saved\n"
    assert capsys.readouterr().out == f"{said}0 of 1 runs verified\n"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "train.save_every=-1",
            "train.save_every=-1: steps are kept after this number of them, or none at 0.\n  Try: train.save_every=100",
        ),
        (
            "train.keep_steps=0",
            "train.keep_steps=0: at least the last step that was kept stays.\n  Try: train.keep_steps=2",
        ),
    ],
)
def test_invalid_step_counts_are_refused(word, said, here, capsys):
    assert main.main([*LEAN, word]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


COMMAND = [sys.executable, "-m", "runner", *LEAN, "train.steps=400", "train.save_every=10", "sweep=s"]


def start(folder: Path) -> Started[bytes]:
    return Started(COMMAND, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def end_at_random(folder: Path, chance: random.Random, number: int) -> int:
    """Sends a signal some time after a step has been made; the exit code."""
    process = start(folder)
    runs = folder / "outputs" / "s" / "runs"
    before = newest(runs)
    while process.poll() is None and newest(runs) <= before:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.1))
    process.send_signal(number)
    process.communicate(timeout=100)
    return process.returncode


def newest(runs: Path) -> int:
    return max((int(path.name) for path in runs.glob("*/steps/*") if path.name.isdecimal()), default=0)


@pytest.mark.slow
def test_killed_training_keeps_its_loss_curve(tmp_path, monkeypatch):
    chance = random.Random(0)
    (tmp_path / "undisturbed").mkdir()
    assert subprocess.run([*COMMAND, "train.save_every=0"], cwd=tmp_path / "undisturbed", check=True, timeout=200)
    ends = [end_at_random(tmp_path, chance, number) for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)]
    assert ends == [-signal.SIGKILL, 130, -signal.SIGKILL]
    monkeypatch.chdir(tmp_path)
    assert main.main(["resume", "outputs/s"]) == 0
    record = store.read_record(only_run("s"))
    monkeypatch.chdir("undisturbed")
    other = store.read_record(only_run("s"))
    assert record.train is not None and other.train is not None
    assert len(record.train.resumed_at) == 3
    assert (record.train.losses, record.output) == (other.train.losses, other.output)
    assert [leaf.digest for leaf in record.variables] == [leaf.digest for leaf in other.variables]
