"""Damage of every kind is found by verify and named; a save that is killed or refused loses nothing else."""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from told_reporter import Reporter

from runner.arrays import checkpoint, trees
from runner.arrays.checkpoint import CheckpointError
from runner.commands import main
from runner.commands.saved.verifier import Verifier
from runner.config.composing.composed import Config
from runner.errors import StorageError
from runner.records import store
from runner.records.disk.files import HASHED_BYTES, file_digests
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import CheckpointInfo, Record, Status
from runner.sweep import execute
from runner.sweep.plan import make_plan
from runner.tracking.pool import InlineTracking
from runner.tracking.tracker import NullTracker

NUM_FAULTS = 200
LEAN = ("tracking=disabled", "timing=off", "checks=off")
TRAIN = ("train.steps=2", "train.save_every=2", "input_shape=[2,4]")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """The runs of a sweep of two layers and two seeds, each trained with steps kept."""
    folder = tmp_path_factory.mktemp("faults")
    words = ["-m", "layer=mlp,batch_norm", "seed=0,1", f"output_root={folder}", "sweep=good", *TRAIN, *LEAN]
    assert main.main(words) == 0
    return folder / "good" / "runs"


# Planted faults.


def flip(path: Path, chance: random.Random, others: list[Path]) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random, others: list[Path]) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def tear(path: Path, chance: random.Random, others: list[Path]) -> None:
    """As a page that never reached the disk: zeros from somewhere on."""
    content = path.read_bytes()
    start = chance.randrange(len(content.rstrip(b"\0")))
    path.write_bytes(content[:start] + bytes(len(content) - start))


def delete(path: Path, chance: random.Random, others: list[Path]) -> None:
    path.unlink()


def swap(path: Path, chance: random.Random, others: list[Path]) -> None:
    """Another run's file of that name."""
    shutil.copyfile(chance.choice(others), path)


def part_of(path: Path, run: Path) -> str:
    name = path.relative_to(run).parts[0]
    return "output" if name.startswith("output") else name


def faults(good: Path) -> Iterator[tuple[Callable[..., None], Path, list[Path]]]:
    """Seeded faults: each part of a run as often as the others, however many files it has."""
    chance = random.Random(0)
    runs = sorted(good.iterdir())
    for _ in range(NUM_FAULTS):
        run = chance.choice(runs)
        files = sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size)
        part = chance.choice(sorted({part_of(path, run) for path in files}))
        kind = chance.choice([flip, flip, cut, tear, delete, swap])
        candidates = [path for path in files if part_of(path, run) == part]
        chance.shuffle(candidates)
        for path in candidates:
            same = [other / path.relative_to(run) for other in runs if other != run]
            others = [one for one in same if one.exists() and one.read_bytes() != path.read_bytes()]
            if not (kind is swap and not others) and not (kind is tear and not path.read_bytes().strip(b"\0")):
                yield kind, path, others
                break


def test_all_200_planted_faults_are_found(good, tmp_path):
    copy = shutil.copytree(good, tmp_path / "runs")
    chance, parts, missed = random.Random(1), set(), []
    planted = list(faults(good))
    for kind, original, others in planted:
        run = copy / original.relative_to(good).parts[0]
        victim = copy / original.relative_to(good)
        kind(victim, chance, others)
        wrong = Verifier(code=False).verify(RunFolder(run)).wrong
        name = victim.relative_to(run).as_posix()
        parts.add(part_of(victim, run))
        if not any(name in sentence for sentence in wrong):
            missed.append((kind.__name__, name, wrong))
        victim.parent.mkdir(exist_ok=True)
        shutil.copyfile(original, victim)
    assert missed == []
    assert len(planted) >= NUM_FAULTS * 0.9
    assert parts == {"checkpoint", "train_state", "steps", "record.json", "output", ".hydra"}
    assert [Verifier(code=False).verify(RunFolder(run)).wrong for run in copy.iterdir()] == [[]] * 4


