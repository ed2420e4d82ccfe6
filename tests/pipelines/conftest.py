"""What tests of pipelines need: the proofs of each, run once in a process of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from tests.pipelines.proofs import proof


@pytest.fixture(scope="session")
def proved() -> Callable[[str, str], proof.Outcome]:
    """What the proof of a capability gave in a pipeline; skips, with the reason, where it can't be run here."""
    run = functools.cache(proof.run)

    def outcome(pipeline: str, capability: str) -> proof.Outcome:
        outcomes = run(pipeline)
        if outcomes.reason:
            pytest.skip(f"{pipeline}: {outcomes.reason}")
        found = outcomes.by_capability.get(capability)
        if found is None:
            pytest.skip(f"{pipeline}: {capability} does not apply")
        if found.holds is None:
            pytest.skip(f"{pipeline}: {capability} not run: {found.evidence}")
        return found

    return outcome
