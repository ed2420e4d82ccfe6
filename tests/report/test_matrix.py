"""The checks of a sweep as a table in Markdown."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from runner.bridge import rngs
from runner.checks import registry
from runner.commands import main
from runner.config import schema
from runner.experiment import execute
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.records import store
from runner.records.disk import files
from runner.records.paths import SweepFolder
from runner.records.record import Check, Failure, FailureKind, Status, Verdict
from runner.report import matrix
from runner.sweep.writing.outputs import Summary
from tests.records.test_record import RECORD

CPU = {"versions": {"flax": "0.12.8", "jax": "0.10.2", "python": "3.11.7", "numpy": "2.4.6"}}


def record(num, layer, verdicts, *, depth="full", error=None, program=None, **settings):
    """A record of a run, with what each check said: a verdict, or a verdict and its sentence."""
    pairs = {name: said if isinstance(said, tuple) else (said, "well") for name, said in verdicts.items()}
    return dataclasses.replace(
        RECORD,
        num=num,
        run_id=f"{num}" * 16,
        program_id=program or f"program {num}",
        layer=layer,
        settings={"seed": 0, "layer": {"target": "m.Mine", "kwargs": {}}, "checks": {"depth": depth}, **settings},
        status=Status.failed if error else Status.done,
        checks=[Check(name=name, verdict=Verdict(said), detail=why) for name, (said, why) in pairs.items()],
        fingerprint=CPU,
        error=error,
    )


LINEAR = record(0, "linear", {"complete": "pass", "finite": "fail", "traps": "pass"})
LORA = record(
    1, "lora", {"complete": "pass", "trained": ("fail", "lora_a and lora_b\nare not in params | <never> trained")}
)
LIST = record(2, "list", {"traps": ("warn", "keys [0, 1] are integers"), "trained": "skipped"})

TABLE = r"""# Checks about 3 programs

flax 0.12.8 · jax 0.10.2 · python 3.11.7 · cpu · 2026-01-01

| layer | complete | trained | traps |
| --- | --- | --- | --- |
| linear | pass | – | pass |
| lora | pass | fail | – |
| list | – | – | warn |

- trained, fail: lora: lora_a and lora_b are not in params \| \<never> trained
- traps, warn: list: keys \[0, 1\] are integers
"""


def test_table_has_layers_checks_and_failures():
    assert matrix.to_markdown([LIST, LINEAR, LORA]) == TABLE


def test_passing_tables_have_no_notes():
    page = matrix.to_markdown([LINEAR])
    assert page is not None
    assert page.startswith("# Checks about 1 program\n")
    assert page.endswith("| layer | complete | traps |\n| --- | --- | --- |\n| linear | pass | pass |\n")


def test_same_layer_programs_show_what_varied():
    rows = [record(num, "linear", {"complete": "pass"}, features=width, seed=num) for num, width in enumerate((8, 32))]
    page = matrix.to_markdown(rows)
    assert page is not None
    assert page.splitlines()[-2:] == ["| linear features=8 | pass |", "| linear features=32 | pass |"]


def test_runs_without_checks_show_their_failure():
    error = Failure(kind=FailureKind.compile, type="ValueError", message="no\nway", traceback="")
    page = matrix.to_markdown([LINEAR, record(1, "odd", {}, error=error)])
    assert page is not None
    assert page.splitlines()[-3:] == ["| odd | – | – |", "", "- the run of odd failed: compile: no way"]


def test_other_versions_get_their_own_line():
    later = dataclasses.replace(LORA, started_at="2026-01-03T00:00:00.000+00:00")
    other = dataclasses.replace(LIST, fingerprint={"versions": {"flax": "0.13.0", "jax": None}})
    page = matrix.to_markdown([LINEAR, later, other])
    assert page is not None
    assert page.splitlines()[2:4] == [
        "flax 0.12.8 · jax 0.10.2 · python 3.11.7 · cpu · 2026-01-01 to 2026-01-03",
        "flax 0.13.0 · cpu · 2026-01-01",
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [record(0, "linear", {"finite": "fail"}), record(1, "mlp", {"eager": "pass"})],
        [record(0, "linear", {"complete": "pass"}, depth="traced", features=8)],
        [record(num, "linear", {"complete": "pass"}, depth="traced", features=num) for num in (8, 9)],
    ],
)
def test_no_table_without_comparable_checks(rows):
    assert matrix.to_markdown(rows) is None


def test_two_layers_compare_by_traced_checks():
    rows = [record(num, layer, {"streams": "pass"}, depth="traced") for num, layer in enumerate(("linear", "mlp"))]
    assert "| mlp | pass |" in str(matrix.to_markdown(rows))


def test_first_record_with_checks_wins():
    silent, answers, later = (
        record(0, "linear", {}, program="p"),
        record(1, "linear", {"traps": "pass"}, program="p"),
        record(2, "linear", {"traps": "fail"}, program="p"),
    )
    programs = {}
    for one in (silent, answers, later):
        matrix.remember(one, programs)
    assert [kept.num for kept in programs.values()] == [1]


def test_columns_follow_the_check_order():
    asked = [*registry.TRACED, *registry.FULL]
    assert list(matrix.CHECKS) == asked


@pytest.fixture
def folder(tmp_path):
    """A sweep's folder with three records in it."""
    sweep = SweepFolder(tmp_path / "mine")
    files.make_sweep_folder(sweep)
    for one in (LINEAR, LORA, LIST):
        run = sweep.run(one.num, one.run_id)
        files.make_run_folder(run)
        store.write_record(run, one)
    return sweep


