"""On the real sources: `BRIDGE_RUNNER_SOURCES=FOLDER python -m pytest -m pipelines -n 0 tests/pipelines`."""

from __future__ import annotations

import re

import pytest

from tests.benchmarks import pipelines
from tests.pipelines.proofs import proof

RAN = {"holds": True, "evidence": "three steps"}
UNABLE = {"holds": None, "evidence": "TensorFlow is not installed"}


@pytest.mark.pipelines
@pytest.mark.timeout(2000)
@pytest.mark.parametrize("capability", proof.CAPABILITIES)
@pytest.mark.parametrize("pipeline", proof.names())
def test_a_real_pipeline_takes_the_layer(pipeline, capability, proved):
    found = proved(pipeline, capability)
    assert found.holds, found.evidence


def test_what_was_run_is_kept_where_it_can_not_be():
    ran, unable = ({"version": "1", "reason": "", "by_capability": {"trainer": one}} for one in (RAN, UNABLE))
    assert pipelines.added(ran, unable)["by_capability"]["trainer"] == RAN
    assert pipelines.added(unable, ran)["by_capability"]["trainer"] == RAN
    assert pipelines.added(ran, unable | {"version": "2"})["by_capability"]["trainer"] == UNABLE


def test_every_pipeline_has_a_page():
    pages = proof.ROOT / "docs" / "pipelines"
    assert [name for name in proof.names() if not (pages / f"{name}.md").exists()] == []


def test_readme_has_the_table_of_the_pages():
    page = (proof.ROOT / "docs" / "pipelines" / "README.md").read_text()
    (table,) = re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE)
    assert re.sub(r"\]\((\w+\.md)\)", r"](docs/pipelines/\1)", table) in (proof.ROOT / "README.md").read_text()
