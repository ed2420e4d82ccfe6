"""Fingerprints the machine and software of a run, so that only like is compared with like."""

from __future__ import annotations

import collections
import enum
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.records.timing import GpuInfo

DISTRIBUTIONS = (
    "jax",
    "jaxlib",
    "flax",
    "orbax-checkpoint",
    "optax",
    "numpy",
    "hydra-core",
    "omegaconf",
    "wandb",
    "bridge-runner",
)
JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_dtype_bits",
    "jax_numpy_dtype_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_disable_jit",
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_check_tracer_leaks",
    "jax_cpu_enable_async_dispatch",
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
    "jax_memory_fitting_effort",
)
# Settings that make JAX check or print something at every call or compilation, and so change its times.
DEBUG_SETTINGS = (
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_debug_key_reuse",
    "jax_enable_checks",
    "jax_check_tracer_leaks",
    "jax_disable_most_optimizations",
    "jax_log_compiles",
    "jax_explain_cache_misses",
    "jax_transfer_guard",
    "jax_transfer_guard_host_to_device",
    "jax_transfer_guard_device_to_host",
    "jax_transfer_guard_device_to_device",
)
GPU_FIELDS = ("uuid", "index", "name", "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu")
COMMAND_TIMEOUT_S = 2.0  # git status takes tens of milliseconds; a hanging network drive must not block a run
MIN_SECRET_LENGTH = 8  # shorter values (`1`, `true`) would match any text by chance

_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_SECRET_IN_TEXT = re.compile(
    r"(://)[^/\s@]+(?=@)|((?:token|secret|passw|credential|api_?key)\w*['\"]?\s*[=:]\s*)[^\s,;}]+", re.IGNORECASE
)


def fingerprint() -> dict[str, Any]:
    """Machine and software of this process as JSON data; computed once per process, each caller gets its own copy.

    Initializes JAX's backend if it is not yet initialized. Values that look like secrets are redacted.

    Returns:
      `versions`: of Python and the relevant packages; None for one that is not installed.
      `xla_flags`: `XLA_FLAGS`, or None.
      `jax_config`: JAX settings that can change bits or times; those for debugging only if they are on.
      `devices`: `kind`, `platform` and `count` of JAX's default devices.
      `cpu`: `model`, `num_cores` the process may use, and `quota_cores`, the limit of its cgroup (v1 or v2), or None.
      `memory_bytes`: of the machine; None if unknown.
      `os`: system, release and architecture.
      `git`: `commit` and `dirty` (tracked files changed) of the working directory; None outside a repository.
      `machine_id`: 16 hex digits of CPU model, usable cores, memory in GiB, devices.
      `software_id`: 16 hex digits of versions, XLA flags and JAX settings, not of git.
    """
    return json.loads(_fingerprint())


def load_average() -> float | None:
    """Processes running or waiting, averaged over one minute; None on systems without it (Windows)."""
    try:
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    except OSError:
        return None


def gpus() -> list[GpuInfo]:
    """The current state of this machine's GPUs, from `nvidia-smi`; empty if that is not available."""
    found = _output("nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits")
    working = _output("nvidia-smi", "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader,nounits")
    return [_gpu([cell.strip() for cell in line.split(",")], working) for line in (found or "").splitlines()]


def num_cores() -> int:
    """Cores that this process can keep busy: its CPU affinity, or a lower cgroup quota; at least 1."""
    quota = _quota_cores()
    allowed = _allowed_cores()
    return allowed if quota is None else max(1, min(allowed, int(quota)))


@functools.cache
def cores_to_share() -> int:
    """Cores of this process before it was pinned to some: the reference for the machine's load."""
    return num_cores()


def processor_id() -> str:
    """Identifies the processor type: code compiled for one need not run on another. Does not use JAX."""
    return _digest([platform.machine(), _cpu_model()])


