"""Checks as Markdown, JUnit XML and GitHub's workflow commands: what each says of a fail, and what each escapes."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from runner.records.record import Check, Verdict
from runner.report.checked import github, junit, markdown
from runner.report.checked.program import CheckedProgram

HERE = Path(__file__).resolve()
TRICKY = "50 % of <a|b>, `x`\nat mine.py:12 by @you: **no** \x1b[31m"
FIX = "model = f(a, b)\n```again```"

PASS = Check(name="complete", verdict=Verdict.passed, detail="all 2 leaves")
FAIL = Check(name="streams", verdict=Verdict.fail, detail=TRICKY, evidence={"apply": ["<i>"]}, fix=FIX)
WARN = Check(name="lifts", verdict=Verdict.warn, detail="but for scan")
UNTESTED = Check(name="traps", verdict=Verdict.warn, detail="could not be tested: ValueError", untested=True)
SKIPPED = Check(name="eager", verdict=Verdict.skipped, detail="not compared")


def program(*checks: Check, **more) -> CheckedProgram:
    return CheckedProgram(label="Gated", head="Gated on x float32[2, 4], cpu", checks=checks, **more)


@pytest.mark.parametrize(
    ("checks", "error", "verdict", "counts"),
    [
        ([PASS, SKIPPED], None, Verdict.passed, "1 pass, 1 skipped"),
        ([PASS, WARN], None, Verdict.warn, "1 warn, 1 pass"),
        ([PASS, UNTESTED], None, Verdict.fail, "1 untested, 1 pass"),
        ([WARN, FAIL], None, Verdict.fail, "1 fail, 1 warn"),
        ([PASS], "it broke", Verdict.fail, "an error, 1 pass"),
    ],
)
def test_a_program_has_its_worst_verdict(checks, error, verdict, counts):
    checked = program(*checks, error=error)
    assert (checked.verdict, checked.counts) == (verdict, counts)


# GitHub.


def parsed(line: str) -> tuple[str, dict[str, str], str]:
    """A workflow command as the runner reads it: split at the first signs, then unescaped."""
    name, given, text = re.fullmatch(r"::(\w+) (.*?)::(.*)", line).groups()
    properties = dict(item.split("=", 1) for item in given.split(","))

    def plain(text: str, signs: dict[str, str]) -> str:
        for escaped, sign in signs.items():
            text = text.replace(escaped, sign)
        return text.replace("%25", "%")

    data = {"%0D": "\r", "%0A": "\n"}
    return (
        name,
        {key: plain(value, data | {"%3A": ":", "%2C": ","}) for key, value in properties.items()},
        plain(text, data),
    )


def test_fails_are_errors_and_warns_warnings():
    lines = github.commands([program(PASS, FAIL, WARN, UNTESTED, SKIPPED)], HERE.parent)
    assert [line.split("%3A")[0] for line in lines] == [
        "::error title=Gated",
        "::warning title=Gated",
        "::error title=Gated",
    ]
    assert "::error title=Gated%3A could not be run::a%0Ab" in github.commands([program(error="a\nb")], HERE.parent)


def test_annotations_survive_the_runners_parsing():
    (line,) = github.commands([program(FAIL, places=[(HERE.parent / "mine.py", 3)])], HERE.parent)
    assert "\n" not in line and "\x1b" not in line
    text = TRICKY.replace("\x1b", "\\x1b")
    assert parsed(line) == (
        "error",
        {"title": "Gated: streams", "file": "mine.py", "line": "12"},
        f"{text}\n{FIX}",
    )
    (line,) = github.commands([program(WARN, places=[(HERE.parent / "a,b:c%2C.py", 3)])], HERE.parent)
    assert parsed(line)[1]["file"] == "a,b:c%2C.py"


@pytest.mark.parametrize(
    ("places", "where"),
    [
        ([(HERE, 7)], {"file": "test_checked.py", "line": "7"}),
        ([(HERE.parent.parent / "other.py", 7)], {}),
        ([(HERE.parent / "env" / "site-packages" / "flax.py", 7), (HERE, 9)], {"file": "test_checked.py", "line": "9"}),
    ],
)
def test_only_files_of_the_checkout_are_annotated(places, where):
    (line,) = github.commands([program(WARN, places=places)], HERE.parent)
    assert parsed(line)[1] == {"title": "Gated: lifts", **where}


def test_a_pass_is_one_notice():
    lines = github.commands([program(PASS), program(PASS)], HERE.parent)
    assert lines == ["::notice title=bridge-runner check::every check passes: Gated"]


# JUnit.


def test_junit_has_a_case_for_each_check():
    checked = program(PASS, FAIL, WARN, UNTESTED, SKIPPED, typed=("features=4",), error="it broke")
    root = ElementTree.fromstring(junit.to_junit([checked, program(PASS)]))
    assert root.attrib == {"name": "bridge-runner check", "tests": "7", "failures": "1", "errors": "2", "skipped": "1"}
    first, second = root
    assert (first.get("name"), first.get("tests"), second.get("failures")) == ("Gated features=4", "6", "0")
    found = {case.get("name"): [(item.tag, item.get("type")) for item in case] for case in first}
    assert found == {
        "complete": [],
        "streams": [("failure", "fail")],
        "lifts": [("system-out", None)],
        "traps": [("error", "untested")],
        "eager": [("skipped", None)],
        "run": [("error", "error")],
    }


def test_junit_failures_have_evidence_and_fix():
    failure = ElementTree.fromstring(junit.to_junit([program(FAIL)])).find(".//failure")
    assert failure.get("message") == TRICKY.replace("\x1b", "\\x1b")
    assert failure.text.splitlines()[1:] == [
        '  evidence  apply = ["<i>"]',
        "  fix  model = f(a, b)",
        "       ```again```",
    ]


def test_junit_is_xml_whatever_is_found():
    odd = "".join(map(chr, [*range(0x20), 0x7F, 0xD800, 0xFFFE, 0x1F600])) + "]]>&"
    text = junit.to_junit([program(Check(name="pure", verdict=Verdict.fail, detail=odd, fix=odd))])
    assert ElementTree.fromstring(text).find(".//failure").get("message").endswith("��\U0001f600]]>&")


# Markdown.


def test_markdown_has_a_row_for_each_check():
    text = markdown.to_markdown([program(PASS, FAIL, UNTESTED, typed=("features=4",))])
    lines = text.splitlines()
    assert lines[:2] == [markdown.MARK, "## bridge-runner check: fail"]
    assert "### Gated: fail (1 fail, 1 untested, 1 pass)" in lines
    assert "| complete | pass | all 2 leaves |" in lines
    assert "| traps | **not tested** | could not be tested: ValueError |" in lines
    assert lines[-6:] == ["What fixes streams:", "", "````", *FIX.splitlines(), "````"]


def test_markdown_cells_stay_cells():
    text = markdown.to_markdown([program(FAIL)])
    (row,) = [line for line in text.splitlines() if line.startswith("| streams")]
    assert re.findall(r"(?<!\\)\|", row) == ["|"] * 4
    assert r"50 % of \<a\|b\>, \`x\` at mine.py:12 by @&#8203;you: \*\*no\*\*" in row
    assert markdown.code("a ` b") == "`` a ` b ``"


def test_markdown_counts_what_does_not_fit():
    text = markdown.to_markdown([program(FAIL)] * 300, max_bytes=5000)
    assert len(text.encode()) <= 5000
    num = text.count("### Gated")
    assert num > 2
    assert text.endswith(f"\n… and {300 - num} more: the log has them.\n")
    assert "## bridge-runner check: 300 programs, 300 with a fail\n" in text
