"""A reloaded run as it is shown in a shell and in a notebook."""

from __future__ import annotations

import dataclasses
import re

import pytest

import runner


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    overrides = {"train": "short", "train.steps": 3, "output_root": tmp_path_factory.mktemp("saved")}
    found = runner.sweep(features=8, sweep="shown", tracking="disabled", timing="off", overrides=overrides)
    return runner.reload(next((found.path / "runs").iterdir()))


def test_reload_repr_is_one_line(saved):
    said = (
        r"layer: linear, module: linen ToLinen, variables: 2 arrays, 160 bytes, x: float32\[4\], output: float32\[8\]"
    )
    found = rf"Reloaded\(run: 0-[0-9a-f]{{8}}, {said}, loss: [\d.]+ to [\d.]+ in 3 steps; \.apply\(\), .*\)"
    assert re.fullmatch(found, repr(saved))


def test_notebook_table_escapes_everything(saved):
    table = dataclasses.replace(saved, record=dataclasses.replace(saved.record, layer="<b>"))._repr_html_()
    assert table.count("<tr>") == 7
    assert "&lt;b&gt;" in table and "<b>" not in table


def test_missing_output_is_shown(saved):
    failed = dataclasses.replace(saved, record=dataclasses.replace(saved.record, output=[], train=None))
    assert "output: none: the run failed" in repr(failed) and "loss" not in repr(failed)
