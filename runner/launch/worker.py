"""Runs in a process that an engine started: does some runs of a sweep, with the same code as an in-process sweep.

Such processes share only the sweep's folder. This module is unpickled before JAX may be imported, since the
environment that JAX reads must be set first.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import UserError
from runner.launch import process, queue
from runner.records.journal import Journal, read_journal
from runner.records.paths import SubmissionFolder, SweepFolder

if TYPE_CHECKING:
    from runner.launch.jobs import Piece
    from runner.records.paths import RunFolder
    from runner.records.record import Record

CACHE = ".compilation_cache"


@dataclass(frozen=True, kw_only=True)
class Composing:
    """What it takes to recompose a run's config, for the files that Hydra writes for a job.

    Attributes:
      config_loader: Hydra's, for this program.
      config_name: Name of the primary config.
      hydra_overrides: Overrides of `hydra.…` that were typed.
      master: The sweep's initial config.
    """

    config_loader: Any
    config_name: str
    hydra_overrides: tuple[str, ...]
    master: Any

    def hydra_files(self) -> Callable[[tuple[str, ...]], Callable[[int], Mapping[str, str]]]:
        """Gives, for the overrides of a run, what writes its files, given its number."""
        from runner.config.composing import compose

        composer = compose.Composer(self.config_loader, self.config_name, list(self.hydra_overrides), self.master)
        return composer.hydra_files_of


class Worker:
    """The task function of the jobs of one submission; pickled to wherever they run.

    Args:
      folder: The sweep's folder.
      submission: The submission's.
      composing: Composes configs.
      cwd: Where the sweep was started: relative paths and the user's modules are found from there.
      parent: The sweep's process, if its jobs end with it.
    """

    def __init__(
        self, folder: Path, submission: Path, composing: Composing, cwd: str, parent: int | None = None
    ) -> None:
        self._folder = folder
        self._submission = submission
        self._composing = composing
        self._cwd = cwd
        self._parent = parent

    def __call__(self, config: Any) -> str:
        """Does the job whose number Hydra gives.

        Returns:
          `done`, `stopped` where it was asked to end, or `refused` if it can't work here; its journal has the details.
        """
        from hydra.core.hydra_config import HydraConfig

        if self._parent is not None:
            process.end_with(self._parent)
        num = int(HydraConfig.get().job.num)
        submission = SubmissionFolder(self._submission)
        self._arrive()
        with contextlib.closing(_journal(submission, num)) as journal:
            journal.append("arrived", host=socket.gethostname(), pid=os.getpid())
            try:
                return self._work(submission, num, journal)
            except UserError as error:
                journal.append("refused", text=str(error))
                journal.append("end")
                return "refused"

    def _arrive(self) -> None:
        """Resolves relative paths and the user's modules as where the sweep was started."""
        with contextlib.suppress(OSError):
            os.chdir(self._cwd)
        if self._cwd not in sys.path:
            sys.path.append(self._cwd)

    def _work(self, submission: SubmissionFolder, num: int, journal: Journal) -> str:
        if submission.stop.exists():
            journal.append("end")
            return "stopped"
        about = queue.read(submission, submission.about)
        process.quiet_libraries()
        from runner.launch import jobs

        piece = jobs.read(submission, num)
        with self._prepared(
            piece, about, give_up=submission.stop.exists, say=lambda text: journal.append("warned", text=text)
        ):
            return self._run(submission, num, journal, piece)

    def _run(self, submission: SubmissionFolder, num: int, journal: Journal, piece: Piece) -> str:
        from runner.launch import jobs
        from runner.records.disk import locks
        from runner.sweep import execute
        from runner.tracking import pool

        folder = SweepFolder(self._folder)
        plan = jobs.plan_of(folder, piece, self._composing.hydra_files())
        nums = [task.job.num for task in plan.tasks]
        with process.interrupts(lambda _: None) as asked, locks.parts(folder.lock, nums) as taken:
            left = jobs.remaining(plan, submission, num)
            mine = [task for task in left if task.job.num in taken]
            if others := len(nums) - len(taken):
                journal.append("skipped", num_runs=others)
            make_tracking = functools.partial(
                pool.make_tracking,
                plan.tasks[0].config.tracking,
                folder.path,
                folder.name,
                lambda text: journal.append("warned", text=text),
                sends=False,
            )
            outcome = execute.work(
                plan,
                mine,
                journal,
                died=piece.died,
                tracking=make_tracking,
                reporter=Silent(journal),
                stop=lambda: asked() or submission.stop.exists(),
            )
        return "stopped" if outcome.interrupted else "done"

    @contextlib.contextmanager
    def _prepared(
        self,
        piece: Piece,
        about: Mapping[str, Any],
        *,
        give_up: Callable[[], bool],
        say: Callable[[str], None],
    ) -> Iterator[None]:
        """Sets process-wide state before JAX starts: exclusive cores and GPU, and a shared cache."""
        from runner.arrays import devices
        from runner.config import env_secrets, serialize
        from runner.launch import resources
        from runner.timing import machine

        run = serialize.from_data(env_secrets.resolve(piece.runs[0]["settings"]))
        if about["auto"] is None:
            yield
            return
        if about["num_cores"]:
            resources.keep_to_cores(about["num_cores"])
        cache = run.process.compilation_cache
        if cache == "auto":
            cache = str(self._folder.parent / CACHE / machine.processor_id())
        specs = {one["settings"]["device"] for one in piece.runs}
        platforms = {devices.named(spec, about["auto"])[0] for spec in specs}
        if platforms == {"cpu"}:
            devices.keep_to_cpu()
        # A GPU that is named by its number is to be found under it, and a mesh takes several: then all stay in sight.
        meshed = any(one["settings"]["mesh"]["axes"] for one in piece.runs)
        shares = "gpu" in platforms and not meshed and not any(":" in spec for spec in specs)
        with resources.gpu(give_up=give_up, say=say) if shares else contextlib.nullcontext():
            devices.prepare_process(run.process.num_cpu_devices, cache)
            yield


def _journal(submission: SubmissionFolder, num: int) -> Journal:
    """The journal of a job; a wait for an earlier attempt of it is announced in the engine's log of the job."""

    def waiting() -> None:
        arrived = []
        with contextlib.suppress(UserError):  # a damaged journal, which its reader reports
            arrived = [event for event in read_journal(submission.journal(num)) if event["event"] == "arrived"]
        whom = f"pid {arrived[-1]['pid']} on {arrived[-1]['host']}" if arrived else "another process"
        print(f"waiting for an earlier attempt of job {num}, {whom}, to end", file=sys.stderr, flush=True)

    return Journal(submission.journal(num), waiting)


class Silent:
    """Prints nothing to a shared terminal: the journal has it.

    Args:
      journal: Of this process.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def started(self, plan: Any, num_pending: int) -> None:
        """Nothing."""

    def compiled(self, num: int, total: int) -> None:
        """Nothing."""

    def finished(self, record: Record, folder: RunFolder) -> None:
        """Nothing."""

    def advanced(self) -> None:
        """Nothing."""

    def warned(self, text: str) -> None:
        """Writes it for whoever follows the journals."""
        self._journal.append("warned", text=text)
