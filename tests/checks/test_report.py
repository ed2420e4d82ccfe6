"""The report of `runner.check`: by position and by name, as text, as a notebook's table, and in a test."""

from __future__ import annotations

import subprocess
import sys

import jax.numpy as jnp
import pytest
from flax import nnx
from flax.nnx import bridge

import runner
from runner.checks.results.report import CheckFailures, CheckReport
from runner.records.record import Check, Verdict

X = jnp.ones((2, 4))
FIX = "model = a < b\nagain()"

REPORT = CheckReport(
    "Gated",
    [
        Check(name="complete", verdict=Verdict.passed, detail="all 2 leaves"),
        Check(name="streams", verdict=Verdict.fail, detail="needs <dropout>", evidence={"apply": ["<i>"]}, fix=FIX),
        Check(name="lifts", verdict=Verdict.warn, detail="but for " + "a long list " * 12),
        Check(name="sharding", verdict=Verdict.warn, detail="could not be tested: ValueError", untested=True),
    ],
)


@pytest.fixture(scope="module")
def dropped() -> CheckReport:
    """Dropout whose stream the pipeline does not give, and a check that holds."""
    only = ["complete", "streams", "nothing_invented"]
    return runner.check(bridge.to_linen(nnx.Dropout, 0.5), X, rngs="params", only=only)


def test_reports_index_by_position_and_name(dropped):
    assert [check.name for check in dropped] == ["complete", "nothing_invented", "streams"]
    assert len(dropped) == 3
    assert dropped[0] is dropped["complete"]
    assert dropped[1:] == (dropped["nothing_invented"], dropped[-1])
    assert dropped["streams"].verdict is Verdict.fail
    assert dropped["streams"].verdict == Verdict.fail.value


def test_unknown_check_names_suggest_the_nearest(dropped):
    with pytest.raises(KeyError) as caught:
        dropped["stream"]
    known = "complete, nothing_invented, streams"
    assert caught.value.args == (f"no check 'stream' in this report of {known}; did you mean 'streams'?",)
    with pytest.raises(KeyError, match="no check 'xyz' in this report of complete, nothing_invented, streams\"$"):
        dropped["xyz"]


def test_checks_are_grouped_by_verdict():
    said = [[check.name for check in part] for part in (REPORT.failed, REPORT.warned, REPORT.untested)]
    assert said == [["streams"], ["lifts", "sharding"], ["sharding"]]
    assert not REPORT.ok
    assert not REPORT


def test_untested_checks_are_not_ok():
    untested = REPORT[-1:]
    report = CheckReport("Gated", untested)
    assert not report.ok and not report.failed
    with pytest.raises(CheckFailures) as caught:
        report.raise_for_failures()
    assert str(caught.value) == (
        "0 of 1 check failed, 1 could not be made: Gated\n\nsharding: could not be tested: ValueError"
    )


def test_reports_without_failures_raise_nothing():
    report = runner.check(bridge.to_linen(nnx.Linear, 4, 4), X, only="complete", label="mine")
    assert report.ok and report
    assert report.label == "mine"
    report.raise_for_failures()


def test_failures_carry_evidence_and_fix(dropped):
    with pytest.raises(CheckFailures, match=r"^2 of 3 checks failed: Dropout\n\nnothing_invented: ") as caught:
        dropped.raise_for_failures()
    text = str(caught.value)
    assert isinstance(caught.value, AssertionError)
    assert caught.value.report is dropped
    assert "\nstreams: apply needs the stream dropout and is not given it\n" in text
    assert '\n  evidence  apply = ["dropout"]\n' in text
    assert text.endswith("       output = model.apply(variables, x, rngs={'dropout': k3})")


@pytest.mark.slow
def test_pytest_shows_failures_at_the_call(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        "import jax.numpy as jnp, runner\n"
        "from flax import nnx\n"
        "from flax.nnx import bridge\n"
        "def test_dropout():\n"
        "    model = bridge.to_linen(nnx.Dropout, 0.5)\n"
        "    runner.check(model, jnp.ones(4), rngs='params', only='streams').raise_for_failures()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "E       runner.checks.results.report.CheckFailures: 1 of 1 check failed: Dropout" in done.stdout
    assert "test_mine.py:6: CheckFailures" in done.stdout
    assert "report.py" not in done.stdout


def test_the_text_is_a_plain_table():
    passed, fail, warn = Verdict.passed, Verdict.fail, Verdict.warn
    assert str(REPORT) == repr(REPORT)
    lines = str(REPORT).splitlines()
    assert lines[0] == f"Gated: 4 checks (1 {passed}, 2 {warn}, 1 {fail})"
    assert lines[1].split() == ["complete", passed, "all", "2", "leaves"]
    assert lines[3:5] == ["      fix  model = a < b", "           again()"]
    assert max(map(len, lines)) <= 100
    assert len({line.index(word) for line, word in ((lines[1], "all"), (lines[2], "needs"), (lines[5], "but"))}) == 1


def test_notebook_tables_escape_everything():
    table = REPORT._repr_html_()
    assert table.startswith("<table><caption")
    assert table.count("<tr>") == 5
    assert "needs &lt;dropout&gt;" in table and "model = a &lt; b" in table and "&lt;i&gt;" in table
    assert "<dropout>" not in table and "<i>" not in table
    # Readable on any paper: no background of its own, and the text in the notebook's colour.
    assert "background" not in table


def test_an_empty_report_is_shown():
    assert repr(CheckReport("Gated", [])) == "Gated: 0 checks"
