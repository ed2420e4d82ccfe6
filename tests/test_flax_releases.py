"""The table of Flax releases: made from what was found, and what was found of the release that is installed."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
FOUND = json.loads((REFERENCE / "flax-releases.json").read_text())

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
import flax_releases  # noqa: E402


def test_the_page_is_made_from_what_was_found():
    assert (REFERENCE / "flax-releases.md").read_text() == flax_releases.to_page(FOUND)


def test_the_page_shows_errors_and_raises():
    rows = {
        "0.10.0": {"versions": {"flax": "0.10.0", "jax": "1", "python": "3.11"}, "error": "No solution"},
        "0.12.8": {
            "versions": {"flax": "0.12.8", "jax": "2", "python": "3.11"},
            "wrapped": dict.fromkeys(flax_releases.MEANING, "silent") | {"wrong_shape": "raises ValueError"},
            "native": dict.fromkeys(flax_releases.MEANING, "right"),
        },
    }
    page = flax_releases.to_page(rows)
    assert "| 0.10.0 | 1 | 3.11 | – |" in page
    assert "| 0.12.8 | 2 | 3.11 | **silent** | **silent** | raises |" in page
    assert "- wrong shape, flax 0.12.8: raises ValueError.\n" in page
    assert page.endswith("- flax 0.10.0: `No solution`\n")


def test_linen_itself_refuses_what_the_bridge_accepts():
    for row in FOUND.values():
        if "native" in row:
            assert "silent" not in row["native"].values()


def test_every_failure_is_in_some_release():
    found = [row["wrapped"] for row in FOUND.values() if "wrapped" in row]
    assert {name for row in found for name, word in row.items() if word == "silent"} == flax_releases.MEANING.keys()


@pytest.mark.slow
def test_this_release_is_as_the_table_says():
    done = subprocess.run(
        [sys.executable, flax_releases.PROBES], check=True, capture_output=True, text=True, timeout=200
    )
    here = json.loads(done.stdout)
    release = importlib.metadata.version("flax")
    assert here["wrapped"] == FOUND[release]["wrapped"]
    assert here["native"] == FOUND[release]["native"]
