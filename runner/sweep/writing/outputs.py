"""Writes a sweep's final files from its records alone: results.parquet and .csv, checks.md, report.html. No JAX."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runner.records import columns, find, paths, store
from runner.records.disk import files
from runner.records.paths import SweepFolder
from runner.records.record import Record
from runner.report import matrix
from runner.report.html.data import Report
from runner.report.html.page import to_html


class Summary:
    """Collects, record by record, what the final files of a sweep contain."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}
        self._programs: dict[str, Record] = {}
        self._report = Report()

    def add(self, record: Record) -> None:
        """Adds a record, replacing an earlier one of the same run."""
        row = self._rows[record.run_id] = columns.results_row(record)
        self._report.add(record, row)
        matrix.remember(record, self._programs)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._rows

    def write(self, folder: SweepFolder, run_ids: Iterable[str]) -> list[dict[str, Any]]:
        """Writes the results, and checks.md only if several layers were checked, or one layer with all checks.

        Args:
          folder: The sweep's folder.
          run_ids: Its runs in order; those without a record are skipped.

        Returns:
          The rows of results.parquet.
        """
        rows = [self._rows[run_id] for run_id in run_ids if run_id in self._rows]
        table = columns.to_table(rows)
        files.write_atomic(folder.results, columns.to_parquet(table))
        files.write_atomic(folder.results_csv, columns.to_csv(table))
        page = matrix.to_markdown(self._programs.values())
        if page is not None:
            files.write_atomic(folder.checks, page.encode())
        return rows

    def write_report(self, folder: SweepFolder) -> None:
        """Writes report.html."""
        data = self._report.data(store.read_plan(folder), paths.shown(folder.path), find.read_trials(folder))
        files.write_atomic(folder.report, to_html(data))
