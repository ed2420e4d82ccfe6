"""What can't fit is refused with the number, and a sweep goes on: XLA would abort the process."""

from __future__ import annotations

import json
import types
from pathlib import Path

import jax
import pytest

from runner.commands import main
from runner.experiment import memory as room
from runner.timing import memory

LEAN = ("tracking=disabled", "timing=off", "checkpoint=none")
SORTS = ("layer=custom", "layer.target=large_layers.Sorts")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def errors_of(sweep: str) -> list[str | None]:
    records = [json.loads(path.read_text()) for path in Path("outputs", sweep).glob("runs/*/record.json")]
    ordered = sorted(records, key=lambda record: record["num"])
    return [record["error"] and f"{record['error']['kind']}: {record['error']['message']}" for record in ordered]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("features=99999999999",), "2.4 TB of memory (variables 2 TB, output 400 GB), and "),
        (("layer=mlp", "train.steps=1", "features=30000000000"), "(variables 2.04 TB, output 120 GB, optimizer 4."),
        (("layer=conv", "input_shape=[8,4]", "layer.kwargs.kernel_size=[100000000000]"), "(variables 12.8 TB), and "),
        ((*SORTS, "input_shape=[1000000]"), "those between them 4 TB), and "),
    ],
)
def test_large_programs_are_refused_with_numbers(words, said, capsys):
    assert main.main(["check", *words]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "it takes at least " in out
    assert said in out and " GB are free here" in out


PLACED = types.SimpleNamespace(placement=types.SimpleNamespace(mesh=None, device=jax.devices("cpu")[0]))


def compiled(*, arguments=0, output=0, alias=0, temporary=0):
    """What memory a compiled function asks for."""
    names = ("argument_size_in_bytes", "output_size_in_bytes", "alias_size_in_bytes", "temp_size_in_bytes")
    stats = types.SimpleNamespace(**dict(zip(names, (arguments, output, alias, temporary), strict=True)))
    return types.SimpleNamespace(memory_analysis=lambda: stats)


@pytest.mark.parametrize(
    ("large", "what"),
    [
        ({"init": compiled(output=101)}, "the arrays of init"),
        ({"apply": compiled(arguments=50, output=51)}, "the arrays of apply"),
        ({"apply": compiled(temporary=101)}, "those between them"),
        ({"training": types.SimpleNamespace(step=compiled(output=101))}, "the arrays of a training step"),
        (
            {"population": types.SimpleNamespace(size=4, steps=compiled(output=101))},
            "the arrays of 4 runs that train as one",
        ),
        ({"apply": compiled(arguments=100, output=60, alias=60)}, None),
    ],
)
def test_each_compiled_part_must_fit(large, what, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 100)
    parts = {"init": compiled(), "apply": compiled(), "training": None, "population": None} | large
    program = types.SimpleNamespace(draft=PLACED, **parts)
    if what is None:
        room.require_room_to_run(program)
        return
    with pytest.raises(room.TooLarge, match=rf"it takes at least .* of memory \({what}"):
        room.require_room_to_run(program)


@pytest.mark.slow
def test_a_sweep_goes_on_after_large_runs():
    assert main.main(["-m", "features=99999999999,8", "sweep=s", *LEAN]) == 1
    large, small = errors_of("s")
    assert large.startswith("out of memory: it takes at least 2.4 TB of memory")
    assert small is None
    assert main.main(["resume", "outputs/s"]) == 1


def files(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\nSwapFree: 1000 kB\n"}
STAT = "inactive_file 100\nactive_file 10\ntotal_inactive_file 1000\ntotal_active_file 0\n"


@pytest.mark.parametrize(
    ("texts", "free"),
    [
        ({}, None),
        (MACHINE, 5000 * 1024),
        (
            MACHINE
            | {"proc/self/cgroup": "0::/job/step\n", "sys/fs/cgroup/job/step/memory.max": "max\n"}
            | {"sys/fs/cgroup/job/memory.max": "3000\n", "sys/fs/cgroup/job/memory.current": "500\n"}
            | {"sys/fs/cgroup/job/memory.stat": STAT},
            2610,
        ),
        (
            MACHINE
            | {"proc/self/cgroup": "4:memory:/a\n3:cpu:/b\n"}
            | {"sys/fs/cgroup/memory/memory.limit_in_bytes": "4000"}
            | {"sys/fs/cgroup/memory/memory.usage_in_bytes": "2000", "sys/fs/cgroup/memory/memory.stat": STAT},
            3000,
        ),
    ],
)
def test_free_memory_respects_limits(texts, free, tmp_path):
    assert memory.free_bytes(files(tmp_path, texts)) == free