@functools.cache
def _fingerprint() -> str:
    """The fingerprint as JSON: parsing it makes a copy five times as fast as a deep copy."""
    # Devices first: starting a backend may change JAX settings.
    devices = _devices()
    cpu = {"model": _cpu_model(), "num_cores": _allowed_cores(), "quota_cores": _quota_cores()}
    memory_bytes = _memory_bytes()
    memory_gib = None if memory_bytes is None else round(memory_bytes / 2**30)
    flags = os.environ.get("XLA_FLAGS")
    software = {
        "versions": _versions(),
        "xla_flags": None if flags is None else _without_secrets(flags),
        "jax_config": _jax_config(),
    }
    found = {
        **software,
        "devices": devices,
        "cpu": cpu,
        "memory_bytes": memory_bytes,
        "os": platform.platform(),
        "git": _git(),
        "machine_id": _digest([cpu["model"], num_cores(), memory_gib, devices]),
        "software_id": _digest(software),
    }
    return json.dumps(found)


def _gpu(cells: Sequence[str], working: str | None) -> GpuInfo:
    uuid, index, name, *numbers = [*cells, *[""] * len(GPU_FIELDS)][: len(GPU_FIELDS)]
    clock, max_clock, memory_clock, temperature = (int(text) if text.isdigit() else None for text in numbers)
    num_others = None
    if working is not None:
        # One of them is this process, under a pid that a container may not know.
        num_others = max(0, sum(line.split(",")[0].strip() == uuid for line in working.splitlines()) - 1)
    return GpuInfo(
        index=int(index) if index.isdigit() else None,
        name=name or None,
        clock_mhz=clock,
        max_clock_mhz=max_clock,
        memory_clock_mhz=memory_clock,
        temperature_c=temperature,
        num_other_processes=num_others,
    )


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _devices() -> list[dict[str, Any]]:
    import jax

    counts = collections.Counter((device.device_kind, device.platform) for device in jax.devices())
    return [{"kind": kind, "platform": name, "count": count} for (kind, name), count in sorted(counts.items())]


def _jax_config() -> dict[str, Any]:
    """The JAX settings that can change bits or times, as far as this version has them."""
    import jax

    values = jax.config.values
    return {name: _plain(values[name]) for name in JAX_SETTINGS if name in values} | debug_settings()


def debug_settings() -> dict[str, Any]:
    """The settings of JAX for debugging that are on, and change times: they flag every time of a run."""
    import jax

    values = jax.config.values
    found = {name: _plain(values.get(name)) for name in DEBUG_SETTINGS}
    return {name: value for name, value in found.items() if value not in (None, False, "allow")}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _without_secrets(str(value))


def _without_secrets(text: str) -> str:
    """Redacts values of environment variables named like secrets, passwords in URLs, and `token=…` in `text`."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= MIN_SECRET_LENGTH:
            text = text.replace(value, "***")
    return _SECRET_IN_TEXT.sub(lambda match: f"{match[1] or match[2]}***", text)


def _cpu_model() -> str:
    named = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    if named:
        return named[1].strip()
    brand = _output("sysctl", "-n", "machdep.cpu.brand_string") if sys.platform == "darwin" else None
    return (brand or platform.processor() or platform.machine()).strip()


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota_cores() -> float | None:
    """CPU quota of the cgroup in cores, e.g. 1.5; None without a limit."""
    root = Path("/sys/fs/cgroup")
    words = _text(root / "cpu.max").split()
    words = words or [_text(root / "cpu" / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    # No limit is written `max` in version 2 and `-1` in version 1.
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None
    return int(words[0]) / int(words[1])


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    except (ValueError, OSError):
        return None


def _git() -> dict[str, Any] | None:
    # Untracked files are ignored: outputs would make every run dirty.
    status = _output("git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    if status is None:
        return None
    commit = re.search(r"^# branch\.oid ([0-9a-f]+)$", status, re.MULTILINE)
    dirty = any(not line.startswith("#") for line in status.splitlines())
    return {"commit": commit[1] if commit else None, "dirty": dirty}


def _output(*command: str) -> str | None:
    """Output of `command`; None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):  # ValueError: bytes that can't be decoded in this locale
        return None
    return done.stdout if done.returncode == 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
