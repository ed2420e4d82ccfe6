"""Trackers by name: ours, a stranger's that was installed, and names that no package has."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from tracked_records import make_record

from runner.commands import main
from runner.config import tracker_names
from runner.config.enums import TrackingMode
from runner.config.settings.execution import TrackingSettings
from runner.records import journal
from runner.tracking import registry
from runner.tracking.tracker import NullTracker

STRANGER = """
import json
from pathlib import Path

from runner.tracking.tracker import NullTracker


class LinesTracker(NullTracker):
    def __init__(self, settings, folder, sweep, warn):
        self._file = Path(settings.options["file"])
        self._broken = settings.options.get("broken")

    @staticmethod
    def look(settings, folder):
        return f"cat {settings.options['file']}"

    def log(self, record, output, run_dir):
        if self._broken:
            raise OSError("the disk is on fire")
        with self._file.open("a") as file:
            file.write(json.dumps([record.num, list(output), run_dir.name]) + "\\n")

    def log_sweep(self, name, rows):
        with self._file.open("a") as file:
            file.write(json.dumps([name, len(rows)]) + "\\n")
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution of somebody else's, as pip leaves it, with trackers `lines` and `gone`."""
    site = tmp_path / "site"
    info = site / "bridge_lines-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bridge-lines\nVersion: 1.0\n")
    points = "lines = bridge_lines:LinesTracker\ngone = bridge_lines.gone:GoneTracker\nwandb = bridge_lines:Theirs\n"
    (info / "entry_points.txt").write_text(f"[{tracker_names.GROUP}]\n{points}")
    (site / "bridge_lines.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    return site


def test_installed_trackers_need_no_change_here(stranger, tmp_path, capsys):
    words = ["-m", "sweep=s", "seed=0,1", "timing=off", "checks=off", "checkpoint=none"]
    words += ["tracking.name=lines", "tracking.options.file=lines.txt"]
    assert main.main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    *runs, whole = (json.loads(line) for line in (tmp_path / "lines.txt").read_text().splitlines())
    assert sorted((num, output) for num, output, _ in runs) == [(0, [""]), (1, [""])]
    assert whole == ["s", 2]
    assert "  look        cat lines.txt\n" in out
    assert not (tmp_path / "outputs" / "s" / "wandb").exists()


def test_a_strangers_error_leaves_the_run_untracked(stranger, tmp_path, capsys):
    words = ["sweep=s", "timing=off", "checks=off", "checkpoint=none", "tracking.name=lines"]
    words += ["tracking.options.file=lines.txt"]
    assert main.main([*words, "tracking.options.broken=true"]) == 0
    said = "tracker lines: runs are missing or incomplete: OSError: the disk is on fire"
    assert said in capsys.readouterr().err
    events, _ = journal.read_on(tmp_path / "outputs" / "s" / "journal.jsonl", 0)
    assert "tracked" not in {event["event"] for event in events}
    assert main.main(words) == 0
    assert len((tmp_path / "lines.txt").read_text().splitlines()) == 1


def test_ours_win_over_a_strangers_name(stranger):
    assert tracker_names.installed()["wandb"].value == tracker_names.OWN["wandb"]


def test_the_package_declares_the_same_trackers():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][tracker_names.GROUP] == dict(tracker_names.OWN)
    assert registry.PACKAGES.keys() < tracker_names.OWN.keys() & project["optional-dependencies"].keys() | {"wandb"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "tracking.name=line",
            "tracking.name=line: no installed package has such a tracker; there are aim, gone, lines, mlflow, "
            "tensorboard, wandb.\n  Try: tracking.name=lines",
        ),
        (
            "tracking.name=gone",
            "tracking.name=gone: bridge_lines.gone:GoneTracker can't be imported: ModuleNotFoundError: No module named "
            "'bridge_lines.gone'; 'bridge_lines' is not a package.\n  Try: python -c 'import bridge_lines.gone'",
        ),
        ("tracking=lines", "tracking=lines: it is a tracker without a file of settings.\n  Try: tracking.name=lines"),
    ],
)
def test_unknown_trackers_are_refused(word, message, stranger, tmp_path, capsys):
    assert main.main([word]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]


def test_disabled_wins_over_a_name(tmp_path):
    settings = TrackingSettings(name="nowhere", mode=TrackingMode.disabled)
    registry.require(settings)
    tracker = registry.make_tracker(settings, tmp_path, "s", print)
    assert isinstance(tracker, NullTracker) and tracker.log(make_record(), {}, tmp_path) is None
