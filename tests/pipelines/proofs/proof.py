"""A proof: what is asked of bridge-runner in a real pipeline, and what came out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.pipelines.proofs.source import ROOT, Source

# The columns of the table, in the order in which a user meets them. Those that a pipeline's file leaves out do not
# apply to it, or say in NOT_RUN why they can't be run.
CAPABILITIES = {
    "layer": "an NNX layer replaces a part of a real module: init and apply",
    "check": "`bridge-runner check` of the host, with the pipeline's preset",
    "collections": "a collection that a lift of the pipeline loses is named",
    "rules": "leaves that no rule or mask of the pipeline meets are named",
    "axes": "missing axis names are named, and the fix is taken",
    "boxes": "a metadata box that the pipeline can't restore is named",
    "modes": "dropout or statistics that stay on in evaluation are named",
    "checkpoint": "`diff` from its own checkpoint to a tree that its own code restores",
    "training": "three steps by its own train state, with equal bits where promised",
    "trainer": "its whole trainer",
    "page": "the commands and code on its page",
}

Proof = Callable[[Path], str]


@dataclass(frozen=True)
class Outcome:
    """What one proof gave.

    Attributes:
      holds: Whether it held; None where it can't be run here.
      evidence: What was seen, or why not, in a sentence or two.
    """

    holds: bool | None
    evidence: str


@dataclass(frozen=True)
class Outcomes:
    """What the proofs of a pipeline gave.

    Attributes:
      version: The commit or version of the pipeline; empty where nothing was run.
      reason: Why nothing was run; empty where something was.
      by_capability: One a capability that applies.
    """

    version: str
    reason: str
    by_capability: dict[str, Outcome]


def names() -> list[str]:
    """The pipelines that have a file here."""
    ours = {"__init__", "__main__", "proof", "source", "stubs"}
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ours)


def run(name: str, capabilities: Sequence[str] = (), timeout_s: float = 3600) -> Outcomes:
    """Runs the proofs of pipeline `name`, all or of some `capabilities`, in a process of their own.

    Raises:
      RuntimeError: The process did not end well; with the end of what it said.
    """
    command = [sys.executable, "-m", "tests.pipelines.proofs", name, *capabilities]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-4000:]}")
    return loads(done.stdout.splitlines()[-1])


def dumps(outcomes: Outcomes) -> str:
    return json.dumps(asdict(outcomes))


def loads(text: str) -> Outcomes:
    read = json.loads(text)
    by_capability = {name: Outcome(**outcome) for name, outcome in read.pop("by_capability").items()}
    return Outcomes(**read, by_capability=by_capability)


def not_run(source: Source) -> Outcomes:
    return Outcomes("", source.missing() or "", {})
