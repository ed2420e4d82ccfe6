"""What the runs of a sweep computed, as their records have it."""

from __future__ import annotations

from runner.records import store
from runner.records.paths import RunFolder, SweepFolder


def bits(folder: SweepFolder) -> dict[str, object]:
    """The digests of each run's variables and outputs, by the name of its folder."""
    found = {}
    for path in sorted((folder.path / "runs").iterdir()):
        record = store.read_record(RunFolder(path))
        found[path.name] = [leaf.digest for leaf in record.variables], [array.digest for array in record.output]
    return found
