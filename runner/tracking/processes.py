"""Worker processes of a sweep, which write and track its runs: both are Python that holds the GIL."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Longer than a worker's W&B service may take to write what it has.
CLOSING_S = 120.0

# Not fork: JAX has already started threads.
METHOD = "forkserver"

# Ctrl-C goes to the whole group: who is started by such a thread inherits that it is for the sweep's process alone.
NO_SIGINT = signal.SIG_BLOCK, {signal.SIGINT}


def preload(modules: Sequence[str]) -> None:
    """Starts to import `modules` where processes will be forked from; returns at once.

    Does nothing if these modules, or others, are being imported there already.
    """
    multiprocessing.get_context(METHOD).set_forkserver_preload(list(modules))
    multiprocessing.resource_tracker.ensure_running()  # else the next line but one starts it, which lets SIGINT in
    before = signal.pthread_sigmask(*NO_SIGINT)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Processes:
    """Up to `num` processes that are forked from one that has imported what they need; none before `start`.

    None of them uses a device, and none outlives this process.

    Args:
      num: Number of processes.

    Attributes:
      running: Whether they were started.
    """

    def __init__(self, num: int) -> None:
        self._num = num
        self._preloaded: list[str] = []
        self._warm: list[Callable[[], None]] = []
        self._beside: list[Processes] = []
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self._starting: Future[None] | None = None
        # They end when the other end closes.
        self._lifeline: Connection | None = None

    @property
    def needed(self) -> bool:
        """Whether anybody needs them."""
        return bool(self._preloaded)

    @property
    def running(self) -> bool:
        """Whether they were started."""
        return self._pool is not None

    def need(self, preloaded: Sequence[str], warm: Callable[[], None]) -> None:
        """Makes `start` start them.

        Args:
          preloaded: Modules that the processes need: imported once.
          warm: Called in each process as it starts; a function of a module, so that it can be sent there.
        """
        self._preloaded.extend(preloaded)
        self._warm.append(warm)

    def beside(self) -> Processes:
        """One process more, for work that is to find the same one each time; it starts when these do.

        It imports what these do, as all are forked from one. Whoever asks for it closes it.
        """
        one = Processes(1)
        one._preloaded = self._preloaded
        self._beside.append(one)
        return one

    def start(self) -> None:
        """Starts them if they are needed; returns at once, since they are ready before the first run is."""
        if not self.needed:
            return
        context = multiprocessing.get_context(METHOD)
        context.set_forkserver_preload(self._preloaded)
        held, self._lifeline = context.Pipe(duplex=False)
        self._pool = concurrent.futures.ProcessPoolExecutor(
            self._num, mp_context=context, initializer=_start, initargs=(dict(os.environ), _levels(), held)
        )
        starter = concurrent.futures.ThreadPoolExecutor(1)
        self._starting = starter.submit(self._start_all)
        starter.shutdown(wait=False)
        for one in self._beside:
            one.start()

    def submit(self, act: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Calls `act` in a process; once one has died, every result is the exception `BrokenProcessPool`."""
        assert self._pool is not None
        future: Future[T]
        try:
            future = self._pool.submit(act, *args, **kwargs)
        except BrokenProcessPool as error:
            future = Future()
            future.set_exception(error)
        future.add_done_callback(self._end_rest)
        return future

    def wait(self) -> None:
        """Waits until they have started."""
        if self._starting is not None:
            with contextlib.suppress(BrokenProcessPool):
                self._starting.result()

    def close(self) -> None:
        """Shuts them down once their work is done; ends them if that takes too long."""
        if self._pool is None or self._lifeline is None:
            return
        concurrent.futures.wait([self.submit(os.getpid)])  # notices if one has died
        timer = threading.Timer(CLOSING_S, self._lifeline.close)
        timer.daemon = True
        timer.start()
        self._pool.shutdown(wait=True)
        timer.cancel()
        self._lifeline.close()

    def _end_rest(self, future: Future[Any]) -> None:
        """Ends the others once one has died: the pool waits for them, and they ignore the signal that it sends."""
        if self._lifeline is not None and isinstance(future.exception(), BrokenProcessPool):
            self._lifeline.close()

    def _start_all(self) -> None:
        signal.pthread_sigmask(*NO_SIGINT)  # as in `preload`; this thread ends soon
        for future in [self.submit(_call, tuple(self._warm)) for _ in range(self._num)]:
            future.result()


def _levels() -> dict[str, int]:
    """What is logged here, by the name of the logger: libraries that are quiet here are quiet in a worker."""
    loggers = ((name, logging.getLogger(name)) for name in logging.root.manager.loggerDict)
    return {name: logger.level for name, logger in loggers if logger.level != logging.NOTSET}


def _start(environ: Mapping[str, str], levels: Mapping[str, int], lifeline: Connection) -> None:
    # The process that workers are forked from may predate this sweep.
    os.environ.clear()
    os.environ.update(environ)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    # Ctrl-C reaches every process of the terminal; the parent decides when the sweep ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.unraisablehook = _report_unraisable
    # A worker must not outlive a killed parent: it would wait for runs forever, ignoring SIGTERM.
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    # A parent that has used wandb passes on its service; sharing it would make the workers wait for one another.
    os.environ.pop("WANDB_SERVICE", None)
    if jax := sys.modules.get("jax"):
        # Orbax asks for the process's index, which starts JAX: it must not take a GPU that the parent uses.
        jax.config.update("jax_platforms", "cpu")


def _report_unraisable(one: sys.UnraisableHookArgs) -> None:
    """Prints what no caller could catch, except other writes of a save that failed: Orbax waits for none of them."""
    if str(one.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(one)


def _end_with(lifeline: Connection) -> None:
    parent = multiprocessing.parent_process()
    multiprocessing.connection.wait([lifeline] if parent is None else [lifeline, parent.sentinel])
    os._exit(1)


def _call(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()
