"""Several processes that make one run together (`jax.distributed`): how they meet, and what each hears of the others.

The first one, process 0, writes what the run leaves; all of them compute, and write their parts of the checkpoint.
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
from runner.config.run_settings import DistributedSettings
from runner.errors import ConfigError

ENVIRONMENT = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}

EXAMPLE = "distributed.coordinator=127.0.0.1:12345 distributed.num_processes=2 distributed.process_id=0"

# Between two looks whether the first process is there.
PROBE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class _Meeting:
    """Where the processes meet; what is None is found by JAX, from the cluster."""

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
    """Meets the other processes; returns when all are there. Called at the edge, before JAX has devices.

    Args:
      settings: Where and which they are.
      say: Takes one line.

    Raises:
      UserError: It is not known where they meet, or the first one does not come. (Where another one does not, JAX
        ends this process.)
    """
    if settings.mode is DistributedMode.none or jax.distributed.is_initialized():
        return
    meeting = _meeting(settings)
    if meeting.coordinator is not None and meeting.process_id is not None:
        say(f"process {meeting.process_id} meets the others at {meeting.coordinator}")
        # JAX ends the process, with a stack trace of C++, where it can't reach the first one.
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
    """How many processes make the run."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Which of them this is."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def exchange(text: str) -> list[str]:
    """The `text` of every process, in order; each has to say one."""
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(content.size))
    padded = np.zeros(int(np.max(sizes)), np.uint8)
    padded[: content.size] = content
    rows = np.atleast_2d(multihost_utils.process_allgather(padded))
    return [row[:size].tobytes().decode() for row, size in zip(rows, np.ravel(sizes), strict=True)]


def leave(code: int, error: BaseException | None = None) -> None:
    """Ends this process at once, if it is one of several and something went wrong: JAX would wait for the others.

    Args:
      code: The exit code.
      error: What was raised; its traceback is printed.
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
    """Judges whether the first process can listen, and waits in the others until it does."""
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
                mend = "the same command with distributed.process_id=0, beside this one"
                raise ConfigError("distributed.coordinator", meeting.coordinator, reason, mend) from error
        time.sleep(PROBE_S)


def _keep_on_loopback(host: str) -> None:
    """Has the CPU's collectives listen where the coordinator does, and not where the machine's own name leads.

    JAX has no public way to say so; where its own parts are called otherwise than here, they do as they always do.
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
    """Keeps off standard output what gloo's C++ writes there of each connection; Python's own output goes on."""
    kept = os.fdopen(os.dup(1), "w", buffering=1, encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = kept
