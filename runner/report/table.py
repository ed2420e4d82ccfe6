"""Records as tables for the terminal. Pure: records in, text out; no JAX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rich.text import Text

from runner.config.dotted_keys import flatten, shared, varied_keys
from runner.errors import literal, visible
from runner.records.find import DAMAGED
from runner.records.record import Check, Record, Status
from runner.records.row import Row
from runner.records.timing import Aggregate
from runner.report.folding import GAP, fits, fold, paragraph, widths

# A longer table is harder to read; `bridge-runner ls` shows all rows.
MAX_ROWS = 40

# Shown wherever they vary, in this order.
AXES = ("layer", "seed", "input_shape", "features", "device")

LEFT = ("run", "status")

# What is left out first where the axes of a sweep need the room.
OPTIONAL = ("saved", "output norm", "apply")

FLAGGED = "~"
FLAG_MEANING = {
    "spread": "with a deviation of 10 % or more",
    "iqr": "with quartiles over 10 % apart",
    "short": "under 1 ms a sample (timing=careful loops)",
    "loaded": "on a busy machine",
    "contended": "alongside other work of this program",
    "shared": "alongside other processes on the GPU",
    "debugging": "under settings of JAX for debugging",
}

STATUS_STYLE = {Status.done.value: "green", Status.failed.value: "bold red", DAMAGED: "bold red"}

# The longest name of a check: each is printed as it is known, before the others are.
CHECK_WIDTH = len("nothing_invented")

# Columns of a search, and those that it omits.
SEARCHED = ("objective",)
NOT_SEARCHED = ("output norm", "saved")

# Keys that differ between runs in name only, or concern the sweep.
NOT_SHOWN = ("layer.target", "layer.name", "sweep", "output_root")


def runs_table(
    rows: Sequence[Row], *, width: int, max_rows: int = MAX_ROWS, columns: Mapping[str, list[str]] | None = None
) -> Text:
    """One row per run: id, what varied, loss, output norm, apply time with its flag, checkpoint size, status.

    Args:
      rows: The runs.
      width: Characters per line; what varied is always there, and other columns are left out for it, then wide values
        folded at words. `notes` names what is left out.
      max_rows: Maximum number of rows.
      columns: `all_columns(rows)`, if the caller has them: of very many runs they take seconds.
    """
    columns = _fitting(all_columns(rows) if columns is None else columns, width)
    laid = _Layout(columns, width=width, whole=LEFT, left=LEFT)
    text = Text(laid.head())
    for cells in list(zip(*columns.values(), strict=True))[:max_rows]:
        (first, *more), status = laid.lines(cells), cells[-1]
        body = first.removesuffix(status)
        text.append(f"\n{body}")
        text.append(first[len(body) :], style=STATUS_STYLE.get(status, ""))
        text.append("".join(f"\n{line}" for line in more))
    return text


def plain_table(lines: Sequence[Mapping[str, Any]], *, width: int) -> Text:
    """Mappings with the same keys as a table: text left-aligned, numbers right-aligned, folded at words."""
    columns = {visible(heading): [visible(str(line[heading])) for line in lines] for heading in lines[0]}
    left = [visible(heading) for heading, value in lines[0].items() if not isinstance(value, int)]
    laid = _Layout(columns, width=width, left=left)
    rows = [line for cells in zip(*columns.values(), strict=True) for line in laid.lines(cells)]
    return Text("\n".join([laid.head(), *rows]))


class _Layout:
    """Columns on lines of a given width; by hand, as rich takes half a second for a thousand rows.

    Args:
      columns: The cells, by heading.
      width: Characters per line.
      left: Columns that are left-aligned.
      whole: Columns whose cells are never folded.
    """

    def __init__(
        self, columns: Mapping[str, Sequence[str]], *, width: int, left: Sequence[str], whole: Sequence[str] = ()
    ) -> None:
        self._headings = list(columns)
        self._sizes = list(widths(columns, width, whole=whole).values())
        self._adjust = [str.ljust if heading in left else str.rjust for heading in columns]

    def head(self) -> str:
        """The headings, and the rule below them."""
        rule = "─" * (sum(self._sizes) + GAP * (len(self._sizes) - 1))
        return "\n".join([*self.lines(self._headings), rule])

    def lines(self, cells: Sequence[str]) -> list[str]:
        """The lines of a row: as many as its longest cell has."""
        folded = [fold(cell, size) for cell, size in zip(cells, self._sizes, strict=True)]
        num_lines = max(map(len, folded))
        rows = zip(*(cell + [""] * (num_lines - len(cell)) for cell in folded), strict=True)
        return [
            (" " * GAP).join(map(lambda put, part, size: put(part, size), self._adjust, row, self._sizes)).rstrip()
            for row in rows
        ]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of aligned columns, indented by two."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))] if rows else []
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def notes(rows: Sequence[Row], *, width: int, columns: Mapping[str, list[str]] | None = None) -> list[str]:
    """The notes below the table of runs: why times are flagged, which checks fail, and which columns did not fit."""
    lines = []
    flags = Counter(flag for row in rows for flag in row.apply_flags)
    if flags:
        lines.append(flags_line(flags))
    # A failed run has already reported why it failed.
    failed_checks = Counter(name for row in rows if row.status == Status.done.value for name in row.failed_checks)
    if failed_checks:
        said = ", ".join(f"{name} in {number} of {len(rows)}" for name, number in failed_checks.items())
        lines.append(f"checks that fail: {said} (bridge-runner show RUN says what fixes it)")
    columns = all_columns(rows) if columns is None else columns
    shown = _fitting(columns, width)
    if left_out := [heading for heading in columns if heading not in shown]:
        lines.append(f"not shown at {width} columns: {', '.join(left_out)}")
    return lines


def flags_line(flags: Mapping[str, int]) -> str:
    """What the mark before a time means, and how many runs have it, by reason."""
    reasons = ", ".join(f"{number} {FLAG_MEANING.get(flag, flag)}" for flag, number in flags.items())
    return f"{FLAGGED} read with care: {reasons}"


def check_lines(check: Check, *, width: int) -> list[str]:
    """A check with its verdict and what it found, on lines of `width` characters."""
    return paragraph(f"  {check.name:<{CHECK_WIDTH}}  {check.verdict.value:<7}  ", check.detail, width)


def fixes_lines(record: Record) -> list[str]:
    """What follows the checks of a record: a fix for each fail and warn, why it failed, and how many there are."""
    lines: list[str] = []
    for check in record.checks:
        if check.fix:
            lines += [
                "",
                f"  {check.name}: {check.verdict.value}",
                *(f"    {text}" for text in check.fix.splitlines()),
            ]
    if record.error is not None:
        lines += ["", f"  the run failed: {record.error.kind.value}: {record.error.message}"]
    # Not a warning: it makes `check` exit with 1.
    counts = Counter("untested" if check.untested else check.verdict.value for check in record.checks)
    return [*lines, "", "  " + ", ".join(f"{number} {word}" for word, number in counts.items())]


def shown_keys(rows: Sequence[Row]) -> list[str]:
    """The config keys that distinguish the runs: axes first, then what was typed, without what another key determines.

    A key that was typed for each run is an axis of the sweep, and there even where another determines it.
    """
    return list(varied(rows))


def varied(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The value of each run, None where it has none, by the keys of `shown_keys`."""
    first = rows[0].settings if rows else {}
    # Most config groups are the same in all runs, and need no search.
    settings = [row.settings for row in rows]
    same = {key for key, value in first.items() if [one.get(key, rows) for one in settings].count(value) == len(rows)}
    values = [values_of(row, but=same) for row in rows]
    keys = [key for key in varied_keys(values) if key not in NOT_SHOWN]
    texts = {text for row in rows for text in row.overrides}
    typed = {text.lstrip("+").partition("=")[0] for text in texts}
    ranked = [*AXES, *(key for key in keys if key in typed and key not in AXES)]
    kept: dict[str, list[Any]] = {}
    for key in sorted(keys, key=lambda key: ranked.index(key) if key in ranked else len(ranked)):
        column = [one.get(key) for one in values]
        if key in ranked or not any(_follows(column, other) for other in kept.values()):
            kept[key] = column
    return kept


