"""Opens and finishes a sweep's offline W&B runs; errors are reported once and never raised."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.config import wandb_environment
from runner.config.settings.execution import TrackingSettings
from runner.records.paths import SweepFolder
from runner.tracking import wandb_files
from runner.tracking.wandb_log import RunLog

# 12-25 ms a run with these, 55-80 ms by default, most of it listing installed packages. Symlinks to the latest run
# would be a race between the processes of a sweep.
LEAN = {"silent": True, "quiet": True, "console": "off", "disable_git": True, "save_code": False, "symlink": False}
LEAN |= {"x_disable_stats": True, "x_disable_meta": True, "x_save_requirements": False}
LEAN |= {"x_transaction_log_flush_interval": 0.5, "finish_timeout": 10.0}

MAX_TAG_CHARACTERS = 64

# Settings with which wandb ignores a run's own id and project, or adds to its config, and how they are unset.
AGENTS = {"sweep_id": None, "sweep_param_path": None, "launch": False, "resume": None}

DEFAULT_PROJECT = "bridge-runner"


class WandbRuns:
    """The offline W&B runs of one sweep.

    Args:
      settings: Tracking settings of the runs.
      folder: The sweep's folder.
      sweep: The sweep's name, used as the group of its runs.
      warn: Called with one sentence at the first failure.

    Attributes:
      folder: The sweep's folder.
    """

    def __init__(
        self, settings: TrackingSettings, folder: SweepFolder, sweep: str, warn: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self._settings = settings
        self._sweep = sweep
        self._warn = warn
        self._warned = False

    def make(
        self,
        fill: Callable[[Any, Any], None],
        settings: Mapping[str, Any],
        init: Mapping[str, Any],
        *,
        opened: Any = None,
        exit_code: int = 0,
    ) -> bool:
        """Creates a W&B run, from opening to finishing it; False if W&B failed.

        Args:
          fill: Logs to the run, given wandb and the run.
          settings: W&B settings.
          init: Arguments to open the run with; for an open run, its tags and notes.
          opened: The run, if already open.
          exit_code: Exit code to finish with.
        """
        with self.warning_once(init["id"]), environment_of(self.folder.wandb):
            import wandb

            run = self.open(init, settings) if opened is None else opened
            try:
                if opened is not None:
                    run.tags, run.notes = self._tags(init), init["notes"]
                fill(wandb, run)
            finally:
                run.finish(exit_code=exit_code)
            return True
        return False

    @contextlib.contextmanager
    def warning_once(self, wandb_id: str) -> Iterator[None]:
        """Suppresses exceptions raised inside, and warns about the first."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - W&B is a replica: whatever it raises, the run itself is well
            if not self._warned:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self._warn(f"W&B run {wandb_id} is missing or incomplete: {reason}")
            self._warned = True

    def open(self, init: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
        """An open W&B run; an older folder of the same id is removed first."""
        import wandb

        self._make_room(init)
        known = {key: value for key, value in settings.items() if key in wandb.Settings.model_fields}
        known |= {"sweep_id": self._settings.wandb_sweep} if self._settings.wandb_sweep else {}
        more: dict[str, Any] = {"dir": str(self.folder.path), "reinit": "create_new"}
        words = {**init, **self._place(), **more, "tags": self._tags(init)}
        with _nobody_elses(wandb):
            run = wandb.init(mode="offline", **words, settings=wandb.Settings(**known))
        self._folders[init["id"]] = Path(run.settings.sync_dir)
        return run

    def write(self, init: Mapping[str, Any], **held: Any) -> bool:
        """Writes a whole W&B run at once, without wandb; False if that failed.

        Args:
          init: Arguments that wandb would open the run with.
          **held: What it holds besides, as in `RunLog`.
        """
        with self.warning_once(init["id"]):
            self._make_room(init)
            stamp = time.strftime("%Y%m%d_%H%M%S")
            folder = self.folder.wandb / f"{wandb_files.OFFLINE}{stamp}-{init['id']}"
            texts = self._place() | {name: init[name] for name in ("id", "name", "job_type", "notes")}
            texts |= {"sweep_id": self._settings.wandb_sweep}
            (folder / "files").mkdir(parents=True)
            self._folders[init["id"]] = folder
            log = RunLog(texts=texts, tags=self._tags(init), config=init["config"], **held)
            log.write(folder / f"run-{init['id']}.wandb")
            return True
        return False

    def _place(self) -> dict[str, str | None]:
        group, project = self._settings.group or self._sweep, self._settings.project or DEFAULT_PROJECT
        return {"group": group, "project": project, "entity": self._settings.entity}

    def _make_room(self, init: Mapping[str, Any]) -> None:
        # If it is not writable, wandb would silently use the system's temporary folder.
        self.folder.wandb.mkdir(parents=True, exist_ok=True)
        if stale := self._folders.pop(init["id"], None):
            shutil.rmtree(stale)

    def _tags(self, init: Mapping[str, Any]) -> list[str]:
        tags = (tag[:MAX_TAG_CHARACTERS] for tag in [*self._settings.tags, *init["tags"]] if tag)
        return list(dict.fromkeys(tags))

    @functools.cached_property
    def _folders(self) -> dict[str, Path]:
        return wandb_files.find_offline_runs(self.folder.wandb)


@contextlib.contextmanager
def _nobody_elses(wandb: Any) -> Iterator[None]:
    """Makes wandb forget meanwhile that this process is an agent's, if it was told before our first call."""
    shared = start_service(wandb).settings
    before = {name: getattr(shared, name) for name in AGENTS}
    try:
        for name, value in AGENTS.items():
            setattr(shared, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(shared, name, value)


def start_service(wandb: Any, **settings: Any) -> Any:
    """Starts W&B's service, if it does not run yet; what `wandb.setup` gives."""
    with _start_unreported():
        return wandb.setup(settings=wandb.Settings(**settings) if settings else None)


@contextlib.contextmanager
def _start_unreported() -> Iterator[None]:
    """Keeps wandb from sending the error that its service did not start with.

    wandb 0.31 waits without end for a lock that it holds itself where it would send that. Usage statistics of
    everything after the start are sent if the user wants them.
    """
    try:
        from wandb.analytics.opentelemetry import opentelemetry_proxy

        unwanted = opentelemetry_proxy._disabled.is_set() or os.environ.get("WANDB_ERROR_REPORTING") == "false"
        opentelemetry_proxy.disable()
    except (ImportError, AttributeError):  # another version of wandb
        yield
        return
    try:
        yield
    finally:
        if not unwanted:
            opentelemetry_proxy._disabled.clear()


@contextlib.contextmanager
def environment_of(wandb_dir: Path, **more: str) -> Iterator[None]:
    """Sets `more` and the options that wandb reads only from environment variables, for the duration of our calls.

    What would make our runs somebody else's is hidden from wandb meanwhile: a surrounding agent's ids, for one.
    """
    # wandb keeps a copy of every table in its data folder until it is synced, by default in the user's home; and it
    # sends usage statistics, even offline. Only environment variables control these; the user's own values win.
    wanted = {"WANDB_DATA_DIR": str(wandb_dir / "staging"), "WANDB_ERROR_REPORTING": "false"} | more
    with wandb_environment.hidden():
        added = {name: value for name, value in wanted.items() if name not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                del os.environ[name]
