"""`bridge-runner compare A B`: compares two sweeps or runs: what differs, and one verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.commands.printed.json_output import print_json
from runner.errors import UserError
from runner.records import find, kept_sources, store
from runner.records.paths import RunFolder
from runner.records.timing import Samples
from runner.report.compare import comparison as comparisons
from runner.report.compare import pairing, summary, times
from runner.report.compare.comparison import EXIT_CODES, Side
from runner.report.compare.pairing import Entry, Pairing
from runner.report.compare.source_diff import source_diffs
from runner.report.compare.times import Times
from runner.report.terminal import Terminal

if TYPE_CHECKING:
    import numpy as np

# With fewer rounds no p-value can fall below the limit, however far apart the sides are.
MIN_ROUNDS = 10


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to compare two sides.

    Attributes:
      force: Whether to compare times from different machines.
      rerun: Rounds in which both sides are rerun; None uses the recorded times.
      as_json: Whether to print the comparison as JSON.
      trust: Whether reruns may import modules other than ours and Flax's.
    """

    force: bool = False
    rerun: int | None = None
    as_json: bool = False
    trust: bool = False


class Reader:
    """The runs of one side.

    Args:
      path: A sweep or a run.

    Attributes:
      side: What to compare.
      lost: Runs whose folder is missing.

    Raises:
      StorageError: It is neither a sweep nor a run, or a record is damaged.
    """

    def __init__(self, path: Path) -> None:
        folders, self.lost = find.find_runs(path)
        self._folders: dict[str, RunFolder] = {}
        entries, fingerprints = [], {}
        for folder in folders:
            record = store.read_record(folder)
            entry = pairing.entry_of(record)
            entries.append(entry)
            self._folders[entry.run_id] = folder
            fingerprints[entry.machine_id, entry.software_id] = record.fingerprint
        self.side = Side(name=str(path), entries=entries, fingerprints=list(fingerprints.values()))

    def folder(self, entry: Entry) -> RunFolder:
        """The folder of a run of this side."""
        return self._folders[entry.run_id]

    def source(self, entry: Entry, digest: str) -> str | None:
        """A source kept with a run of this side; None if it is lost."""
        return kept_sources.read(self.folder(entry), digest)

    def output(self, entry: Entry) -> Mapping[str, np.ndarray]:
        """The output of a run of this side, keyed by path."""
        folder = self.folder(entry)
        return store.read_output(folder, store.read_record(folder))


def compare(a: Path, b: Path, options: Options) -> int:
    """Prints how the second side compares to the first.

    Args:
      a: A sweep or a run.
      b: Another one.
      options: How to compare them.

    Returns:
      0 if results match and no time is longer, 3 if one is, 4 if results differ, 5 if the sides
      can't be compared.

    Raises:
      UserError: A side is neither a sweep nor a run, or can't be rerun here.
    """
    if options.rerun is not None and options.rerun < MIN_ROUNDS:
        what = f"--rerun {options.rerun}: fewer than {MIN_ROUNDS} rounds tell nothing, however far apart the sides lie"
        raise UserError(what, f"--rerun {summary.ROUNDS}")
    terminal = Terminal()
    sides = Reader(a), Reader(b)
    for name in (*sides[0].lost, *sides[1].lost):
        terminal.warned(f"{name}: the folder is missing, so this run is left out")
    pairs = pairing.pair(sides[0].side.entries, sides[1].side.entries)
    rows, not_rerun = _times(sides, pairs, options, terminal)
    comparison = comparisons.comparison_of(
        sides[0].side,
        sides[1].side,
        pairs,
        times=rows,
        read=lambda pair: (sides[0].output(pair.a), sides[1].output(pair.b)),
        forced=options.force,
        num_rounds=options.rerun,
        sources=source_diffs(pairs.pairs, (sides[0].source, sides[1].source)),
        not_rerun=not_rerun,
    )
    if options.as_json:
        print_json(comparisons.to_data(comparison), indent=1)
    else:
        for line in summary.head_lines(comparison):
            terminal.line(line)
        lines = summary.times_lines(comparison)
        if lines:
            terminal.plain_table(lines)
        terminal.notes(summary.notes(comparison))
        terminal.verdict(summary.verdict_line(comparison))
    return EXIT_CODES[comparison.outcome]


def _times(
    sides: tuple[Reader, Reader], pairs: Pairing, options: Options, terminal: Terminal
) -> tuple[Sequence[Times], Mapping[str, str]]:
    """The times of all programs, and why some of them could not be rerun."""
    groups = times.groups(pairs.pairs)
    if options.rerun is None:
        return (times.from_records(groups) if options.force or not comparisons.other_machine(pairs) else []), {}
    if not groups:
        return [], {}
    from runner.report.compare import rounds

    num_rounds = options.rerun
    rounds.prepare_process(entry for group in groups for one in group.pairs for entry in (one.a, one.b))
    measured: dict[str, tuple[Samples, Samples] | str] = {}
    not_rerun = {}
    with terminal.progress("programs", len(groups)) as advance:
        for group in groups:
            folders = [(sides[0].folder(one.a), sides[1].folder(one.b)) for one in group.pairs]
            found = rounds.measure(folders, num_rounds, trust=options.trust)
            measured[group.label] = found.reason if isinstance(found, rounds.Lost) else found
            if isinstance(found, rounds.Lost):
                not_rerun[group.label] = found.reason
            advance()
    return times.from_rounds(measured, num_rounds), not_rerun
