"""Whether the files of a run's folder are those that its record lists."""

from __future__ import annotations

import re

from runner.records.disk import files, removal
from runner.records.paths import RunFolder
from runner.records.record import Record


def misplaced(folder: RunFolder, record: Record) -> list[str]:
    """Whether the record belongs to another run: folders are named after their run."""
    name = folder.path.absolute().name
    own = f"{record.num}-{record.run_id[:8]}"
    return [f"record.json is that of run {own}"] if re.fullmatch(r"\d+-[0-9a-f]{8}", name) and name != own else []


def changed_files(folder: RunFolder, record: Record) -> list[str]:
    """What is missing, additional or changed among the files of a run, one sentence each."""
    found = files.file_digests(folder)
    if record.checkpoint and record.checkpoint.removed:
        # The process was killed between the record and the files: the next command removes them.
        found = {name: digest for name, digest in found.items() if not removal.is_of_checkpoint(name)}
    wrong = [f"{name} is missing" for name in sorted(record.files.keys() - found.keys())]
    wrong += [f"{name} was not written by this run" for name in sorted(found.keys() - record.files.keys())]
    both = sorted(record.files.keys() & found.keys())
    return wrong + [f"{name} is not what was written" for name in both if record.files[name] != found[name]]
