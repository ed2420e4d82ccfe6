"""Multi-process runs: `jax.distributed` initialisation and text all-gather.

Process 0 writes the run's files; all processes compute, and write their shards of the checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from runner.config.enums import DistributedMode
from runner.config.settings.execution import DistributedSettings
from runner.errors import ConfigError

ENVIRONMENT = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}

EXAMPLE = "distributed.coordinator=127.0.0.1:12345 distributed.num_processes=2 distributed.process_id=0"

# Interval between two probes for the first process.
PROBE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class _Meeting:
    """Where the processes meet; JAX infers any None from the cluster environment."""

    coordinator: str | None
    num_processes: int | None
    process_id: int | None

    @property
    def host(self) -> str:
        return (self.coordinator or "").rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int((self.coordinator or "").rpartition(":")[2])

    @property
    def on_loopback(self) -> bool:
        return self.host == "localhost" or self.host.startswith("127.") or self.host == "::1"


def start(settings: DistributedSettings, say: Callable[[str], None]) -> None:
    """Connects to the other processes; returns when all are connected. Must be called before JAX initialises devices.

    Args:
      settings: The coordinator's address, the number of processes and this one's id.
      say: Called with one line.

    Raises:
      UserError: The coordinator is unknown, or the first process does not show up. (If another one does not, JAX ends
        this process.)
    """
    if settings.mode is DistributedMode.none or jax.distributed.is_initialized():
        return
    meeting = _meeting(settings)
    if meeting.coordinator is not None and meeting.process_id is not None:
        say(f"process {meeting.process_id} meets the others at {meeting.coordinator}")
        # JAX ends the process, with a C++ stack trace, if it can't reach the first one.
        _require_reachable(meeting, settings.timeout_s)
    bind = meeting.coordinator if meeting.on_loopback else None
    try:
        jax.distributed.initialize(
            meeting.coordinator,
            meeting.num_processes,
            meeting.process_id,
            initialization_timeout=settings.timeout_s,
            coordinator_bind_address=bind,
        )
    except (ValueError, RuntimeError) as error:
        reason = f"the processes can't meet ({str(error).splitlines()[0].rstrip('.')})"
        raise ConfigError("distributed.mode", settings.mode.value, reason, EXAMPLE) from error
    if meeting.on_loopback and jax.config.values["jax_cpu_collectives_implementation"] == "gloo":
        _keep_on_loopback(meeting.host)
    _silence_gloo()


def count() -> int:
    """The number of processes in the run."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """The rank of this process."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def exchange(text: str) -> list[str]:
    """All-gathers the `text` of every process, in rank order; every process must call it."""
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(content.size))
    padded = np.zeros(int(np.max(sizes)), np.uint8)
    padded[: content.size] = content
    rows = np.atleast_2d(multihost_utils.process_allgather(padded))
    return [row[:size].tobytes().decode() for row, size in zip(rows, np.ravel(sizes), strict=True)]


def leave(code: int, error: BaseException | None = None) -> None:
    """Exits immediately if this is one of several processes and something went wrong: JAX would wait for the others.

    Args:
      code: The exit code.
      error: The exception, if any; its traceback is printed.
    """
    if not code or count() == 1:
        return
    if error is not None:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _meeting(settings: DistributedSettings) -> _Meeting:
    found = {name: getattr(settings, name) for name in ENVIRONMENT}
    for name, variable in ENVIRONMENT.items():
        if found[name] is None and (text := os.environ.get(variable)):
            found[name] = text
    for name in ("num_processes", "process_id"):
        if isinstance(found[name], str):
            found[name] = _number(name, found[name])
    try:
        whole = DistributedSettings(mode=settings.mode, timeout_s=settings.timeout_s, **found)
    except ConfigError as error:
        raise ConfigError(error.key, found[error.key.partition(".")[2]], error.reason, EXAMPLE) from None
    return _Meeting(coordinator=whole.coordinator, num_processes=whole.num_processes, process_id=whole.process_id)


def _number(name: str, text: str) -> int:
    if not text.isdigit():
        raise ConfigError(f"distributed.{name}", text, f"{ENVIRONMENT[name]} is no whole number", EXAMPLE)
    return int(text)


def _require_reachable(meeting: _Meeting, timeout_s: int) -> None:
    """Checks that the first process can listen; in the other processes, waits until it does."""
    if meeting.process_id == 0:
        try:
            with socket.create_server((meeting.host, meeting.port)):
                return
        except OSError as error:
            reason = f"the first process can't listen there: {error.strerror or error}"
            raise ConfigError("distributed.coordinator", meeting.coordinator, reason, EXAMPLE) from error
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection((meeting.host, meeting.port), timeout=PROBE_S * 10):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                reason = f"after {timeout_s} s the first process does not listen there: {error.strerror or error}"
                fix = "the same command with distributed.process_id=0, next to this one"
                raise ConfigError("distributed.coordinator", meeting.coordinator, reason, fix) from error
        time.sleep(PROBE_S)


def _keep_on_loopback(host: str) -> None:
    """Binds the CPU collectives to the coordinator's address, not to the one that the hostname resolves to.

    JAX has no public API for this; if its internals have been renamed, its default stays in effect.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import distributed, xla_bridge
        from jax._src.lib import _jax  # type: ignore[attr-defined]
        from jax.extend import backend

        listen, make_client = _jax.make_gloo_tcp_collectives, xla_bridge.make_cpu_client

        def make() -> object:
            return make_client(collectives=listen(distributed_client=distributed.global_state.client, hostname=host))

        backend.register_backend_factory("cpu", make, priority=0, fail_quietly=False)


def _silence_gloo() -> None:
    """Keeps the messages that gloo's C++ prints per connection off standard output; Python's own output is kept."""
    kept = os.fdopen(os.dup(1), "w", buffering=1, encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = kept
