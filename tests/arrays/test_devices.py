"""The device that a config names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from runner.arrays import devices
from runner.errors import ConfigError, DeviceError

SEVERAL = """
import os
os.environ.pop("XLA_FLAGS", None)
import jax
from runner.arrays import devices
from runner.errors import UserError
devices.prepare_process(3, "off")
print(*[devices.device_name(devices.find_device(name)) for name in ("cpu", "cpu:0", "cpu:2", "auto", "auto:1")])
devices.prepare_process(3, "off")
for ask in (lambda: devices.find_device("cpu:3"), lambda: devices.prepare_process(2, "off")):
    try:
        ask()
    except UserError as error:
        print(error)
print(os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"])
"""


@pytest.mark.parametrize("spec", ["cpu", "cpu:0", "auto", "auto:0"])
def test_a_local_device_is_found(spec):
    assert devices.find_device(spec) == jax.local_devices(backend="cpu")[0]
    assert devices.device_name(devices.find_device(spec)) == "cpu:0"


@pytest.mark.parametrize(
    ("spec", "suggestion"),
    [
        ("cpu:1", "process.num_cpu_devices=2 device=cpu:1"),
        ("cpu:7", "process.num_cpu_devices=8 device=cpu:7"),
        ("gpu", "device=cpu"),
        ("tpu:2", "device=cpu"),
        ("auto:3", "device=cpu"),
    ],
)
def test_unknown_devices_list_the_available_ones(spec, suggestion):
    with pytest.raises(DeviceError) as caught:
        devices.find_device(spec)
    assert str(caught.value) == f"device={spec}: not here; here are cpu:0.\n  Try: {suggestion}"


def test_num_cpu_devices_splits_the_host():
    output = subprocess.run([sys.executable, "-W", "error", "-c", SEVERAL], capture_output=True, text=True, check=True)
    assert output.stdout.splitlines() == [
        "cpu:0 cpu:0 cpu:2 cpu:0 cpu:1",
        "device=cpu:3: not here; here are cpu:0, cpu:1, cpu:2.",
        "  Try: process.num_cpu_devices=4 device=cpu:3",
        "process.num_cpu_devices=2: JAX already runs with another number; it can't change within one process.",
        "  Try: one sweep for each number",
        "false",
    ]


def test_preallocation_defaults_to_off(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    devices.prepare_process(1, "off")
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
    devices.prepare_process(1, "off")
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_changing_the_device_count_is_refused():
    jax.devices()
    with pytest.raises(ConfigError) as caught:
        devices.prepare_process(5, "off")
    reason = "JAX already runs with another number; it can't change within one process"
    assert str(caught.value) == f"process.num_cpu_devices=5: {reason}.\n  Try: one sweep for each number"


@pytest.mark.parametrize(
    ("setting", "folder"),
    [("on", "/caches/bridge-runner/jax"), ("/mine", "/mine"), ("~/mine", "/home/me/mine")],
)
def test_cache_folder_follows_its_setting(setting, folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("HOME", "/home/me")
    assert devices.cache_folder(setting) == Path(folder)


def test_cache_folder_defaults_to_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert devices.cache_folder("on") == Path("/home/me/.cache/bridge-runner/jax")
