"""Summarises a comparison as lines for the terminal, the verdict last. Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from runner.errors import listed
from runner.records.timing import Aggregate
from runner.report import table
from runner.report.compare.comparison import Agreement, ChangedValue, Comparison, Outcome, Result
from runner.report.compare.pairing import How
from runner.report.compare.source_diff import SourceDiff
from runner.report.compare.times import Pace, Times

# Suggested number of rounds: three times the minimum. See tests/benchmarks/README.md for measurements.
ROUNDS = 30

# A longer list is harder to read; `--json` has all lines.
MAX_LINES = 8
MAX_DIFF_LINES = 40

REASONS = {
    How.settings: "their ids differ: the layer's source, an input file or given variables are others",
    How.other_settings: "the sides differ on purpose",
}


def head_lines(comparison: Comparison) -> list[str]:
    """What was paired, how the results agree, and what else differs between the sides."""
    one = comparison
    lines = [f"A {one.a}", f"B {one.b}", f"pairs        {_pairs(one)}"]
    for side, labels in (("A", one.only_a), ("B", one.only_b)):
        lines += [f"only in {side}    {listed(labels, MAX_LINES)}"] if labels else []
    lines += [f"results      {_agreements(one.results)}"] if one.results else []
    differing = [result for result in one.results if result.agreement not in (Agreement.same, Agreement.none)]
    lines += _indented(f"{_labels(result)}: {_sentence(result)}" for result in differing)
    changed = Counter((name, *both) for result in one.results for name, both in result.checks.items())
    lines += _section("checks", [f"{name}: {a} → {b} ({_runs(num)})" for (name, a, b), num in changed.items()])
    lines += _sources(one.sources)
    lines += _section("settings", [_difference(item) for item in one.settings])
    return lines + _section("environment", [_difference(item) for item in one.environment])


def times_lines(comparison: Comparison) -> list[Mapping[str, str]]:
    """The times as table rows; empty if nothing was timed."""
    return [
        {
            "apply": one.program,
            "A": _side(one.a, one.a_flags, comparison.num_rounds),
            "B": _side(one.b, one.b_flags, comparison.num_rounds),
            "B / A": _ratio(one),
            "p": "–" if one.p is None else f"{one.p:.2g}",
            "": one.pace.value,
        }
        for one in comparison.times
        if one.pace is not Pace.untimed
    ]


def notes(comparison: Comparison) -> list[str]:
    """The notes below that table: what its numbers are, why they are flagged, and why they give no verdict."""
    if all(one.pace is Pace.untimed for one in comparison.times):
        return []
    rounds = comparison.num_rounds
    unit = "its n runs" if rounds is None else f"the fastest calls of {rounds} rounds in turns"
    lines = [f"median over {unit} (99 % interval, which takes 8)"]
    flags: Counter[str] = Counter()
    for one in comparison.times:
        flags += Counter(one.a_flags) + Counter(one.b_flags)
    lines += [table.flags_line(flags)] if flags else []
    why = Counter(one.why for one in comparison.times if one.why)
    return [*lines, *(f"unclear: {reason} ({num} of {len(comparison.times)})" for reason, num in why.items())]


def verdict_line(comparison: Comparison) -> str:
    """The verdict with its reasons, and what to type next."""
    return f"verdict      {comparison.outcome.value}: {_reasons(comparison)}"


def _reasons(comparison: Comparison) -> str:
    again = f"bridge-runner compare {shlex.quote(comparison.a)} {shlex.quote(comparison.b)}"
    if not comparison.results:
        return "no run of A has a partner in B"
    if comparison.outcome is Outcome.not_comparable and comparison.not_rerun:
        reasons = listed(list(dict.fromkeys(comparison.not_rerun.values())), 2)
        return f"times unclear for {len(comparison.not_rerun)} of {len(comparison.times)}: {reasons}"
    if comparison.outcome is Outcome.not_comparable:
        return f"made on different machines; {again} --force compares all the same"
    num_different = sum(one.counts for one in comparison.results)
    total = len(comparison.results)
    exact = all(one.agreement in (Agreement.same, Agreement.none) for one in comparison.results)
    agree = "the same results in" if exact else "results agree in"
    results = f"results differ in {num_different} of" if num_different else agree
    forced = " (different machines)" if comparison.other_machine and comparison.num_rounds is None else ""
    line = f"{results} {_runs(total)}; {_times(comparison.times)}{forced}"
    return line + _settles(comparison, again) if _is_unsettled(comparison) else line


def _settles(comparison: Comparison, again: str) -> str:
    """What settles unclear times: a rerun, if it can run both sides."""
    lost = list(dict.fromkeys(side for one in comparison.sources for side in one.lost))
    if lost:
        return f"; the source of {' and '.join(lost)} is not kept, so that only runs of more seeds settle it"
    trust = " --trust" if comparison.has_sources else ""
    return f"; to settle it: {again} --rerun {_more(comparison.num_rounds)}{trust}"


def _sources(diffs: Sequence[SourceDiff]) -> list[str]:
    """The user's own sources that differ, as a diff; nothing if none do."""
    lines = ["source"] if diffs else []
    left = MAX_DIFF_LINES
    for one in diffs:
        what = f"{one.module}: " + (
            f"another on each side; the one of {' and '.join(one.lost)} is not kept"
            if one.lost
            else f"{_lines(_count(one.lines, '-'))} out, {_count(one.lines, '+')} in"
        )
        lines.append(f"  {what} ({_runs(one.num_pairs)})")
        lines += [f"    {line}".rstrip() for line in one.lines[:left]]
        if len(one.lines) > left:
            lines.append(f"    … and {len(one.lines) - left} more lines: --json")
        left = max(left - len(one.lines), 0)
    return lines


