"""Fixtures of the tests of the report in a browser: real sweeps, made once, and Debian's Chromium without a screen."""

from __future__ import annotations

import dataclasses
import os
import shutil

import pytest
from failing_layers import LAYERS
from report_page import Page

from runner.commands import main
from runner.records import store
from runner.records.paths import SweepFolder

HOSTILE = "</script><img src=x onerror=alert(1)>"
FLAGS = ("--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update")
OFF = ("tracking=disabled", "timing.rounds=10")


@pytest.fixture(scope="session")
def chromium():
    """The browser; without one these tests say so and are left out, but not where CI is set."""
    path = shutil.which("chromium")
    if path is None and "CI" not in os.environ:
        pytest.skip("there is no chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """`hostile` trains a layer whose name is a script, under every check; in `mixed` half of the runs fail.

    `searched` is a search, some of whose trials ask for what others asked for.
    """
    path = tmp_path_factory.mktemp("swept")
    (path / "shown_layers.py").write_text(LAYERS)
    (path / "broken").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.syspath_prepend(str(path))
        asked = ("train=short", "checks=full", "seed=0,1,2", "features=4,8")
        assert main.main(["-m", *asked, "sweep=hostile", *OFF]) == 0
        rename(SweepFolder(path / "outputs" / "hostile"))
        assert main.main(["report", "outputs/hostile"]) == 0
        layer = ("layer=custom", "layer.target=shown_layers.Fails", f"layer.kwargs.when=broken,'{HOSTILE}'")
        assert main.main(["-m", *layer, "seed=0,1", "sweep=mixed", *OFF]) == 1
        searched = (
            "hydra/sweeper=optuna",
            "search.objective=apply_latency_median_s",
            "features=range(2,6)",
            "search.n_trials=6",
        )
        assert main.main(["-m", *searched, "sweep=searched", *OFF]) == 0
    return path / "outputs"


def rename(sweep):
    """Gives the layer of all runs a name that our own settings would not let pass, but a record of others may have."""
    plan = store.read_plan(sweep)
    for run in plan["runs"]:
        folder = sweep.run(run["num"], run["run_id"])
        store.write_record(folder, dataclasses.replace(store.read_record(folder), layer=HOSTILE))
    store.write_plan(sweep, {**plan, "runs": [{**run, "layer": HOSTILE} for run in plan["runs"]]})


@pytest.fixture
def opened(chromium, swept):
    """Opens the report of a sweep; at the end nothing may have complained or asked for anything."""
    pages = []

    def open_page(sweep, fragment="", **context):
        address = f"{(swept / sweep / 'report.html').as_uri()}{fragment}"
        pages.append(Page(chromium, address, **context))
        return pages[-1]

    yield open_page
    for page in pages:
        assert page.complaints == []
        assert {url.partition("#")[0] for url in page.requests} <= {
            swept.joinpath(s, "report.html").as_uri() for s in ("hostile", "mixed", "searched")
        }
        page.tab.context.close()
