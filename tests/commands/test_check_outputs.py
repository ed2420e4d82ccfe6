"""`check` for CI: JUnit, annotations, a job summary and Markdown, alone and together; and paths that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import run

HERE = Path(__file__).resolve()
ROOT = HERE.parent.parent.parent
FAULTY = ["layer=custom", "layer.target=planted_faults.NoiseFromParams", "input_shape=[4,8]", "--traced"]
HEALTHY = ["layer=linear", "--traced"]


@pytest.fixture
def on_github(here, monkeypatch):
    """A folder as a step's, with the file of its summary."""
    (here / "summary.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary.md"))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(ROOT))
    return here


def test_a_fail_is_annotated_at_its_line(on_github, capsys):
    code, out, err = run(capsys, "check", "--github", *FAULTY)
    assert (code, err) == (1, "")
    (line,) = [line for line in out.splitlines() if line.startswith("::error")]
    assert line.startswith(
        "::error title=NoiseFromParams%3A nothing_invented,file=tests/support/planted_faults.py,line="
    )
    summary = (on_github / "summary.md").read_text()
    assert summary.startswith("before\n\n<!-- bridge-runner check -->\n## bridge-runner check: fail\n")
    assert "\nWhat fixes nothing\\_invented:\n\n```\n" in summary


def test_a_pass_is_a_notice(on_github, capsys):
    code, out, err = run(capsys, "check", "--github", *HEALTHY, "--junit", "checks.xml")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "::notice title=bridge-runner check::every check passes: linear"
    assert "## bridge-runner check: pass\n" in (on_github / "summary.md").read_text()
    suite = ElementTree.parse("checks.xml").getroot()[0]
    assert (suite.get("name"), suite.get("failures"), suite.get("errors")) == ("linear layer=linear", "0", "0")


def test_json_is_alone_on_stdout(on_github, capsys):
    code, out, err = run(capsys, "check", "--json", "--github", "--junit=checks.xml", *FAULTY)
    assert code == 1
    names = [item["name"] for item in json.loads(out)[0]["checks"] if item["verdict"] == "fail"]
    cases = ElementTree.parse("checks.xml").getroot().iter("testcase")
    assert [case.get("name") for case in cases if case.find("failure") is not None] == names
    assert err.count("::error ") == len(names) > 0


def test_markdown_is_alone_on_stdout(here, capsys):
    code, out, err = run(capsys, "check", "--markdown", "-m", *HEALTHY, "features=4,8")
    assert (code, err) == (0, "")
    assert out.startswith("<!-- bridge-runner check -->\n## bridge-runner check: 2 programs, 0 with a fail\n")
    assert [line for line in out.splitlines() if "features=" in line] == [
        "`layer=linear features=4`",
        "`layer=linear features=8`",
    ]


def test_a_layer_that_cannot_work_is_reported(on_github, capsys):
    target = "layer.target=planted_faults.ClassParam"
    code, out, _ = run(
        capsys, "check", "--traced", "--github", "--junit", "checks.xml", "layer=custom", target, "input_shape=[4,8]"
    )
    assert code == 1
    assert "::error title=ClassParam%3A complete,file=tests/support/planted_faults.py,line=" in out
    assert ElementTree.parse("checks.xml").getroot().get("failures") == "1"


def test_a_config_error_is_annotated(on_github, capsys):
    code, out, err = run(capsys, "check", "--github", "--junit", "checks.xml", "layer=linear", "features=-1")
    assert code == 2
    assert err.startswith("error: features=-1: ")
    assert out.startswith("::error title=bridge-runner check::features=-1: ")
    assert (on_github / "summary.md").read_text() == "before\n"
    assert not Path("checks.xml").exists()


def test_outside_github_there_is_no_summary(here, capsys, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    code, out, err = run(capsys, "check", "--github", *HEALTHY)
    assert (code, err) == (0, "GITHUB_STEP_SUMMARY is not set: there is no job summary\n")
    assert "::notice " in out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--junit", "no/checks.xml"], "--junit no/checks.xml: there is no folder no.\n  Try: mkdir -p no\n"),
        (["--junit", "folder.xml"], "--junit folder.xml: it is a folder, and no file.\n  Try: --junit checks.xml\n"),
        (
            ["--junit", "layer=linear"],
            "--junit layer=linear: a file is wanted whose name ends in .xml.\n  Try: --junit checks.xml\n",
        ),
        (
            ["--json", "--markdown"],
            "--json and --markdown: only one of them can have stdout.\n  Try: --json, or --markdown\n",
        ),
    ],
)
def test_outputs_that_cannot_be_written_are_refused(words, error, here, capsys):
    (here / "folder.xml").mkdir()
    assert run(capsys, "check", *words, "layer=linear") == (2, "", f"error: {error}")
    assert [path.name for path in here.iterdir()] == ["folder.xml"]


def test_a_flag_without_its_value_is_refused(here, capsys):
    code, _, err = run(capsys, "check", "layer=linear", "--junit")
    assert (code, err.splitlines()[0]) == (2, "error: check: argument --junit: expected one argument.")


def test_a_summary_that_cannot_be_written_is_refused(here, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "no" / "summary.md"))
    code, out, err = run(capsys, "check", "--github", *HEALTHY)
    assert code == 2
    assert err.startswith(f"error: GITHUB_STEP_SUMMARY {here}/no/summary.md: there is no folder {here}/no.\n")
    assert out.startswith("::error title=bridge-runner check::GITHUB_STEP_SUMMARY ")
