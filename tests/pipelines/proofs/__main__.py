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
    found = {
        key: outcome(module.PROOFS[key])
        for key in CAPABILITIES
        if key in module.PROOFS and key in (wanted or CAPABILITIES)
    }
    found |= {key: Outcome(None, why) for key, why in getattr(module, "NOT_RUN", {}).items() if not wanted}
    return Outcomes(module.SOURCE.version(), "", found)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT)]
    with contextlib.redirect_stdout(sys.stderr):
        said = outcomes(sys.argv[1], sys.argv[2:])
    print(dumps(said))
