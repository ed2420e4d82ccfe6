"""What the checks find of planted faults, and whether they leave healthy layers alone: docs/reference/faults.md.

    python tests/benchmarks/faults.py > docs/reference/faults.md

Each case of tests/support/planted_faults.py is checked as by `bridge-runner check`, in this process; some minutes.
"""
# ruff: noqa: E402 - the layers are found once their folder is on the path

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import planted_faults
from planted_faults import CASES, Case

from runner.commands import main

HEAD = """\
# Planted faults

Layers and hosts as teams write them, each with one fault, and healthy ones that look like them, as
`bridge-runner check` finds them. Made by `python tests/benchmarks/faults.py > docs/reference/faults.md`; the layers are
in [planted_faults.py](../../tests/support/planted_faults.py).
"""


@dataclass(frozen=True)
class Outcome:
    """What was said of a case.

    Attributes:
      code: The exit code.
      failed: Checks that failed, or that could not be made.
      text: All that was said.
    """

    code: int
    failed: tuple[str, ...]
    text: str

    def is_right(self, case: Case) -> bool:
        """Whether a fault was found in the right words, or a healthy layer left alone."""
        if case.words is None:
            return self.code == 0
        return self.code == 1 and any(word in self.text for word in case.words)


def outcome(case: Case, *, traced: bool = False) -> Outcome:
    """Checks one case, by every check or by those that only trace."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.main(["check", "--json", *(["--traced"] if traced else []), *case.typed])
    said = out.getvalue()
    programs = json.loads(said) if said.lstrip().startswith("[") else []
    checks = [check for program in programs for check in program["checks"]]
    failed = [check["name"] for check in checks if check["verdict"] == "fail" or check["untested"]]
    return Outcome(code, tuple(failed), said + err.getvalue())


def page(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> str:
    """The whole of docs/reference/faults.md."""
    pairs = list(zip(cases, outcomes, strict=True))
    faults = [(case, found) for case, found in pairs if case.words is not None]
    healthy = [(case, found) for case, found in pairs if case.words is None]
    num_found = sum(found.is_right(case) for case, found in faults)
    num_alarms = sum(not found.is_right(case) for case, found in healthy)
    lines = [
        HEAD,
        f"Of {len(faults)} faults {num_found} are found; of {len(healthy)} healthy ones {num_alarms} fail.",
        "",
    ]
    found_by = Counter(name for _, found in faults for name in found.failed)
    alarms = Counter(name for _, found in healthy for name in found.failed)
    lines += ["| check | faults that it fails | healthy layers that it fails |", "|---|---|---|"]
    lines += [f"| {name} | {found_by[name]} | {alarms[name]} |" for name in sorted({*found_by, *alarms})]
    lines += ["", "| fault | found by | |", "|---|---|---|"]
    lines += [
        f"| {case.planted} | {', '.join(found.failed) or '–'} | {'found' if found.is_right(case) else '**missed**'} |"
        for case, found in faults
    ]
    lines += ["", "| healthy | |", "|---|---|"]
    lines += [
        f"| {case.planted} | {'pass' if found.is_right(case) else '**false alarm**: ' + ', '.join(found.failed)} |"
        for case, found in healthy
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    wanted = [CASES[name] for name in sys.argv[1:]] or list(planted_faults.CASES.values())
    sys.stdout.write(page(wanted, [outcome(case) for case in wanted]))
