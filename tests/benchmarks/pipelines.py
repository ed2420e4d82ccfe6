"""What works in which Linen pipeline: the table docs/pipelines/README.md.

    BRIDGE_RUNNER_SOURCES=FOLDER python tests/benchmarks/pipelines.py > docs/pipelines/README.md

Each file of tests/pipelines/proofs is run on the real source of its pipeline, in a process of its own; some minutes
each. `NAME` or `NAME:capability,capability` runs some of them, and `--kept` none. A pipeline that can't be run here is
left as docs/pipelines/proved.json has it, where the last outcome of each is kept. No one environment has them all:
Kauldron and MaxText want Python 3.12, big_vision's trainer TensorFlow and clu, T5X's (and Flaxformer's) seqio too.
"""
# ruff: noqa: E402 - the proofs are found once their folder is on the path

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from tests.pipelines.proofs import proof
from tests.pipelines.proofs.proof import CAPABILITIES, Outcome, Outcomes

KEPT = ROOT / "docs" / "pipelines" / "proved.json"

HEAD = """\
# bridge-runner in Linen pipelines

What was run on the real source of each pipeline, at tiny sizes on a CPU, and what came out. Made by
`BRIDGE_RUNNER_SOURCES=FOLDER python tests/benchmarks/pipelines.py > docs/pipelines/README.md`; the proofs are in
[tests/pipelines/proofs](../../tests/pipelines/proofs), and each pipeline has a page on what to type.
"""


def mark(outcome: Outcome | None) -> str:
    """A cell of the table."""
    if outcome is None:
        return "–"
    return {True: "yes", False: "**no**", None: "not run"}[outcome.holds]


def page(found: Mapping[str, Outcomes]) -> str:
    """The whole of docs/pipelines/README.md."""
    lines = [HEAD, "", f"| pipeline | {' | '.join(CAPABILITIES)} |", "|---" * (len(CAPABILITIES) + 1) + "|"]
    for name, outcomes in found.items():
        cells = [mark(outcomes.by_capability.get(key)) for key in CAPABILITIES]
        lines.append(f"| [{name}]({name}.md) | {' | '.join(cells)} |")
    lines += ["", *(f"- *{key}*: {meaning}" for key, meaning in CAPABILITIES.items())]
    lines += ["", "*–* does not apply there; *not run* with the reason below."]
    for name, outcomes in found.items():
        lines += ["", f"## {name}", "", outcomes.version or f"Not run: {outcomes.reason}.", ""]
        lines += [f"- *{key}* {mark(done)}: {done.evidence}" for key, done in outcomes.by_capability.items()]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main(wanted: list[str]) -> None:
    """Runs the pipelines `wanted`, or all, or none with `--kept`, and prints the page."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for word in [] if wanted == ["--kept"] else wanted or proof.names():
        name, _, capabilities = word.partition(":")
        outcomes = proof.run(name, tuple(filter(None, capabilities.split(","))))
        kept[name] = added(kept.get(name), asdict(outcomes))
        print(f"{name}: {outcomes.reason or outcomes.version}", file=sys.stderr)
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps(dict(sorted(kept.items())), indent=1, ensure_ascii=False) + "\n")
    sys.stdout.write(page({name: proof.loads(json.dumps(kept[name])) for name in sorted(kept)}))


def added(kept: dict[str, Any] | None, outcomes: dict[str, Any]) -> dict[str, Any]:
    """`outcomes`, and what is `kept` of the same version and was not run again, or can't be run in this environment."""
    if kept is None or (outcomes["version"] and kept["version"] != outcomes["version"]):
        return outcomes
    if outcomes["reason"]:
        return kept
    ran = {name: one for name, one in outcomes["by_capability"].items() if one["holds"] is not None}
    both = outcomes["by_capability"] | kept["by_capability"] | ran
    return outcomes | {"by_capability": {key: both[key] for key in CAPABILITIES if key in both}}


if __name__ == "__main__":
    main(sys.argv[1:])
