"""Records, plans and journals of strangers: right digests around other types, missing keys, big numbers, nested lists.

`BRIDGE_RUNNER_FUZZ=SEED[:NUM]` draws others, or more of them.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bounded_calls import call, codes_of, sweep_two_runs
from fuzz import SEED, num_drawn, report_held

from runner.records import codec, journal

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # to a user, a warning is no error

NUM_DRAWN = num_drawn(120)
NUM_LINES = num_drawn(60)

LEAN = ("tracking=disabled", "timing=off", "checks=off", "train=short", "train.steps=2")
OTHERS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 10**9, 10**30, -(2**63), 1e308, float("nan"), float("inf"), "", "x", "\x1b[31m"),
    *("a/../../b", "/etc/passwd", "x" * 5000, "\ud800", "2**99", [], [[]], [None], [[[[1]]]], {}, {"a": {"b": []}}),
    *({"": ""}, [1, "a", None], "${oc.env:HOME}", "???"),
)
SWEEP, KEPT = "outputs/s", "outputs/kept"
LOOKS = (
    *("ls", f"ls {SWEEP}", f"ls {SWEEP} --json", f"ls {SWEEP} --by seed", f"show {SWEEP}/0", f"show {SWEEP}/0 --json"),
    *(f"report {SWEEP}", f"results {SWEEP}", f"verify {SWEEP} --no-code", f"compare {SWEEP} {KEPT}"),
    *(f"diff {SWEEP}/0 {KEPT}/0", f"export {SWEEP}/0 --to safetensors --out o.st", f"reload {SWEEP}/0"),
    *(f"resume {SWEEP}", f"rerun {SWEEP}/0", f"verify {SWEEP}/0"),
)
# Of ten calls one runs a layer.
QUICK = LOOKS[:-3]


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something could be something else."""
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def changed(data: Any, chance: random.Random, every: list[tuple[Any, ...]]) -> tuple[Any, str]:
    """`data` with another value somewhere, or without one, and what was done to it."""
    data = copy.deepcopy(data)
    top = chance.choice(list(data))  # else most of it would be the digests of leaves
    *parents, last = chance.choice([path for path in every if path[0] == top])
    node = data
    for key in parents:
        node = node[key]
    kind = chance.random()
    if kind < 0.15:
        del node[last]
        return data, f"no {'.'.join(map(str, [*parents, last]))}"
    if kind < 0.25 and isinstance(node, dict):
        node["more"] = chance.choice(OTHERS)
        return data, f"more in {parents}"
    node[last] = chance.choice(OTHERS) if kind < 0.9 else [node[last]]
    return data, f"{'.'.join(map(str, [*parents, last]))}={node[last]!r:.60}"


def sealed(data: Any) -> bytes:
    return codec.seal(json.dumps(data, indent=1).encode())


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    return sweep_two_runs(tmp_path_factory.mktemp("foreign"), LEAN)


def look(swept: Path, chance: random.Random, num: int, plant: Callable[[], str]) -> tuple[str, bool]:
    """What is wrong with a look at a copy of the sweep that `plant` changed, or "", and whether it was refused."""
    shutil.rmtree(SWEEP, ignore_errors=True)
    Path("o.st").unlink(missing_ok=True)
    shutil.copytree(swept / SWEEP, SWEEP)
    what = plant()
    words = chance.choice(QUICK if num % 10 else LOOKS).split()
    found = call(words)
    fault = found.fault(codes_of(words[0]))
    return f"{what}, {words}: {fault}" if fault else "", found.code != 0


def test_no_sealed_record_ends_in_a_traceback(swept, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(swept / SWEEP, KEPT)
    chance = random.Random(SEED)
    files = [next((swept / SWEEP).glob("runs/0-*/record.json")), swept / SWEEP / "sweep.json"]
    whole = {file: json.loads(file.read_text()) for file in files}
    for data in whole.values():
        del data["digest"]
    every = {file: list(places(data)) for file, data in whole.items()}

    def plant() -> str:
        file = chance.choice(files)
        data, what = changed(whole[file], chance, every[file])
        (tmp_path / file.relative_to(swept)).write_bytes(sealed(data))
        return f"{file.name} with {what}"

    looks = [look(swept, chance, num, plant) for num in range(NUM_DRAWN)]
    faults = [fault for fault, _ in looks if fault]
    with capsys.disabled():
        report_held("sealed records and plans", len(looks), faults, num_refused=sum(one for _, one in looks))


def test_no_sealed_journal_ends_in_a_traceback(swept, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(swept / SWEEP, KEPT)
    chance = random.Random(SEED)
    whole = (swept / SWEEP / "journal.jsonl").read_bytes().splitlines(keepends=True)

    def plant() -> str:
        place = chance.randrange(len(whole))
        data = json.loads(whole[place])
        del data["digest"]
        assert journal.to_line(data) == whole[place]
        data, what = changed(data, chance, list(places(data)))
        lines = [*whole[:place], journal.to_line(data), *whole[place + 1 :]]
        Path(SWEEP, "journal.jsonl").write_bytes(b"".join(lines))
        return f"line {place} with {what}"

    looks = [look(swept, chance, num, plant) for num in range(NUM_LINES)]
    faults = [fault for fault, _ in looks if fault]
    with capsys.disabled():
        report_held("sealed journals", len(looks), faults, num_refused=sum(one for _, one in looks))
