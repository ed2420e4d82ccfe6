"""Histograms of saved arrays in the report: what is counted, what is left out, and that a browser draws them."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from report_page import Page

from runner.commands import main
from runner.commands.saved import weight_histograms
from runner.records import find
from runner.records.paths import SweepFolder


def test_finite_real_numbers_are_counted():
    tree = {
        "params": {"kernel": np.array([0.0, 1.0, np.nan, np.inf]), "half": jnp.ones(3, jnp.bfloat16)},
        "counts": {"n": np.arange(3), "key": jax.random.key_data(jax.random.key(0)), "none": np.zeros(0)},
    }
    found = {name: (sum(counts), low, high) for name, counts, low, high in weight_histograms.of_tree(tree)}
    assert found == {"params/half": (3, 0.5, 1.5), "params/kernel": (2, 0.0, 1.0)}


@pytest.mark.slow
def test_weights_are_drawn_alone_and_together(chromium, swept):
    folder = SweepFolder(swept / "searched")
    before = os.getcwd()
    os.chdir(swept.parent)
    try:
        assert main.main(["report", "outputs/searched", "--weights"]) == 0
    finally:
        os.chdir(before)
    first, second, *_ = find.read_rows(folder)
    page = Page(chromium, f"{folder.report.as_uri()}#run={first.label}")
    page.tab.wait_for_selector("#run figcaption:has-text('values of params/kernel')")
    page.open(f"{folder.report.as_uri()}#chosen={first.label},{second.label}&open=chosen")
    page.tab.reload()
    page.tab.wait_for_selector("html[data-ready]", state="attached")
    page.tab.evaluate("showPart('chosen'); document.getElementById('chosen').fill?.()")
    page.tab.wait_for_selector("#chosen .chart svg")
    page.tab.wait_for_timeout(300)
    kernel = page.tab.locator("#chosen figure", has_text="values of params/kernel")
    assert kernel.locator("svg [aria-label=line] path").count() == 2
    assert page.complaints == []
    page.tab.context.close()


@pytest.mark.slow
def test_only_some_checkpoints_are_read(swept, monkeypatch, capsys):
    monkeypatch.setattr(weight_histograms, "MAX_RUNS", 1)
    monkeypatch.chdir(swept.parent)
    assert main.main(["report", "outputs/searched", "--weights"]) == 0
    assert "  the weights of 2 more runs were not read: a page holds those of a few" in capsys.readouterr().out
