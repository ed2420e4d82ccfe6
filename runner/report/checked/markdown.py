"""Checks as Markdown: a comment on a pull request, a job's summary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from runner.errors import visible
from runner.records.record import Check, Verdict
from runner.report.checked.program import CheckedProgram

# By which a bot finds the comment that it wrote before.
MARK = "<!-- bridge-runner check -->"

# GitHub's limits: 65,536 characters of a comment, 1 MiB of a step's summary.
COMMENT_BYTES = 65_000
SUMMARY_BYTES = 1_000_000


def to_markdown(programs: Sequence[CheckedProgram], *, max_bytes: int = COMMENT_BYTES) -> str:
    """A table for each program, and below it what fixes its fails and warns.

    Args:
      programs: At least one.
      max_bytes: Maximum size; the programs that don't fit are counted.
    """
    failed = sum(program.verdict is Verdict.fail for program in programs)
    many = f"{len(programs)} programs, {failed} with a fail" if len(programs) > 1 else programs[0].verdict.value
    parts = [f"{MARK}\n## bridge-runner check: {many}\n"]
    room = max_bytes - len(parts[0].encode()) - 200
    for num, program in enumerate(programs):
        part = _section(program)
        room -= len(part.encode()) + 1
        if room < 0:
            parts.append(f"… and {len(programs) - num} more: the log has them.\n")
            break
        parts.append(part)
    return "\n".join(parts)


def _section(program: CheckedProgram) -> str:
    lines = [f"### {escaped(program.label)}: {program.verdict.value} ({program.counts})", "", code(program.head)]
    if program.typed:
        lines += ["", code(" ".join(program.typed))]
    if program.error is not None:
        lines += ["", f"It could not be run: {escaped(program.error)}"]
    if program.checks:
        lines += ["", _row(["check", "verdict", "found"]), _row(["---"] * 3)]
        lines += [_row([escaped(check.name), _verdict(check), escaped(check.detail)]) for check in program.checks]
    for check in program.checks:
        if check.fix:
            lines += ["", f"What fixes {escaped(check.name)}:", "", *fenced(check.fix)]
    return "\n".join(lines) + "\n"


def _verdict(check: Check) -> str:
    word = "not tested" if check.untested else check.verdict.value
    return f"**{word}**" if check.untested or check.verdict is Verdict.fail else word


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """`text` on one line, with the signs of Markdown and HTML escaped; a `@name` in it notifies no one."""
    text = re.sub(r"([\\`*_{}\[\]<>#|~$!])", r"\\\1", " ".join(visible(text).split()))
    return text.replace("&", "&amp;").replace("@", "@&#8203;")


def code(text: str) -> str:
    """`text` on one line as code."""
    text = " ".join(visible(text).split())
    ticks = "`" * (_longest_ticks(text) + 1)
    space = " " if "`" in text else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def fenced(text: str) -> list[str]:
    """The lines of `text` as a block of code."""
    ticks = "`" * max(3, _longest_ticks(text) + 1)
    return [ticks, *visible(text).splitlines(), ticks]


def _longest_ticks(text: str) -> int:
    return max((len(found) for found in re.findall("`+", text)), default=0)