def test_verify_names_every_faulty_run(good, tmp_path, capsys):
    copy = shutil.copytree(good.parent, tmp_path / "sweep")
    victims = {}
    for num, name in enumerate(("output.npy", "record.json", ".hydra/config.yaml", "train_state/_METADATA")):
        (run,) = copy.glob(f"runs/{num}-*")
        delete(run / name, random.Random(0), [])
        victims[run.name] = name
    capsys.readouterr()
    assert main.main(["verify", str(copy)]) == 4
    out, err = capsys.readouterr()
    lines = out.splitlines()
    again = f"what is damaged or missing is done again by `bridge-runner resume {copy} --verify`"
    assert (lines[-2:], err) == (["0 of 4 runs verified", again], "")
    assert all(any(line.startswith(f"{run}: ") and name in line for line in lines) for run, name in victims.items())


def test_large_files_are_checked_by_leaf(tmp_path):
    leaf = np.random.default_rng(0).standard_normal(2**19, dtype=np.float32)
    assert leaf.nbytes > HASHED_BYTES
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    checkpoint.save({"params": {"kernel": leaf}}, folder.checkpoint)
    write_record(folder, {"params": {"kernel": leaf}})
    (file,) = (folder.checkpoint / "params.kernel").glob("0*")
    whole, chance = file.read_bytes(), random.Random(2)
    for _ in range(20):
        flip(file, chance, [])
        wrong = Verifier(code=False).verify(folder).wrong
        assert wrong == [f"{folder.checkpoint} is not what the run saved: params/kernel has other bits"]
        file.write_bytes(whole)
    assert Verifier(code=False).verify(folder).wrong == []


def write_record(folder: RunFolder, variables) -> None:
    leaves = trees.leaves(variables)
    info = CheckpointInfo(path="checkpoint", digest=trees.tree_digest(leaves), num_bytes=0, writer="orbax")
    ids = dict.fromkeys(("run_id", "result_id", "timing_id", "program_id", "started_at", "device", "platform"), "x")
    record = Record(
        **ids, sweep="s", num=0, status=Status.done, wall_s=0.0, overrides=[], settings={}, layer="x",
        variables=leaves, checkpoint=info, files=file_digests(folder),
    )  # fmt: skip
    store.write_record(folder, record)


# Killed saves.

SAVES = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from runner.arrays import checkpoint

def tree(number):
    leaf = np.full((64, 1024), number, np.float32)
    return {"params": {"a": leaf, "b": leaf[:1]}, "state": {"step": np.array(number)}}

def save_for_ever(root, how):
    for number in range(1, 10**6):
        if how == 1:
            checkpoint.save_step(tree(number), root / "steps", number, keep=2, metadata={"number": number})
        else:
            checkpoint.save(tree(number), root / str(number))
        (root / "next").write_text(str(number))
        os.replace(root / "next", root / "last")

chance = random.Random(0)
for kill in range(int(sys.argv[2])):
    root = Path(sys.argv[1]) / f"{kill}-{kill % 2}"
    root.mkdir()
    child = os.fork()
    if child == 0:
        save_for_ever(root, kill % 2)
    while not (root / "last").exists():
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.3))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_killed_saves_are_complete_or_refused(tmp_path):
    num_kills = 45
    script = [sys.executable, "-W", "ignore", "-c", SAVES, str(tmp_path), str(num_kills)]
    subprocess.run(script, check=True, timeout=300)
    found = [step_of(path) for path in (*tmp_path.glob("*/*"), *tmp_path.glob("*/steps/*")) if path.is_dir()]
    complete = {(root, number) for root, number in found if number is not None}
    for root in tmp_path.iterdir():
        last = int((root / "last").read_text())
        # What was said to be saved is there: of the steps the last one, of the others all.
        first = last if root.name.endswith("-1") else 1
        assert {(root, number) for number in range(first, last + 1)} <= complete
        assert max(number for other, number in complete if other == root) <= last + 1
    assert len(complete) > num_kills
    assert len(found) > len(complete)


