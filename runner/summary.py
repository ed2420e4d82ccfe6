"""The files at a sweep's end, made from its records alone: results.parquet and checks.md. No JAX."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runner import matrix, results, storage
from runner.records import Record
from runner.storage import RunFolder, SweepFolder


def write(folder: SweepFolder, runs: Iterable[RunFolder]) -> list[dict[str, Any]]:
    """Writes both files, checks.md only where claims were asked of several layers, or all claims of one.

    Args:
      folder: The sweep.
      runs: Its runs that have a record.

    Returns:
      The rows of results.parquet.

    Raises:
      StorageError: A record is damaged.
    """
    programs: dict[str, Record] = {}
    rows = results.results_rows(matrix.remember(storage.read_records(runs), programs))
    storage.write_atomic(folder.results, results.to_parquet(rows))
    page = matrix.to_markdown(programs.values())
    if page is not None:
        storage.write_atomic(folder.checks, page.encode())
    return rows
