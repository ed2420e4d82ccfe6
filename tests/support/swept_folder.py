"""A folder with sweeps, for tests of the verbs that look at sweeps: what is there, and how a test changes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from runner.commands import main
from runner.records.codec import seal
from runner.records.journal import read_journal, to_line
from runner.records.paths import SweepFolder

QUIET = ("tracking=disabled", "timing=quick", "timing.rounds=2")


def run(capsys, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main.main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_folder(sweep: str, num: int) -> Path:
    (path,) = Path("outputs", sweep, "runs").glob(f"{num}-*")
    return path


def edit_record(folder: Path, change) -> None:
    record = json.loads((folder / "record.json").read_text())
    del record["digest"]
    change(record)
    (folder / "record.json").write_bytes(seal(json.dumps(record, indent=1).encode()))


def forget(sweep: str, num: int) -> None:
    """Removes a run and its line in the journal."""
    folder = SweepFolder(Path("outputs", sweep))
    shutil.rmtree(run_folder(sweep, num))
    lines = folder.journal.read_text().splitlines(keepends=True)
    folder.journal.write_text("".join(line for line in lines if json.loads(line).get("num") != num))


def all_files() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path().rglob("*")}


def of_other_software(sweep: str) -> None:
    """Makes the runs of a sweep those of another version of the software, in its journal."""
    journal = SweepFolder(Path("outputs", sweep)).journal
    changed = [event | ({"software_id": "other"} if "software_id" in event else {}) for event in read_journal(journal)]
    journal.write_bytes(b"".join(map(to_line, changed)))
