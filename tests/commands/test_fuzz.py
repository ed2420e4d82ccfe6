"""Whatever is typed, and whatever became of the files: no traceback, no hang, and an exit code that is documented.

`BRIDGE_RUNNER_FUZZ=SEED[:NUM]` draws other lines and files, or more of them.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bounded_calls import RUN, call, codes_of, sweep_two_runs
from damaged_files import DAMAGES
from fuzz import SEED, num_drawn, report_held
from fuzzed_words import LEAN, Words, plant

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # to a user, a warning is no error

NUM_LINES = num_drawn(110)
NUM_FILES = num_drawn(80)

SWEEP = "outputs/s"
# Of these every call draws one; of `RUNS`, which compile and run layers, every tenth.
LOOKS = (
    *("ls", f"ls {SWEEP}", f"ls {SWEEP} --json", f"ls {SWEEP} --by seed", f"show {SWEEP}", "show RUN"),
    *("show RUN --json", "verify RUN --no-code", f"verify {SWEEP} --no-code", f"results {SWEEP}", f"report {SWEEP}"),
    *(f"compare {SWEEP} outputs/kept", "compare RUN outputs/kept/0", f"resume {SWEEP}", f"resume {SWEEP} --verify"),
    *("diff RUN outputs/kept/0", "export RUN --to safetensors --out o.st", "reload RUN", "reload RUN --dtype bfloat16"),
    *("import RUN/checkpoint --like outputs/kept/0 --out o2", f"sync {SWEEP}"),
)
RUNS = (f"verify {SWEEP}", "rerun RUN", f"resume {SWEEP} failure.retry=all", "variables=RUN sweep=v")


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """The folder of a sweep of two runs, with its `outputs`."""
    return sweep_two_runs(tmp_path_factory.mktemp("fuzzed"), LEAN)


@pytest.fixture
def here(swept, tmp_path, monkeypatch) -> Path:
    """A copy of it as the working directory, of a user without a W&B server."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(swept / SWEEP, tmp_path / SWEEP)
    return tmp_path


def files_of(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_no_line_ends_in_a_traceback(here):
    plant(here)
    runs = [str(path.relative_to(here)) for path in sorted((here / SWEEP / "runs").iterdir())]
    inside = [f"{run}/{name}" for run in runs[:1] for name in ("checkpoint", "record.json", "output.npy")]
    words = Words(SEED, [*runs, *inside])
    faults = []
    for _ in range(NUM_LINES):
        name, line = words.draw()
        fault = call(line).fault(codes_of(name))
        faults += [f"{line}: {fault}"] if fault else []
    report_held("command lines", NUM_LINES, faults)


def test_no_damage_ends_in_a_traceback(here, swept):
    shutil.copytree(here / SWEEP, here / "outputs/kept")
    chance = random.Random(SEED)
    every = [(file, damage) for file in files_of(here / SWEEP) for damage in DAMAGES]
    chance.shuffle(every)
    runs = sorted(str(path.relative_to(here)) for path in (here / SWEEP / "runs").iterdir())
    faults = []
    for num in range(NUM_FILES):
        file, damage = every[num % len(every)]
        run = next((run for run in runs if Path(SWEEP, file).is_relative_to(run)), runs[0])
        line = chance.choice(LOOKS if num % 10 else RUNS).replace("RUN", run).split()
        fault = _damaged(swept, file, lambda path, damage=damage: damage(path, chance), line)
        faults += [f"{damage.__name__} {file}, {line}: {fault}"] if fault else []
    report_held("damaged files", NUM_FILES, faults)


def _damaged(swept: Path, file: Path, damage: Callable[[Path], None], line: list[str]) -> str | None:
    """What is wrong with a command line when a file of the sweep is damaged."""
    for made in ("o2", SWEEP, "outputs/v"):
        shutil.rmtree(made, ignore_errors=True)
    Path("o.st").unlink(missing_ok=True)
    shutil.copytree(swept / SWEEP, SWEEP)
    damage(Path(SWEEP, file))
    a_run = "=" in line[0]
    return call([*line, *LEAN] if a_run else line).fault(codes_of(RUN if a_run else line[0]))
