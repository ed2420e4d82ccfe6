"""Checks as JUnit XML, which CI servers read: a suite for each program, a test case for each check."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from runner.errors import visible
from runner.records.check_text import failure_lines
from runner.records.record import Check, Verdict
from runner.report.checked.program import CheckedProgram

# Characters that XML 1.0 has no place for, not even as references.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(programs: Sequence[CheckedProgram]) -> bytes:
    """The XML document; a fail is a failure, what could not be tested or run an error, a warn passes with its text."""
    root = ElementTree.Element("testsuites", name="bridge-runner check")
    for program in programs:
        suite = ElementTree.SubElement(root, "testsuite", name=_text(program.name))
        for check in program.checks:
            _add(suite, program, check.name, check)
        if program.error is not None:
            case = _case(suite, program, "run")
            ElementTree.SubElement(case, "error", type="error", message=_text(program.error))
        _count(suite, suite)
    _count(root, root)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _add(suite: ElementTree.Element, program: CheckedProgram, name: str, check: Check) -> None:
    case = _case(suite, program, name)
    text, detail = _text("\n".join(failure_lines(check))), _text(check.detail)
    if check.verdict is Verdict.fail:
        ElementTree.SubElement(case, "failure", type="fail", message=detail).text = text
    elif check.untested:
        ElementTree.SubElement(case, "error", type="untested", message=detail).text = text
    elif check.verdict is Verdict.skipped:
        ElementTree.SubElement(case, "skipped", message=detail)
    elif check.verdict is Verdict.warn:
        ElementTree.SubElement(case, "system-out").text = f"warn\n{text}"


def _case(suite: ElementTree.Element, program: CheckedProgram, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=_text(program.name), name=_text(name))


def _count(element: ElementTree.Element, within: ElementTree.Element) -> None:
    for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(attribute, str(sum(1 for _ in within.iter(tag))))


def _text(text: str) -> str:
    return _NOT_XML.sub("�", visible(text))
