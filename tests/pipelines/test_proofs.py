"""On the real sources: `BRIDGE_RUNNER_SOURCES=FOLDER python -m pytest -m pipelines -n 0 tests/pipelines`."""

from __future__ import annotations

import pytest

from tests.pipelines.proofs import proof


@pytest.mark.pipelines
@pytest.mark.timeout(2000)
@pytest.mark.parametrize("capability", proof.CAPABILITIES)
@pytest.mark.parametrize("pipeline", proof.names())
def test_a_real_pipeline_takes_the_layer(pipeline, capability, proved):
    found = proved(pipeline, capability)
    assert found.holds, found.evidence


def test_every_pipeline_has_a_page():
    pages = proof.ROOT / "docs" / "pipelines"
    assert [name for name in proof.names() if not (pages / f"{name}.md").exists()] == []