def _lines(num: int) -> str:
    return f"{num} line{'s' * (num != 1)}"


def _count(lines: Sequence[str], sign: str) -> int:
    return sum(line.startswith(sign) for line in lines)


def _is_unsettled(comparison: Comparison) -> bool:
    return any(one.pace is Pace.unclear for one in comparison.times) and not _settled(comparison.times)


def _times(times: Sequence[Times]) -> str:
    found = {pace: [one for one in times if one.pace is pace] for pace in Pace}
    parts = [
        f"{pace.value}: {listed([f'{one.program} by {_ratio(one)}' for one in found[pace]], 3)}"
        for pace in (Pace.slower, Pace.faster)
        if found[pace]
    ]
    if found[Pace.unclear] and not _settled(times):
        why = listed(list(dict.fromkeys(one.why for one in found[Pace.unclear] if one.why)), 1)
        parts.append(f"times unclear for {len(found[Pace.unclear])} of {len(times)} ({why})")
    return "; ".join(parts) or ("no slower, no faster" if found[Pace.same] else "not timed")


def _settled(times: Sequence[Times]) -> bool:
    """Whether there is a verdict on all programs together, so that single ones need none."""
    return any(one.together and one.pace is not Pace.unclear for one in times)


def _more(num_rounds: int | None) -> int:
    return ROUNDS if num_rounds is None else max(ROUNDS, 2 * num_rounds)


def _pairs(one: Comparison) -> str:
    if not one.results:
        return "none"
    counts = Counter(result.how for result in one.results)
    parts = [f"{num} by {how.value}" + (f" ({REASONS[how]})" if how in REASONS else "") for how, num in counts.items()]
    return ", ".join(parts)


def _agreements(results: Sequence[Result]) -> str:
    counts = Counter(result.agreement for result in results)
    text = ", ".join(f"{counts[agreement]} {agreement.value}" for agreement in Agreement if counts[agreement])
    moved = sum(not result.same_variables for result in results)
    return text + (f"; {moved} with other variables" if moved else "")


def _sentence(result: Result) -> str:
    kind = result.agreement.value
    promised = ", though all that could change them is the same" if result.counts and kind != "different" else ""
    return f"{kind}{promised}: {result.detail}"


def _labels(result: Result) -> str:
    return result.a if result.a == result.b else f"{result.a} → {result.b}"


def _difference(item: ChangedValue) -> str:
    runs = f" ({_runs(item.num_pairs)})" if item.num_pairs else ""
    return f"{item.key}: {item.a} → {item.b}{runs}"


def _runs(num: int) -> str:
    return f"{num} run{'s' * (num != 1)}"


def _side(one: Aggregate | None, flags: Mapping[str, int], num_rounds: int | None) -> str:
    if one is None:
        return ""
    if num_rounds is not None:
        return table.duration(one.median)  # the interval that matters is the ratio's
    mark = table.FLAGGED if flags else ""
    return f"{mark}{table.spread(one, table.duration)}"


def _ratio(one: Times) -> str:
    interval = "" if one.low is None else f" ({one.low:.2f}–{one.high:.2f})"
    return "–" if one.ratio is None else f"{one.ratio:.2f} ×{interval}"


def _section(name: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return [f"{name:<12} the same"]
    return [name, *_indented(lines)]


def _indented(lines: Iterable[str]) -> list[str]:
    every = list(lines)
    more = [f"  … and {len(every) - MAX_LINES} more: --json"] if len(every) > MAX_LINES else []
    return [*(f"  {line}" for line in every[:MAX_LINES]), *more]
