"""Sources of the user's kept with a sweep: once, bounded, redacted, and known again by their digests."""

from __future__ import annotations

import hashlib

import pytest

from runner.config.env_secrets import Redaction
from runner.records import kept_sources
from runner.records.paths import SweepFolder

TEXT = "class Layer:\n    token = 'correct horse'\n"
NAME = hashlib.sha256(TEXT.encode()).hexdigest()


@pytest.fixture
def run(tmp_path):
    """The folder of a run."""
    return SweepFolder(tmp_path).run(0, "a" * 64)


def kept(run) -> list[str]:
    return sorted(path.name for path in run.source(NAME).parent.glob("*"))


def test_runs_of_a_sweep_share_one_copy(run, tmp_path):
    for num in range(3):
        kept_sources.keep(SweepFolder(tmp_path).run(num, "b" * 64), {"layers": TEXT}, Redaction())
    assert kept(run) == [f"{NAME}.py"]
    assert kept_sources.read(run, NAME) == kept_sources.read_resolved(run, NAME) == TEXT


def test_secrets_are_redacted_and_needed_again(run, monkeypatch):
    kept_sources.keep(run, {"layers": TEXT}, Redaction({"TOKEN": "correct horse"}))
    assert b"horse" not in run.source(NAME).read_bytes()
    assert kept_sources.read(run, NAME) is None
    monkeypatch.setenv("TOKEN", "another horse")
    assert kept_sources.read_resolved(run, NAME) is None
    monkeypatch.setenv("TOKEN", "correct horse")
    assert "${oc.env:TOKEN}" in kept_sources.read(run, NAME)
    assert kept_sources.read_resolved(run, NAME) == TEXT


def test_what_is_too_large_is_not_kept(run, monkeypatch):
    monkeypatch.setattr(kept_sources, "MAX_BYTES", len(TEXT) + 3)
    kept_sources.keep(run, {"layers": TEXT, "more": "four"}, Redaction())
    assert kept(run) == [f"{NAME}.py"]


def test_names_lead_nowhere_else(run, tmp_path):
    outside = tmp_path.parent / "outside.py"
    outside.write_text(TEXT)
    (tmp_path / "sources").mkdir()
    assert run.source("../../outside").resolve() == outside.resolve()
    assert kept_sources.read(run, "../../outside") is None


@pytest.mark.parametrize("damage", ["changed", "binary", "a folder", "gone"])
def test_damaged_sources_are_lost(damage, run):
    kept_sources.keep(run, {"layers": TEXT}, Redaction())
    path = run.source(NAME)
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes(TEXT.encode() + (b"\xff" if damage == "binary" else b" "))
    assert kept_sources.read(run, NAME) is kept_sources.read_resolved(run, NAME) is None