def values_of(row: Row, *, but: Collection[str] = ()) -> dict[str, Any]:
    """The config of a run by dotted key, with the layer's name as `layer` and the mesh's axes as a single value.

    Args:
      row: The run.
      but: Config groups and values to omit.
    """
    taken = {key: value for key, value in row.settings.items() if key not in but}
    if mesh := taken.get("mesh"):
        taken["mesh"] = mesh | {"axes": literal(mesh.get("axes"))}
    flat: dict[str, Any] = {}
    for key, value in taken.items():
        flat |= _flat({key: value}) if isinstance(value, dict) else {key: value}
    return flat | {"layer": row.layer}


# Groups are shared by the runs of a plan.
_flat = shared(flatten)


def duration(seconds: float | None) -> str:
    """`seconds` with three digits and a unit: `12.3 µs`."""
    if seconds is None:
        return "–"
    return _with_unit(seconds * 1e9, ("ns", "µs", "ms", "s"))


def spread(one: Aggregate | None, show: Callable[[float], str]) -> str:
    """A median with its interval and the number of runs: `12.3 µs (11.9–13.1) n 10`.

    Args:
      one: The aggregate; None if no run has a value.
      show: Formats a number with its unit.
    """
    if one is None:
        return "–"
    interval = ""
    if one.low is not None and one.high is not None:
        unit = show(one.median).partition(" ")[2]
        low, high = (show(end) for end in (one.low, one.high))
        if unit and low.endswith(f" {unit}") and high.endswith(f" {unit}"):
            low, high = low.removesuffix(f" {unit}"), high.removesuffix(f" {unit}")
        interval = f" ({low}–{high})"
    return f"{show(one.median)}{interval} n {one.num}"


