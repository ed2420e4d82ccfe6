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


KEPT = """
import sys
import jax
from runner.arrays import devices

devices.keep_compiled("this-one", timed=False)
assert jax.config.values["jax_compilation_cache_dir"] == sys.argv[1], jax.config.values["jax_compilation_cache_dir"]
print(float(jax.jit(lambda x: x * 3)(2.0)))
"""


def _compile_with(home, folder):
    """What a process prints that keeps in `folder` what it compiles, as a user has it whose cache folder is `home`."""
    clean = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-W", "default", "-c", KEPT, str(folder)]
    env = clean | {"XDG_CACHE_HOME": str(home)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout + done.stderr


def test_compiled_programs_are_kept(tmp_path):
    folder = tmp_path / "bridge-runner" / "untimed" / "this-one"
    assert _compile_with(tmp_path, folder) == "6.0\n"
    (kept,) = [path for path in folder.glob("*-cache") if "lambda" in path.name]
    kept.write_bytes(b"half of it")
    assert _compile_with(tmp_path, folder) == "6.0\n"


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
    """A user's cache folder; JAX's settings are as before when the test ends."""
    before = jax.config.values["jax_compilation_cache_dir"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("timed", [False, True])
def test_a_cache_of_the_user_stays(timed, cache_home):
    jax.config.update("jax_compilation_cache_dir", "mine")
    devices.keep_compiled("this-one", timed=timed)
    assert jax.config.values["jax_compilation_cache_dir"] == "mine"
    assert list(cache_home.iterdir()) == []


@pytest.mark.parametrize("timed", [False, True])
def test_a_cache_folder_may_be_missing(timed, cache_home):
    (cache_home / "bridge-runner").write_text("a file in its place")
    jax.config.update("jax_compilation_cache_dir", None)
    devices.keep_compiled("this-one", timed=timed)
    assert jax.config.values["jax_compilation_cache_dir"] is None


TIMED = """
import jax
from runner.arrays import devices, untimed
from runner.timing import clock, compile_events as events

devices.keep_compiled("this-one", timed=True)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(1) if event == events.CACHE_HIT_EVENT else None)

def function(x):
    return x * 3

with untimed.section():
    jax.jit(function).lower(2.0).compile()
found = len(hits)
jax.clear_caches()
_, phases = clock.compile_phases(function, (2.0,))
print(found, len(hits) - found, phases.cache)
"""


def test_only_untimed_programs_are_kept(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    env |= {"XDG_CACHE_HOME": str(tmp_path)}
    for wanted in ("0 0 off", "1 0 off"):
        done = subprocess.run([sys.executable, "-c", TIMED], env=env, capture_output=True, text=True, check=True)
        assert (done.stdout.strip(), done.stderr) == (wanted, "")
        assert len(list((tmp_path / "bridge-runner" / "untimed" / "this-one").glob("*-cache"))) == 1
