"""The index of a folder of sweeps: what is in it, that it stays text, and the verb. A browser clicks it where slow."""

from __future__ import annotations

import dataclasses
import re
import shutil

import pytest
from report_page import Page

from runner.commands import main
from runner.records import store
from runner.records.disk.files import make_run_folder, make_sweep_folder
from runner.records.journal import to_line
from runner.records.paths import SweepFolder
from runner.records.row import row_of
from runner.report.html import index_data
from tests.report.test_data import HOSTILE, Text, plan, record, unpacked


def write_sweep(path, written_at, *runs):
    """A sweep with these runs done."""
    folder = SweepFolder(path)
    make_sweep_folder(folder)
    store.write_plan(folder, {**plan(*runs), "sweep": path.name, "written_at": written_at})
    for run in runs:
        place = folder.run(run.num, run.run_id)
        make_run_folder(place)
        store.write_record(place, run)
    rows = [dataclasses.asdict(row_of(run)) for run in runs]
    lines = [to_line({"event": row.pop("status"), **row}) for row in rows]
    folder.journal.write_bytes(b"".join(lines))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two sweeps, of which the one that sorts last by name is older, and has a report."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "outputs"
    write_sweep(root / "wide", "2026-01-01T10:20:30.000+00:00", record(0), record(1, settings={"features": 64}))
    write_sweep(root / "again", "2026-01-02T10:20:30.000+00:00", record(0))
    assert main.main(["report", "outputs/wide"]) == 0
    return root


def test_index_lists_sweeps_oldest_first(folder, capsys):
    assert main.main(["report", "outputs"]) == 0
    page = (folder / "index.html").read_bytes()
    said = f"outputs/index.html: 2 sweeps, {len(page) / 1e6:.1f} MB, opens in any browser\n"
    assert capsys.readouterr().out.endswith(said)
    data = unpacked(page)
    assert [sweep["name"] for sweep in data["sweeps"]] == ["wide", "again"]
    assert [sweep["has_report"] for sweep in data["sweeps"]] == [True, False]
    assert [(sweep["num_runs"], sweep["done"], sweep["waiting"]) for sweep in data["sweeps"]] == [(2, 2, 0), (1, 1, 0)]
    assert data["varied"] == ["features"]


def test_one_sweep_is_counted_as_one(folder, capsys):
    shutil.rmtree(folder / "again")
    assert main.main(["report", "outputs"]) == 0
    assert "outputs/index.html: 1 sweep, " in capsys.readouterr().out


def test_kinds_are_shared_between_sweeps(folder):
    assert main.main(["report", "outputs"]) == 0
    wide, again = unpacked((folder / "index.html").read_bytes())["sweeps"]
    assert len(wide["kinds"]) == 2
    assert again["kinds"] == wide["kinds"][:1]
    assert again["kinds"][0]["values"]["apply_s"] == [pytest.approx(row_of(record(0)).apply_s)]


def test_damaged_sweeps_are_named(folder, capsys):
    SweepFolder(folder / "again").plan.write_text("{")
    assert main.main(["report", "outputs"]) == 0
    assert "  left out: outputs/again/sweep.json" in capsys.readouterr().out
    sweeps = unpacked((folder / "index.html").read_bytes())["sweeps"]
    assert [("error" in sweep) for sweep in sweeps] == [True, False]


def test_folders_of_sweeps_are_not_followed(folder, capsys):
    assert main.main(["report", "outputs", "--watch"]) == 2
    assert "outputs holds sweeps, and --watch follows one sweep" in capsys.readouterr().err


def test_index_loads_nothing(folder):
    assert main.main(["report", "outputs"]) == 0
    page = (folder / "index.html").read_bytes()
    assert "default-src &#39;none&#39;" in page.decode()
    assert not re.search(r'<(?:link|img|iframe|script)[^>]* (?:src|href)="(?!data:)', page.decode())
    assert "tabulator" not in Text(page).text


def test_many_values_of_a_kind_are_thinned():
    rows = [dataclasses.replace(row_of(record(0)), num=num) for num in range(1000)]
    found = index_data.entry({**plan(record(0))}, rows, "mine", has_report=False)
    assert len(found["kinds"][0]["values"]["apply_s"]) == index_data.MAX_VALUES


@pytest.mark.slow
def test_index_leads_to_reports_and_draws_history(chromium, folder):
    write_sweep(folder / "odd", "2026-01-03T10:20:30.000+00:00", record(0, layer=HOSTILE))
    assert main.main(["report", "outputs"]) == 0
    page = Page(chromium, (folder / "index.html").as_uri())
    names = page.tab.locator("#list tbody tr td:first-child").all_text_contents()
    assert [name.split()[0] for name in names] == ["odd", "again", "wide"]
    assert page.tab.locator("#charts svg [aria-label=dot]").count() > 0
    page.tab.select_option("#metric", "output_norm")
    assert "output norm over sweeps" in page.tab.text_content("#charts figcaption")
    page.tab.fill("#search", "wide")
    assert page.tab.text_content("#count") == "1 of 3 sweeps"
    assert page.tab.url.endswith("#find=wide&metric=output_norm")
    page.tab.fill("#search", "onerror")
    assert HOSTILE in page.tab.text_content("#list")
    assert page.tab.locator("img").count() == 0
    page.tab.fill("#search", "")
    page.tab.click("#list a >> text=wide")
    page.tab.wait_for_selector("#verdict:has-text('2 of 2 runs done')")
    assert page.complaints == []
    page.tab.context.close()