def step_of(path: Path) -> tuple[Path, int | None]:
    """Where a folder is, and the number that its arrays hold; None where it is refused."""
    root = path.parent.parent if path.parent.name == "steps" else path.parent
    try:
        saved = checkpoint.restore(path)
    except CheckpointError:
        return root, None
    assert [np.unique(leaf).tolist() for _, leaf in trees.flatten(saved)] == [[int(path.name)]] * 3
    return root, int(path.name)


# Refused calls, as SQLite is tested: the n-th one fails, for every n.


@dataclass
class Faulty:
    """Counts the calls that change files below a folder, and lets the n-th of them fail."""

    folder: Path
    fail_at: int
    count: int = 0
    failed: str | None = None
    originals: dict[str, Callable] = field(default_factory=dict)

    def due(self, what: str, path: object) -> bool:
        name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.path.abspath(os.fspath(path))
        if not name.startswith(f"{self.folder}/"):
            return False
        self.count += 1
        if self.count == self.fail_at:
            self.failed = f"{what} {name}"
        return self.count == self.fail_at

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("rename", "replace", "mkdir", "fsync", "unlink", "rmdir"):
            patch.setattr(os, name, self.failing(name, getattr(os, name)))
        patch.setattr(os, "open", self.opening(os.open, lambda flags: flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        for module in (builtins, io):
            patch.setattr(module, "open", self.opening(open, lambda mode: set(str(mode)) & set("wax+")))

    def failing(self, name: str, call: Callable) -> Callable:
        def instead(path, *more, **named):
            if self.due(name, path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(path, *more, **named)

        return instead

    def opening(self, call: Callable, writes: Callable) -> Callable:
        def instead(path, mode="r", *more, **named):
            if not isinstance(path, int) and writes(mode) and self.due("open", path):
                if isinstance(mode, str) and self.count % 2:
                    path = "/dev/full"  # it opens, and the first write fails
                else:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(path, mode, *more, **named)

        return instead


def carry_out(configs: list[Config], folder: Path) -> list[str]:
    """Does what is missing of a sweep; what was said of failures."""
    plan = make_plan(configs, lambda name: SweepFolder(folder))
    reporter = Reporter()
    execute.execute(plan, tracking=lambda **_: InlineTracking(NullTracker()), reporter=reporter)
    return reporter.said


@pytest.mark.parametrize(("words", "stride"), [((), 1), ((*TRAIN, "train.save_every=1"), 13)])
def test_any_failing_call_loses_nothing_else(words, stride, make_run, tmp_path):
    configs = [Config(run=make_run(*LEAN, *words, "checkpoint.keep=last:1", f"seed={seed}")) for seed in (0, 1)]
    carry_out(configs, tmp_path / "undisturbed")
    wanted = {path.name: bits(path) for path in (tmp_path / "undisturbed" / "runs").iterdir()}
    for number in itertools.count(1, stride):
        folder = tmp_path / str(number)
        faulty = Faulty(folder, number)
        with pytest.MonkeyPatch.context() as patch:
            faulty.install(patch)
            try:
                said = carry_out(configs, folder)
            except StorageError as error:
                said = [str(error)]
        if faulty.failed is None:
            break
        before = journalled(folder)
        assert said or len(before) == 2, faulty.failed
        carry_out(configs, folder)
        assert {path.name: bits(path) for path in (folder / "runs").iterdir() if ".old-" not in path.name} == wanted
        assert before <= journalled(folder), faulty.failed
        for path in (folder / "runs").iterdir():
            assert Verifier(code=False).verify(RunFolder(path)).wrong == [], faulty.failed
        shutil.rmtree(folder)
    assert number > 40


def bits(path: Path) -> tuple:
    record = store.read_record(RunFolder(path))
    assert record.checkpoint is not None
    there = (path / "checkpoint").is_dir()
    assert there == (record.checkpoint.removed is None)
    return record.status, there, record.train and record.train.losses, [leaf.digest for leaf in record.variables]


def journalled(folder: Path) -> set[str]:
    """Runs that are done by the journal."""
    path = folder / "journal.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return {event["run_id"] for event in events if event["event"] == "done"}
