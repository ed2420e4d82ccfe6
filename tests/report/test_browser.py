"""The report in a real browser: Debian's Chromium without a screen, on real sweeps."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from report_page import Page
from started_processes import Started

from runner.records import find
from runner.records.paths import SweepFolder
from runner.report import table
from runner.timing import stats

pytestmark = pytest.mark.slow

HOSTILE = "</script><img src=x onerror=alert(1)>"


def rows_of(swept, sweep):
    return find.read_rows(SweepFolder(swept / sweep))


@pytest.mark.parametrize("colors", ["light", "dark"])
@pytest.mark.parametrize("sweep", ["hostile", "mixed", "searched"])
def test_report_renders_without_errors_or_requests(sweep, colors, opened):
    page = opened(sweep, color_scheme=colors)
    page.show_all()
    drawn = page.tab.evaluate("[...document.querySelectorAll('#figures > section')].map((part) => part.id)")
    more = {"hostile": {"twins", "losses"}, "mixed": set(), "searched": {"trials"}}[sweep]
    explored = {"scatter", "parallel", "groups"}
    assert set(drawn) == {"times", "phases", "outputs", "checks", "checkpoints"} | explored | more
    assert page.tab.locator(".chart svg").count() == page.tab.locator(".chart").count() > 5
    assert page.tab.locator("#failures").is_visible() == (sweep == "mixed")


def test_trials_link_to_their_runs(opened, swept):
    page = opened("searched")
    page.show_all()
    trials = find.read_trials(SweepFolder(swept / "searched"))
    links = page.tab.locator("#trials details a")
    assert links.count() == len(trials) == 6
    best = min(trials, key=lambda trial: trial.value)
    assert f"trial {best.number}: {best.overrides[0]}" in page.tab.text_content("#study")
    links.nth(2).click()
    (row,) = [row for row in rows_of(swept, "searched") if row.run_id == trials[2].run_id]
    assert row.label in page.tab.text_content("#run h2")


def test_hostile_layer_names_stay_text(opened, swept):
    page = opened("hostile")
    page.show_all()
    assert page.tab.locator("img").count() == 0
    assert HOSTILE in page.tab.text_content(".matrix")
    label = rows_of(swept, "hostile")[0].label
    page.open(page.tab.url + f"#run={label}")
    page.tab.wait_for_selector("#run h2")
    assert HOSTILE in page.tab.text_content("#run .facts")
    assert page.tab.locator("img").count() == 0


def test_hostile_values_stay_text_everywhere(opened):
    page = opened("mixed")
    page.show_all()
    assert HOSTILE in page.column("set.layer.kwargs.when")
    assert HOSTILE in page.tab.text_content("#times")
    page.tab.hover("#times .chart svg [aria-label=dot] >> nth=0", force=True)
    assert page.tab.locator("img").count() == 0


def test_content_policy_blocks_injected_scripts(chromium, swept):
    page = Page(chromium, (swept / "mixed" / "report.html").as_uri())
    page.tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=\"window.got = 1\">')")
    page.tab.wait_for_timeout(300)
    assert page.tab.evaluate("window.got") is None
    assert any("Content Security Policy" in complaint for complaint in page.complaints)
    page.tab.context.close()


def test_headings_sort_by_click_and_enter(opened):
    page = opened("hostile")
    heading = page.tab.get_by_role("button", name="output norm", exact=True)
    heading.click()
    rising = [float(text) for text in page.column("output_norm")]
    assert rising == sorted(rising)
    heading.press("Enter")
    falling = [float(text) for text in page.column("output_norm")]
    assert falling == rising[::-1]


def test_filters_apply_to_charts_too(opened):
    page = opened("hostile")
    page.show_all()
    assert page.count() == "6 runs"
    page.filter("features", ">= 8")
    assert page.column("set.features") == ["8"] * 3
    assert page.count() == "3 of 6 runs"
    page.tab.evaluate("document.getElementById('checkpoints').fill?.()")
    page.tab.wait_for_timeout(200)
    assert page.tab.text_content("#checkpoints tbody") == page.tab.text_content("#checkpoints tbody tr")
    page.filter("features", "")
    page.filter("apply", "> 1 h")
    assert page.count() == "0 of 6 runs"


def test_search_covers_hidden_columns(opened):
    page = opened("mixed")
    page.tab.fill("#search", "the cable")
    page.tab.wait_for_timeout(500)
    assert set(page.column("status")) == {"failed"}
    page.tab.fill("#search", "cpu:0")
    page.tab.wait_for_timeout(500)
    assert page.count() == "4 runs"


def test_columns_are_chosen(opened):
    page = opened("hostile")
    assert page.column("num_params") == []
    page.tab.click("#columns summary")
    page.tab.get_by_label("params", exact=True).check()
    page.tab.wait_for_selector('#table .tabulator-cell[tabulator-field="num_params"]')
    assert sorted(set(page.column("num_params"))) == ["20", "40"]
    page.tab.get_by_label("saved", exact=True).uncheck()
    page.tab.wait_for_selector('#table .tabulator-cell[tabulator-field="checkpoint_bytes"]', state="detached")


def test_csv_holds_chosen_columns_and_rows(opened, swept):
    page = opened("mixed")
    page.filter("status", "done")
    with page.tab.expect_download() as download:
        page.tab.click("#csv")
    assert download.value.suggested_filename == "mixed.csv"
    lines = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8"), newline="")))
    known = {row.label: row for row in rows_of(swept, "mixed") if row.status == "done"}
    assert {line["run"] for line in lines} == set(known)
    for line in lines:
        row = known[line["run"]]
        assert line["layer.kwargs.when"] == HOSTILE
        assert float(line["apply_latency_median_s"]) == pytest.approx(row.apply_s, rel=1e-6)
        assert line["apply_latency_flags"].split() == row.apply_flags
        assert float(line["output_norm"]) == pytest.approx(row.output_norm, rel=1e-6)


def test_runs_open_by_click_and_address(opened, swept):
    first, second, *_ = rows_of(swept, "hostile")
    page = opened("hostile")
    page.tab.click(f"#table a >> text={first.label}")
    page.tab.wait_for_selector(f"#run h2:has-text('{first.label}')")
    assert page.tab.locator("#sweep").is_hidden()
    assert page.tab.title() == f"run {first.label} · hostile · bridge-runner"
    page.tab.click("#run >> text=next")
    page.tab.wait_for_selector(f"#run h2:has-text('{second.label}')")
    page.tab.go_back()
    page.tab.go_back()
    assert page.tab.locator("#sweep").is_visible()
    assert opened("hostile", f"#run={second.label}").tab.locator(f"#run h2:has-text('{second.label}')").is_visible()
    assert "There is no run 9-x here." in opened("hostile", "#run=9-x").tab.text_content("#run")


def test_run_page_matches_show(opened, swept):
    row = rows_of(swept, "hostile")[0]
    record = json.loads(SweepFolder(swept / "hostile").run(row.num, row.run_id).record.read_text())
    text = re.sub(r"\s+", " ", opened("hostile", f"#run={row.label}").tab.text_content("#run"))
    folder = f"outputs/hostile/runs/{row.label}"
    for verb in ("rerun", "verify", "show"):
        assert f"bridge-runner {verb} {folder}" in text
    assert f'runner.reload("{folder}")' in text
    for leaf in record["variables"]:
        assert leaf["digest"][:12] in text
    for check in record["checks"]:
        assert re.sub(r"\s+", " ", check["detail"]) in text
    assert "key = jax.random.PRNGKey(0)" in text
    assert f"train.steps={record['settings']['train']['steps']}" in text


def test_failed_run_page_has_its_traceback(opened, swept):
    row = next(row for row in rows_of(swept, "mixed") if row.status == "failed")
    text = opened("mixed", f"#run={row.label}").tab.text_content("#run")
    assert "the cable is out" in text
    assert "in look" in text


def test_checks_reveal_evidence_by_key(opened):
    page = opened("hostile")
    page.show_all()
    cell = page.tab.locator(".matrix button").first
    cell.focus()
    page.tab.keyboard.press("Enter")
    assert cell.get_attribute("aria-pressed") == "true"
    assert page.tab.locator(".matrix [aria-pressed=true]").count() == 1
    assert "leaves are as init makes them" in page.tab.text_content(".evidence")


def test_keys_alone_lead_to_a_run(opened, swept):
    page = opened("hostile")
    label = rows_of(swept, "hostile")[0].label
    for _ in range(60):
        page.tab.keyboard.press("Tab")
        if page.tab.evaluate("document.activeElement.textContent") == label:
            break
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_selector(f"#run h2:has-text('{label}')")
    assert page.tab.evaluate("document.activeElement.id") == "run"


def test_medians_and_intervals_match_stats(opened):
    page = opened("mixed")
    generator = np.random.default_rng(0)
    for num in (*range(2, 30), 100, 1500):
        values = generator.lognormal(size=num)
        found = page.tab.evaluate("(values) => aggregate(values)", values.tolist())
        low, high = stats._median_interval(np.sort(values))
        assert found["median"] == pytest.approx(np.median(values), rel=1e-12)
        assert (found["low"], found["high"]) == (low or values.min(), high or values.max())
        assert found["interval"] == ("range over runs" if low is None else "99 % interval over runs")


@pytest.mark.parametrize("seconds", [1.5e-9, 9.996e-7, 1.2345e-5, 0.9994, 0.9996, 2.5, 1234.0])
def test_times_and_sizes_match_the_terminal(seconds, opened):
    page = opened("mixed")
    assert page.tab.evaluate("(seconds) => duration(seconds)", seconds) == table.duration(seconds)
    assert page.tab.evaluate("(bytes) => size(bytes)", round(seconds * 1e9)) == table.size(round(seconds * 1e9))


def test_print_is_light_and_complete(opened):
    page = opened("hostile", color_scheme="dark")
    page.tab.emulate_media(media="print", color_scheme="dark")
    page.tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.tab.wait_for_timeout(300)
    assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.tab.locator("#printed tbody tr").count() == 6
    assert page.tab.locator("#table").is_hidden()
    assert page.tab.locator(".chart svg").count() > 5


def test_colour_theme_can_be_chosen(opened):
    page = opened("hostile", color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.tab.evaluate(background) == "rgb(255, 255, 255)"
    page.tab.select_option("#theme", "dark")
    assert page.tab.evaluate(background) == "rgb(21, 23, 28)"


@pytest.mark.parametrize("fragment", ["", "#run={}"])
def test_narrow_windows_never_scroll_sideways(fragment, opened, swept):
    page = opened("hostile", fragment.format(rows_of(swept, "hostile")[0].label))
    page.tab.set_viewport_size({"width": 360, "height": 700})
    if not fragment:
        page.show_all()
    assert page.tab.evaluate("document.scrollingElement.scrollWidth") <= 360


def test_served_page_follows_its_sweep_live(chromium, swept, tmp_path):
    folder = SweepFolder(tmp_path / "growing")
    shutil.copytree(swept / "hostile", folder.path)
    lines = folder.journal.read_text().splitlines(keepends=True)
    ends = [place for place, line in enumerate(lines) if '"done"' in line]
    folder.journal.write_text("".join(lines[: ends[1]]))
    command = [sys.executable, "-m", "runner", "report", "growing", "--watch"]
    with Started(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        page = Page(chromium, server.stdout.readline().split()[0])
        page.filter("features", "<= 8")
        assert page.column("status").count("done") == 1
        folder.journal.write_text("".join(lines))
        page.tab.wait_for_selector("#verdict:has-text('6 of 6 runs done')")
        assert page.column("status") == ["done"] * 6
        assert page.tab.get_by_role("searchbox", name="filter features").input_value() == "<= 8"
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0
        page.tab.wait_for_selector("#verdict[data-stopped]")
    assert [text for text in page.complaints if "ERR_CONNECTION_REFUSED" not in text] == []
    page.tab.context.close()
