"""Resolves a config's device, and configures JAX before it starts."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import jax

from runner.arrays import untimed
from runner.errors import ConfigError, DeviceError, UserError

# Otherwise JAX preallocates three quarters of the GPU's memory, whoever else uses it.
PREALLOCATION = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

GUARDS = (
    "jax_transfer_guard",
    "jax_transfer_guard_host_to_device",
    "jax_transfer_guard_device_to_host",
    "jax_transfer_guard_device_to_device",
)

PLATFORMS = ("tpu", "gpu", "cpu")

# How much of what is compiled is kept for the next time; JAX removes what was not used for longest.
MAX_CACHE_BYTES = 256 * 2**20

# Into how many devices the CPU is split because a record, which may be a stranger's, says so.
MAX_CPU_DEVICES = 1024


def prepare_process(num_cpu_devices: int, compilation_cache: str) -> None:
    """Applies process-wide settings: preallocation, number of CPU devices, compilation cache. For entry points only.

    Raises:
      UserError: JAX is already initialized in this process with another number of CPU devices, or is set not to
        compile or not to move arrays.
    """
    _require_compiling()
    untimed.keep_nothing()
    for name, value in PREALLOCATION.items():
        os.environ.setdefault(name, value)
    if jax.config.values["jax_num_cpu_devices"] not in (num_cpu_devices, -1) or num_cpu_devices != 1:
        try:
            jax.config.update("jax_num_cpu_devices", num_cpu_devices)
        except RuntimeError as error:
            reason = "JAX already runs with another number; it can't change within one process"
            raise ConfigError(
                "process.num_cpu_devices", num_cpu_devices, reason, "one sweep for each number"
            ) from error
    if compilation_cache not in ("off", "auto"):
        _keep_in(cache_folder(compilation_cache))


def keep_compiled(processor: str, *, timed: bool) -> None:
    """Keeps what JAX compiles and no one times in the user's cache folder, up to `MAX_CACHE_BYTES`.

    Does nothing where JAX keeps it already, or where the folder can't be made.

    Args:
      processor: Tells processor types apart: code compiled for one need not run on another.
      timed: Whether this process times what it compiles, but for what is in `untimed.section`.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = cache_folder("on").with_name("untimed") / processor
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if timed:
        untimed.keep_in(folder, MAX_CACHE_BYTES)
    else:
        _keep_in(folder)
        jax.config.update("jax_compilation_cache_max_size", MAX_CACHE_BYTES)
    # A full disk, or an entry that a killed process left half written: it is compiled, as without a cache.
    warnings.filterwarnings("ignore", r"Error (reading|writing) persistent compilation cache entry")


def _keep_in(folder: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # With the default threshold of 1 s, small layers are never cached.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _require_compiling() -> None:
    """Validates that JAX compiles programs, and may put their arguments on a device.

    Raises:
      UserError: A setting of JAX, usually an environment variable, is in the way.
    """
    values = jax.config.values
    if values["jax_disable_jit"]:
        what = "JAX_DISABLE_JIT is on, and a run is a compiled program: nothing would be compiled or timed"
        raise UserError(what, _without("JAX_DISABLE_JIT"))
    for name in GUARDS:
        if str(values.get(name)).startswith("disallow"):
            what = f"{name.upper()}={values[name]}: a run puts its input and key on the device, which that forbids"
            raise UserError(what, _without(name.upper(), "log"))


def _without(variable: str, other: str | None = None) -> str:
    """What to type, where the setting comes from: the shell or Python."""
    if variable not in os.environ:
        return f'jax.config.update("{variable.lower()}", {other!r})' if other else "with jax.disable_jit(False):"
    return f"{variable}={other} before the command" if other else f"unset {variable}"


def cache_folder(compilation_cache: str) -> Path:
    """Folder of the persistent compilation cache: the given one, or one in the user's cache folder."""
    if compilation_cache != "on":
        return Path(os.path.expanduser(compilation_cache)).absolute()
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(root)) / "bridge-runner" / "jax"


def find_device(spec: str) -> jax.Device:
    """The JAX device that `spec` names: `cpu`, `gpu:1`, `auto` (the best available).

    Raises:
      DeviceError: It is not available; the message lists what is.
    """
    platform, _, index = spec.partition(":")
    candidates = _best_platform() if platform == "auto" else _platform_devices(platform)
    number = int(index or 0)
    if number < len(candidates):
        return candidates[number]
    present = [name for name in PLATFORMS if _platform_devices(name)]
    there = ", ".join(f"{name}:{i}" for name in present for i in range(len(_platform_devices(name))))
    if platform == "cpu":
        raise DeviceError(
            f"device={spec}: not here; here are {there}", f"process.num_cpu_devices={number + 1} device={spec}"
        )
    raise DeviceError(f"device={spec}: not here; here are {there}", "device=cpu")


def named(spec: str, auto: str) -> tuple[str, str]:
    """Platform and name of the device that `spec` names where `auto` is the given platform; no device is queried."""
    platform, _, index = spec.partition(":")
    platform = auto if platform == "auto" else platform
    return platform, f"{platform}:{int(index or 0)}"


def keep_to_cpu() -> None:
    """Restricts JAX to the CPU backend in this process: a GPU taken here would be unavailable to worker processes."""
    jax.config.update("jax_platforms", "cpu")


def all_devices(spec: str) -> list[jax.Device]:
    """All devices of the platform that `spec` names, including those of other processes.

    Raises:
      DeviceError: There are none.
    """
    return list(jax.devices(find_device(spec).platform))


def device_name(device: jax.Device) -> str:
    """`platform:index`, as in a config."""
    return f"{platform_name(device)}:{device.id}"


def platform_name(device: jax.Device) -> str:
    """The platform, as in a config."""
    return "gpu" if device.platform in ("cuda", "rocm") else device.platform


def _best_platform() -> list[jax.Device]:
    return next((found for name in PLATFORMS if (found := _platform_devices(name))), [])


def _platform_devices(platform: str) -> list[jax.Device]:
    try:
        return list(jax.local_devices(backend=platform))
    except RuntimeError:
        return []