def size(num_bytes: int | None) -> str:
    """`num_bytes` with a unit: `1.2 kB`."""
    if num_bytes is None:
        return "–"
    return _with_unit(float(num_bytes), ("B", "kB", "MB", "GB", "TB"))


def _with_unit(value: float, units: Sequence[str]) -> str:
    """`value` with three digits, in the first unit in which it displays as less than 1000."""
    for unit in units[:-1]:
        shown = float(f"{value:.3g}")
        if shown < 1000:
            return f"{shown:g} {unit}"
        value /= 1000
    return f"{value:.3g} {units[-1]}" if value < 999.5 else f"{value:.0f} {units[-1]}"


def _fitting(columns: Mapping[str, list[str]], width: int) -> dict[str, list[str]]:
    """The columns that are shown, by heading: without the optional ones for which there is no room."""
    columns = dict(columns)
    for heading in OPTIONAL:
        if fits(columns, width):
            break
        columns.pop(heading, None)
    return columns


def all_columns(rows: Sequence[Row], axes: Mapping[str, Sequence[Any]] | None = None) -> dict[str, list[str]]:
    """All columns, by heading; a search shows its objective in place of columns seldom needed there.

    Args:
      rows: The runs.
      axes: `varied(rows)`, if the caller has it.
    """
    axes = varied(rows) if axes is None else axes
    searched = any(row.trial is not None for row in rows)
    losses = [
        "–" if row.loss_first is None or row.loss_last is None else f"{row.loss_first:.4g} → {row.loss_last:.4g}"
        for row in rows
    ]
    columns = {"run": [row.label for row in rows]}
    columns |= {key: [_cell(value) for value in values] for key, values in axes.items()}
    columns |= {"loss": losses} if any(row.loss_first is not None for row in rows) else {}
    columns |= {
        "objective": [_number(row.objective) for row in rows],
        "output norm": [_number(row.output_norm) for row in rows],
        "apply": [(FLAGGED if row.apply_flags else "") + duration(row.apply_s) for row in rows],
        "saved": [size(row.checkpoint_bytes) for row in rows],
        "status": [row.status for row in rows],
    }
    for heading in NOT_SEARCHED if searched else SEARCHED:
        del columns[heading]
    return {visible(heading): list(map(visible, cells)) for heading, cells in columns.items()}


def _literal(value: Any) -> str:
    """`literal`, faster for what most columns hold."""
    return str(value) if type(value) is int else literal(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"


def _cell(value: Any) -> str:
    """`value` as typed, fractions with six digits."""
    return f"{value:.6g}" if isinstance(value, float) else literal(value)


def _follows(values: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether each of `others` determines that of `values`."""
    pairs = set(zip(map(_literal, others), map(_literal, values), strict=True))
    return len(pairs) == len({first for first, _ in pairs})
