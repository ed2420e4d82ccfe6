"""What the checks about a program cost beside compiling it: those that are traced, and all.

    python tests/benchmarks/checks.py [--layers linear,mlp] [--rounds 3] [--depth traced]

Every figure is a ratio within one process: checks by the trace, lower and compile of the same program's init and
apply, in turn, with empty caches of JAX before each. They get the compiled program, as a sweep gives it; most of what
all of them cost is tracing, lowering and compiling programs of their own, so the last ratio is by the seconds in which
JAX says that it does that. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hydra
import jax
import jax.monitoring

from runner.checks import registry
from runner.checks.probes.subject import Subject
from runner.config import conf_folder, schema
from runner.config.enums import ChecksMode
from runner.config.settings.run import Run
from runner.experiment import execute
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.program import Program, compile_program
from runner.launch import process

LAYERS = ("linear", "batch_norm", "dropout", "lora", "conv", "mlp", "multi_head_attention", "lstm", "transformer_block")
CHECKS_OFF = 1000
COMPILING = "/jax/core/compile/"


@dataclasses.dataclass(frozen=True)
class Cost:
    """CPU and wall seconds."""

    cpu_s: float
    wall_s: float


def cost(call: Callable[[], object]) -> Cost:
    """What `call` costs."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return Cost(time.process_time() - cpu, time.perf_counter() - wall)


class Compiling:
    """When JAX traced, lowered and compiled, since the last `reset`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._spans: list[tuple[float, float]] = []
        self._clock = clock  # not read off `time` in a trace, where the checks would hear it
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def reset(self) -> None:
        """Starts again."""
        self._spans.clear()

    def total_s(self) -> float:
        """Seconds of all of it; what happened within something else counts once."""
        total, until = 0.0, 0.0
        for start, end in sorted(self._spans):
            total += max(end - max(start, until), 0.0)
            until = max(until, end)
        return total

    def _add(self, event: str, duration_s: float, **_: object) -> None:
        if event.startswith(COMPILING):
            now = self._clock()
            self._spans.append((now - duration_s, now))


def subject_of(run: Run, program: Program | None = None) -> Subject:
    """A fresh subject: nothing of it has been traced for a check, and JAX remembers nothing."""
    subject = execute.subject(make_draft(run, identity_of(run)), run, program)
    jax.clear_caches()
    return subject


def compose(layers: Sequence[str]) -> dict[str, Run]:
    """The run of each layer, as the command line would have it."""
    schema.register()
    with hydra.initialize_config_dir(str(conf_folder.config_dir()), version_base="1.3"):
        return {layer: schema.from_config(hydra.compose("config", [f"layer={layer}"])) for layer in layers}


def ratios(parts: Sequence[Cost], wholes: Sequence[Cost]) -> str:
    """Median over the rounds of CPU / CPU, and of wall / wall."""
    cpu = statistics.median(part.cpu_s / whole.cpu_s for part, whole in zip(parts, wholes, strict=True))
    wall = statistics.median(part.wall_s / whole.wall_s for part, whole in zip(parts, wholes, strict=True))
    return f"{cpu:.2f} × ({wall:.2f} ×)"


def off_s(run: Run) -> float:
    """Seconds that a program costs for its checks with `checks=off`."""
    off = dataclasses.replace(run, checks=dataclasses.replace(run.checks, mode=ChecksMode.off))
    drafted = make_draft(off, identity_of(off))
    start = time.perf_counter()
    for _ in range(CHECKS_OFF):
        execute.run_checks(drafted, off)
    return (time.perf_counter() - start) / CHECKS_OFF


def row(name: str, run: Run, rounds: int, compiling: Compiling, *, full: bool) -> str:
    """One line of the table."""
    programs, traced, whole, each, own = [], [], [], [], []
    for _ in range(rounds):
        drafted = make_draft(run, identity_of(run))
        jax.clear_caches()
        program: list[Program] = []
        programs.append(cost(lambda drafted=drafted, program=program: program.append(compile_program(drafted))))
        asked = subject_of(run, program[0])
        traced.append(cost(lambda asked=asked: registry.run_checks(asked, full=False)))
        if full:
            asked = subject_of(run, program[0])
            compiling.reset()
            parts = {
                check: cost(lambda asked=asked, check=check: registry.run_checks(asked, full=True, only=[check]))
                for check in (*registry.TRACED, *registry.FULL)
            }
            whole.append(Cost(*(sum(dataclasses.astuple(part)[i] for part in parts.values()) for i in (0, 1))))
            each.append(parts)
            own.append(whole[-1].wall_s / compiling.total_s())
    program_s = statistics.median(one.cpu_s for one in programs)
    cells = [name, f"{1000 * program_s:.0f}", ratios(traced, programs)]
    if full:
        dearest = sorted(registry.FULL, key=lambda check: -statistics.median(parts[check].cpu_s for parts in each))[:3]
        shares = [f"{check} {ratios([parts[check] for parts in each], programs).split(' (')[0]}" for check in dearest]
        cells += [ratios(whole, programs), ", ".join(shares), f"{statistics.median(own):.2f} ×"]
    return f"| {' | '.join([*cells, f'{1e6 * off_s(run):.1f}'])} |"


def main() -> None:
    """Prints the table, a line as soon as its layer is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default=",".join(LAYERS), help="names of conf/layer, or all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depth", choices=("traced", "full"), default="full")
    given = parser.parse_args()
    full = given.depth == "full"
    known = [name for name in schema.layer_names() if name != "custom"]
    runs = compose(known if given.layers == "all" else given.layers.split(","))
    process.quiet_libraries()
    heads = ["layer", "program, CPU ms", "traced checks: CPU (wall)"]
    heads += ["all: CPU (wall)", "the dearest of them", "all, by what they compile"] * full
    heads.append("`checks=off`, µs")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    compiling = Compiling()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, run in runs.items():
            print(row(name, run, given.rounds, compiling, full=full), flush=True)


if __name__ == "__main__":
    main()
