"""Runs the proofs of one pipeline and prints what they gave as the last line, in JSON.

python -m tests.pipelines.proofs easylm [CAPABILITY ...]
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
import traceback
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.pipelines import typed
from tests.pipelines.proofs.proof import CAPABILITIES, Outcome, Outcomes, Proof, dumps, not_run
from tests.pipelines.proofs.source import ROOT


def outcome(proof: Proof) -> Outcome:
    """Runs `proof` in an empty folder, which is its working directory too."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        try:
            return Outcome(True, proof(Path(folder)))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is what came out
            traceback.print_exc()
            return Outcome(False, f"{type(error).__name__}: {error}")


def outcomes(name: str, wanted: list[str]) -> Outcomes:
    """The proofs `wanted` of pipeline `name`; all where none is."""
    module = importlib.import_module(f"tests.pipelines.proofs.{name}")
    if module.SOURCE.missing():
        return not_run(module.SOURCE)
    module.SOURCE.enter()
    proofs: dict[str, Proof] = {**module.PROOFS, "page": lambda _: page(name)}
    asked = [key for key in CAPABILITIES if key in (wanted or CAPABILITIES)]
    with tempfile.TemporaryDirectory() as files:
        typed.write_files(name, Path(files))
        found = {key: outcome(proofs[key]) for key in asked if key in proofs}
    found |= {key: Outcome(None, why) for key, why in getattr(module, "NOT_RUN", {}).items() if key in asked}
    return Outcomes(module.SOURCE.version(), "", found)


def page(name: str) -> str:
    """Types what is on the page of pipeline `name`."""
    commands = typed.type_page(name)
    assert commands, f"docs/pipelines/{name}.md has no command"
    return f"{len(commands)} commands end as [the page]({name}.md) says"


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT)]
    with contextlib.redirect_stdout(sys.stderr):
        said = outcomes(sys.argv[1], sys.argv[2:])
    print(dumps(said))
