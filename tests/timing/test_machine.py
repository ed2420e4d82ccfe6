"""The fingerprint tells machines and software apart, and tells nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from runner.records.timing import GpuInfo
from runner.timing import machine

SECRET = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fingerprint looked up again, before and after; a git hook that runs the tests names its repository."""
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    machine._fingerprint.cache_clear()
    yield
    machine._fingerprint.cache_clear()


def fresh_process(code: str, **variables: str) -> str:
    """What `code` prints in a process of its own, with no JAX_ variable but those given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, check=True, cwd=ROOT, env=inherited | variables, text=True
    ).stdout


def ids() -> tuple[str, str]:
    machine._fingerprint.cache_clear()
    found = machine.fingerprint()
    return found["machine_id"], found["software_id"]


def git(*arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=none")
    subprocess.run(["git", *identity, *arguments], capture_output=True, check=True)


def test_fingerprints_are_json() -> None:
    found = machine.fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert sum(device["count"] for device in found["devices"]) == jax.device_count()
    assert found["cpu"]["model"] and found["os"]


def test_each_caller_gets_a_copy() -> None:
    machine.fingerprint()["versions"]["jax"] = "changed"
    assert machine.fingerprint()["versions"]["jax"] == jax.__version__


def test_importing_machine_does_not_import_jax() -> None:
    assert fresh_process("import sys, runner.timing.machine; print('jax' in sys.modules)") == "False\n"


@pytest.mark.slow
def test_processes_agree_on_the_ids() -> None:
    code = "import json; from runner.timing.machine import fingerprint; found = fingerprint(); print(json.dumps(found))"
    first, second = (json.loads(fresh_process(code, PYTHONHASHSEED=seed)) for seed in "12")
    assert first["machine_id"] == second["machine_id"]
    assert first["software_id"] == second["software_id"]


@pytest.mark.slow
def test_jax_settings_from_environment_are_included() -> None:
    code = "import json; from runner.timing.machine import fingerprint; print(json.dumps(fingerprint()['jax_config']))"
    found = fresh_process(code, JAX_ENABLE_X64="1", JAX_PLATFORMS="cpu", JAX_COMPILATION_CACHE_DIR="/tmp/none")
    assert json.loads(found)["jax_enable_x64"] is True
    assert set(json.loads(found)) <= set(machine.JAX_SETTINGS)


def test_runtime_jax_settings_change_software_id() -> None:
    before = ids()
    with jax.default_matmul_precision("highest"):
        after = ids()
        assert machine.fingerprint()["jax_config"]["jax_default_matmul_precision"] == "highest"
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert ids() == before


def test_versions_change_the_software_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids()
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9" if name == "flax" else version(name))
    after = ids()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_xla_flags_change_the_software_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert ids()[1] != before[1]
    assert machine.fingerprint()["xla_flags"] == "--xla_cpu_enable_fast_math=true"


def test_missing_packages_have_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    versions = machine.fingerprint()["versions"]
    assert [name for name, version in versions.items() if version is not None] == ["python"]


def test_cores_change_the_machine_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(97)), raising=False)
    after = ids()
    assert after[0] != before[0]
    assert after[1] == before[1]


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "DB_PASSWORD"])
def test_fingerprints_contain_no_secrets(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=/tmp/{SECRET}")
    found = machine.fingerprint()
    assert SECRET not in json.dumps(found)
    assert found["xla_flags"] == "--xla_dump_to=/tmp/***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--a=1 --api_key=hidden --b=2", "--a=1 --api_key=*** --b=2"),
        ("https://me:hidden@host/path", "https://***@host/path"),
        ("{'auth_token': 'hidden', 'n': 1}", "{'auth_token': ***, 'n': 1}"),
        ("--xla_cpu_enable_fast_math=true", "--xla_cpu_enable_fast_math=true"),
    ],
)
def test_secret_looking_values_are_masked(monkeypatch: pytest.MonkeyPatch, text: str, shown: str) -> None:
    monkeypatch.setenv("XLA_FLAGS", text)
    assert machine.fingerprint()["xla_flags"] == shown


def test_no_git_outside_a_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert machine.fingerprint()["git"] is None


def test_no_git_without_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine.fingerprint()["git"] is None


def test_git_reports_commit_and_dirty_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def state() -> Any:
        machine._fingerprint.cache_clear()
        return machine.fingerprint()["git"]

    monkeypatch.chdir(tmp_path)
    git("init")
    assert state() == {"commit": None, "dirty": False}
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    clean = state()
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert state() == {"commit": clean["commit"], "dirty": True}


def test_fingerprint_works_on_minimal_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sched_getaffinity", "getloadavg", "sysconf"):
        monkeypatch.delattr(os, name, raising=False)
    found = machine.fingerprint()
    assert found["memory_bytes"] is None
    assert found["cpu"]["num_cores"] == os.cpu_count()
    assert machine.load_average() is None
    assert machine.num_cores() >= 1


def test_load_and_cores_are_comparable_numbers() -> None:
    load = machine.load_average()
    assert load is None or load >= 0
    assert 1 <= machine.num_cores() <= (os.cpu_count() or 1)


NVIDIA_SMI = """#!/bin/sh
case "$1" in
  --query-gpu=*)
    echo 'GPU-a, 0, NVIDIA H100, 1755, 1980, 2619, 41'
    echo 'GPU-b, 1, NVIDIA H100, [N/A], 1980, 2619, 38' ;;
  *)
    echo 'GPU-a, 17'
    echo 'GPU-a, 18' ;;
esac
"""


def test_gpus_come_from_nvidia_smi(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    first, second = machine.gpus()
    known = {"name": "NVIDIA H100", "max_clock_mhz": 1980, "memory_clock_mhz": 2619}
    assert first == GpuInfo(index=0, clock_mhz=1755, temperature_c=41, num_other_processes=1, **known)
    assert second == GpuInfo(index=1, clock_mhz=None, temperature_c=38, num_other_processes=0, **known)


def test_no_gpus_without_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == []
