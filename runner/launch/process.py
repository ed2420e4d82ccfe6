"""Process-wide state: JAX's devices and cache, library logging, Ctrl-C, and exiting."""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from runner.config.settings.run import family
from runner.errors import ConfigError, literal

if TYPE_CHECKING:
    from runner.config.composing.composed import Config

# What schedulers grant between SIGTERM and SIGKILL: Slurm and Kubernetes by default.
GRACE_S = 30.0
# After this long a Ctrl-C that got lost comes again.
AGAIN_S = 0.05
# How soon a worker notices that its sweep has died, and the name of the thread that does.
ORPHAN_S, WATCH = 0.5, "bridge-runner-parent"

# Set once for the process, so all configs of a sweep agree on them.
PROCESS_WIDE = (
    "process.num_cpu_devices",
    "process.compilation_cache",
    "process.workers",
    "output_root",
    "sweep",
    "failure.action",
    "failure.max",
    "failure.retry",
    "grid.zip",
    "grid.exclude",
    "checkpoint.keep",
    "checkpoint.metric",
    "checkpoint.mode",
)


def prepare_process(configs: Sequence[Config], *, remote: bool = False, timed: bool = True) -> None:
    """Sets process-wide state: JAX's devices and cache, and that libraries log errors only.

    Args:
      configs: The sweep's configs.
      remote: Whether other processes do the work, so that this one takes no GPU.
      timed: Whether it is shown how long compiling takes. With `compilation_cache=auto`, what is compiled
        and not timed is kept for the next time.

    Raises:
      ConfigError: The configs disagree on it, or JAX is already initialized differently.
    """
    first = configs[0].run
    runs = {family(config.run): config.run for config in configs}.values()
    for key in PROCESS_WIDE:
        values = list(dict.fromkeys(literal(operator.attrgetter(key)(run)) for run in runs))
        if len(values) > 1:
            raise ConfigError(key, ",".join(values), "one value holds for a whole sweep", f"{key}={values[0]}")
    quiet_libraries()
    from runner.arrays import devices
    from runner.experiment import distributed
    from runner.report.terminal import Terminal
    from runner.timing import machine

    if remote:
        devices.keep_to_cpu()
    devices.prepare_process(first.process.num_cpu_devices, first.process.compilation_cache)
    if first.process.compilation_cache == "auto":
        devices.keep_compiled(machine.processor_id(), timed=timed)
    distributed.start(first.distributed, Terminal().warned)


def leave(code: int, error: BaseException | None = None) -> None:
    """Ends this process at once if others belong to it and something went wrong; see `processes.leave`."""
    if "runner.experiment.distributed" in sys.modules:
        from runner.experiment import distributed

        distributed.leave(code, error)


def quiet_libraries() -> None:
    """Keeps library logging that duplicates raised errors off the terminal."""
    # Orbax warns on every save that it has no OCDBT to merge, logs what it raises, and leaves failed reads of other
    # arrays to asyncio; JAX logs what callbacks raise.
    for name in ("absl", "asyncio", "concurrent.futures", "jax._src.callback"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _say_unraisable


def _say_unraisable(one: sys.UnraisableHookArgs) -> None:
    """Prints what no caller could catch, except other writes of a save that failed: Orbax waits for none of them.

    A Ctrl-C that came while Python collected garbage ends nothing: it is sent again.
    """
    if one.exc_type is KeyboardInterrupt:
        threading.Timer(AGAIN_S, os.kill, (os.getpid(), signal.SIGINT)).start()
        return
    if str(one.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(one)


def end_with(parent: int) -> None:
    """Ends this process, a child of `parent`, soon after that has died, whatever it runs; nothing else would.

    Does nothing where this process is no child of it: in `parent` itself.
    """
    if os.getppid() != parent or WATCH in (thread.name for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_S)
        getattr(os._exit, "__wrapped__", os._exit)(128 + signal.SIGKILL)

    threading.Thread(target=watch, name=WATCH, daemon=True).start()


# Every Ctrl-C since `heed_interrupts`.
_came: list[int] = []


def heed_interrupts() -> None:
    """From here on no Ctrl-C is lost: OmegaConf and others make errors of their own of it, or nothing."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, _heed)


def was_interrupted() -> bool:
    """Whether a Ctrl-C came since `heed_interrupts`, whatever became of it."""
    return bool(_came)


def _heed(number: int, frame: FrameType | None) -> None:
    _came.append(number)
    signal.default_int_handler(number, frame)


@contextlib.contextmanager
def interrupts(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C or SIGTERM once: the answer turns True. Again: KeyboardInterrupt.

    After a SIGTERM, the process ends within `GRACE_S` even if what it runs never returns.

    Args:
      say: Takes one line.

    Raises:
      KeyboardInterrupt: One came before.
    """
    if was_interrupted():
        raise KeyboardInterrupt
    asked: list[int] = []
    grace = threading.Timer(GRACE_S, _end_now, [say])
    grace.daemon = True

    def handle(number: int, _: Any) -> None:
        asked.append(number)
        if number == signal.SIGTERM and not grace.ident:
            grace.start()
        if len(asked) > 1:
            raise KeyboardInterrupt
        within = f", or in {GRACE_S:.0f} s" if number == signal.SIGTERM else ""
        say(f"stopping after the current run{within}; Ctrl-C again stops now. The same command goes on later.")

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: another program's launcher decides
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        grace.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_now(say: Callable[[str], None]) -> None:
    """Ends this process as SIGTERM would have; what it ran never returned, and may hold any lock."""
    with contextlib.suppress(Exception):
        say(f"the current run did not end within {GRACE_S:.0f} s of the SIGTERM: stopping now")
    getattr(os._exit, "__wrapped__", os._exit)(128 + signal.SIGTERM)
