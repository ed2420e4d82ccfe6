"""Settings of JAX that change times are flagged; those that leave nothing to compile are refused before run 0."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import pytest

from runner.commands import main
from runner.timing import machine

LEAN = ("tracking=disabled", "checkpoint=none", "checks=off", "sweep=mine")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def flags() -> list[list[str]]:
    (path,) = Path("outputs/mine/runs").glob("*/record.json")
    timing = json.loads(path.read_text())["timing"]
    return [one["summary"]["flags"] for one in timing.values() if isinstance(one, dict) and "summary" in one]


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["jax_debug_nans", "jax_debug_infs", "jax_enable_checks", "jax_check_tracer_leaks"])
def test_a_debugging_setting_flags_all_times(setting, capsys):
    with getattr(jax, setting.removeprefix("jax_"), lambda on: set_for_now(setting, on))(True):
        assert machine.debug_settings() == {setting: True}
        assert main.main([*LEAN, "timing.rounds=2"]) == 0
    assert flags() and all("debugging" in one for one in flags())
    assert "under settings of JAX for debugging" in " ".join(capsys.readouterr().out.split())


class set_for_now:
    """Sets a setting that JAX has no context manager for."""

    def __init__(self, setting: str, on: bool) -> None:
        self.setting, self.on = setting, on

    def __enter__(self) -> None:
        self.before = jax.config.values[self.setting]
        jax.config.update(self.setting, self.on)

    def __exit__(self, *_: object) -> None:
        jax.config.update(self.setting, self.before)


def test_no_debugging_setting_no_flag():
    assert main.main([*LEAN, "timing.rounds=2"]) == 0
    assert machine.debug_settings() == {}
    assert flags() and not any("debugging" in one for one in flags())


REFUSED = [
    ("JAX_DISABLE_JIT", True, "JAX_DISABLE_JIT is on, and a run is a compiled program", "unset JAX_DISABLE_JIT"),
    ("JAX_TRANSFER_GUARD", "disallow", "JAX_TRANSFER_GUARD=disallow: a run puts", "JAX_TRANSFER_GUARD=log before"),
]


@pytest.mark.parametrize(("variable", "value", "said", "instead"), REFUSED)
def test_settings_that_stop_runs_are_refused(variable, value, said, instead, monkeypatch, capsys):
    monkeypatch.setenv(variable, str(value))
    with set_for_now(variable.lower(), value):
        assert main.main([*LEAN]) == 2
    assert re.fullmatch(rf"error: {said}.*\n  Try: {instead}.*\n", capsys.readouterr().err)
    assert not Path("outputs").exists()