def runs(folder):
    return [folder.run(one.num, one.run_id) for one in (LINEAR, LORA, LIST)]


def test_end_files_come_from_the_records(folder):
    summary = Summary()
    for one in store.read_records(runs(folder)):
        summary.add(one)
    rows = summary.write(folder, [one.run_id for one in (LINEAR, LORA, LIST)])
    assert [row["layer"] for row in rows] == ["linear", "lora", "list"]
    assert folder.results.exists()
    assert folder.checks.read_text(encoding="utf-8") == TABLE


def test_no_table_without_comparisons(folder):
    Summary().write(folder, [])
    assert folder.results.exists()
    assert not folder.checks.exists()


def test_the_table_needs_no_jax():
    code = "import sys, runner.sweep.writing.outputs; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.slow
def test_multi_layer_sweeps_name_their_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    off = ["timing=off", "tracking=disabled", "checkpoint=none"]
    assert main.main(["-m", "layer=prelu,linear", "sweep=two", *off]) == 0
    page = tmp_path / "outputs" / "two" / "checks.md"
    assert "  checks      outputs/two/checks.md\n" in capsys.readouterr().out
    before = page.read_bytes()
    page.unlink()
    assert main.main(["results", "outputs/two"]) == 0
    assert page.read_bytes() == before
    assert "outputs/two/checks.md\n" in capsys.readouterr().out


def test_equal_remarks_share_one_line():
    rows = [record(num, name, {"lifts": ("warn", "not twice")}) for num, name in enumerate(("linear", "mlp"))]
    assert str(matrix.to_markdown(rows)).endswith("\n\n- lifts, warn: linear, mlp: not twice\n")


@pytest.mark.slow
def test_missing_params_fail_two_checks(make_run):
    names = [name for name in schema.layer_names() if name != "custom"]
    drafts = {name: (run, make_draft(run, identity_of(run))) for name in names for run in [make_run(f"layer={name}")]}
    asked = {
        name: dataclasses.replace(execute.subject(drafted, run), given={})
        for name, (run, drafted) in drafts.items()
        if rngs.PARAMS in drafted.needs.variables
    }
    assert len(asked) == 39
    for subject in asked.values():
        jax.eval_shape(subject.apply, {}, subject.key, subject.x)  # raises nothing
        found = registry.run_checks(subject, full=False, only=["complete", "nothing_invented"])
        assert [check.verdict for check in found] == [Verdict.fail, Verdict.fail]


@pytest.mark.slow
def test_matrix_matches_the_committed_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(["-m", "+experiment=matrix", "tracking=disabled", "sweep=m"]) == 0
    made = (tmp_path / "outputs" / "m" / "checks.md").read_text()
    kept = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "matrix.md").read_text()
    kept = kept[kept.index("\n| layer | complete") :]
    rows = [[line for line in page.splitlines() if line.startswith("| ")] for page in (made, kept)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == len(schema.layer_names()) - 1 + 2
