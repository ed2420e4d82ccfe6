"""W&B runs: a replica of the records that never ends a run and never blocks one for long.

The only file that knows wandb, and only inside functions: a process that tracks nothing does not pay for the import.
Nothing here is state of the process that composed the sweep, so a spawned worker builds a `WandbTracker` of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from runner.errors import literal
from runner.records import Phases, Record, Status, TrainInfo
from runner.settings import TrackingMode, TrackingSettings

# 12-25 ms a run with these, 55-80 ms by default, most of it listing installed packages. Symlinks to the latest run
# would be fought over by the processes of a sweep. A dead server costs 15 s a run with this timeout, 100 s by default.
LEAN = {"silent": True, "quiet": True, "console": "off", "disable_git": True, "save_code": False, "symlink": False}
LEAN |= {"x_disable_stats": True, "x_disable_meta": True, "x_save_requirements": False}
LEAN |= {"x_transaction_log_flush_interval": 0.5, "init_timeout": 5.0, "finish_timeout": 10.0}

# What the run of the sweep has all the same, once: the installed packages and the machine.
ONCE_A_SWEEP = frozenset({"x_disable_meta", "x_save_requirements"})

PROBE_TIMEOUT_S = 3.0
MAX_MESSAGE_CHARACTERS = 2000
MAX_TAG_CHARACTERS = 64
MAX_ID_CHARACTERS = 64
STAMP = "????????_??????"


RECORD_KEYS = ("run_id", "result_id", "num", "started_at", "wall_s", "num_params", "variables_bytes")
TRAIN = "train"
ARRAY_KEYS = ("mean", "std", "min", "max", "num_non_finite", "digest")
MEASUREMENTS = ("init_latency", "apply_dispatch", "apply_latency", "apply_throughput")


class Tracker(Protocol):
    """Where runs are shown beside the sweep's own files."""

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """Makes one tracked run; the seconds it took, or None where none was made. Never raises."""

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes the run of the whole sweep, with its table. Never raises."""

    def close(self) -> None:
        """Ends what runs in the background."""


class NullTracker:
    """Tracks nothing."""

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """None: no run is made."""
        return None

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes nothing."""

    def close(self) -> None:
        """Ends nothing."""


class WandbTracker:
    """One W&B run a record, in `folder/wandb`.

    A record that is logged again replaces its run: the id is made from the sweep and the record's `run_id`, and an
    older folder of the same id is removed first.

    Args:
      settings: Where the runs go; online may become offline, see `settle`. `tracker.settings` are the settled ones, for
        the trackers of workers.
      folder: The sweep's folder.
      sweep: The sweep's name, the group of its runs.
      warn: Takes one sentence, the first time that something fails.
      clock: Nanoseconds from any fixed origin.
    """

    def __init__(
        self,
        settings: TrackingSettings,
        folder: Path,
        sweep: str,
        warn: Callable[[str], None],
        *,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._wandb_dir = folder.resolve() / "wandb"
        with environment_of(self._wandb_dir):
            self.settings = settle(settings, warn)
        self._sweep = sweep
        self._warn = warn
        self._clock = clock
        self._warned = False

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """Makes the W&B run of a record.

        Args:
          record: What the run left.
          output: Arrays of the output by path; empty for a failed run.
          run_dir: The run's folder; the checkpoint's path is relative to it.

        Returns:
          Seconds it took, or None where W&B failed (said once, through `warn`).
        """
        started = self._clock()

        def fill(wandb: Any, run: Any) -> None:
            run.summary.update(summary_of(record))
            if record.train:
                run.define_metric(f"{TRAIN}/loss", step_metric=f"{TRAIN}/step")
                for row in loss_rows(record.train):
                    run.log(row)
            run.log(history_of(record) | _media(wandb, record, output, self.settings.table_max_elements))
            if record.checkpoint and (path := run_dir / record.checkpoint.path).exists():
                metadata = dataclasses.asdict(record.checkpoint)
                artifact = wandb.Artifact(f"checkpoint-{run.id}", type="checkpoint", metadata=metadata)
                # W&B's own checksum costs 100 ms for 50 MB; the record's digest is in the metadata.
                artifact.add_reference(path.resolve().as_uri(), checksum=False)
                run.log_artifact(artifact)

        made = self._make_run(
            fill,
            LEAN,
            exit_code=0 if record.status is Status.done else 1,
            id=wandb_id(self._sweep, record.run_id[:12]),
            name=f"{record.num}-{record.layer}-s{record.settings.get('seed')}",
            job_type=record.layer,
            tags=[record.layer, record.platform, record.status.value, *([record.host] if record.host else [])],
            config={**record.settings, "overrides": " ".join(record.overrides)},
        )
        return (self._clock() - started) / 1e9 if made else None

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes the run of the sweep: all `rows` as a table, how many there are and how many failed.

        Args:
          name: What the run is called.
          rows: One mapping a run, column to value; a run failed where its `status` is `failed`.
        """

        def fill(wandb: Any, run: Any) -> None:
            num_failed = sum(row.get("status") == Status.failed.value for row in rows)
            run.summary.update({"num_runs": len(rows), "num_failed": num_failed})
            columns = list(dict.fromkeys(key for row in rows for key in row))
            data = [[_cell(row.get(column)) for column in columns] for row in rows]
            run.log({"runs": wandb.Table(columns=columns, data=data, allow_mixed_types=True)})

        settings = {key: value for key, value in LEAN.items() if key not in ONCE_A_SWEEP}
        run_id = wandb_id(self._sweep, "sweep")
        self._make_run(fill, settings, id=run_id, name=name, job_type="sweep", tags=["sweep"])

    def close(self) -> None:
        """Ends W&B's service of this process."""
        # A service that can't send everything ends with a code that wandb hands to sys.exit.
        with contextlib.suppress(Exception, SystemExit):
            import wandb

            wandb.teardown()

    def _make_run(
        self, fill: Callable[[Any, Any], None], settings: Mapping[str, Any], *, exit_code: int = 0, **init: Any
    ) -> bool:
        try:
            # Where it can't be written, wandb would silently take the system's temporary folder.
            self._wandb_dir.mkdir(parents=True, exist_ok=True)
            with environment_of(self._wandb_dir):
                import wandb

                if stale := self._folders.pop(init["id"], None):
                    shutil.rmtree(stale)
                known = {key: value for key, value in settings.items() if key in wandb.Settings.model_fields}
                run = self._open(wandb, init | {"settings": wandb.Settings(**known)})
                self._folders[init["id"]] = Path(run.settings.sync_dir)
                try:
                    fill(wandb, run)
                finally:
                    run.finish(exit_code=exit_code)
        except Exception as error:  # noqa: BLE001 - W&B is a replica: whatever it raises, the run itself is well
            if not self._warned:
                self._warn(f"W&B run {init['id']} is missing or incomplete: {_reason(error)}")
            self._warned = True
            return False
        return True

    def _open(self, wandb: Any, init: dict[str, Any]) -> Any:
        settings = self.settings
        tags = dict.fromkeys(tag[:MAX_TAG_CHARACTERS] for tag in [*settings.tags, *init["tags"]] if tag)
        init |= {"tags": list(tags), "group": self._sweep, "dir": str(self._wandb_dir.parent), "reinit": "create_new"}
        init |= {"project": settings.project, "entity": settings.entity, "notes": settings.notes}
        try:
            return wandb.init(mode=settings.mode.value, **init)
        except Exception as error:
            if settings.mode is not TrackingMode.online:
                raise
            self.settings = _offline(settings, self._warn, _reason(error))
            # Until the service ends, it takes the id to be in use; what the try left would be a second run of that id.
            self.close()
            for path in self._wandb_dir.glob(f"run-{STAMP}-{init['id']}"):
                shutil.rmtree(path, ignore_errors=True)
            return wandb.init(mode=self.settings.mode.value, **init)

    @functools.cached_property
    def _folders(self) -> dict[str, Path]:
        # Listed once: to look for a run's older folder among those of 10,000 runs takes milliseconds.
        found = self._wandb_dir.glob(f"*run-{STAMP}-*")
        return {path.name.split("run-", 1)[1][len(STAMP) + 1 :]: path for path in found}


def make_tracker(settings: TrackingSettings, folder: Path, sweep: str, warn: Callable[[str], None]) -> Tracker:
    """The tracker that `settings` ask for; see `WandbTracker` for the arguments."""
    if settings.mode is TrackingMode.disabled:
        return NullTracker()
    return WandbTracker(settings, folder, sweep, warn)


def settle(settings: TrackingSettings, warn: Callable[[str], None]) -> TrackingSettings:
    """`settings`, online made offline (said through `warn`) where no server answers or no API key is configured.

    wandb itself waits for a server that isn't there 15 to 100 s a run, and asks for a key on the terminal. Give workers
    settled settings, and it is said once.
    """
    if settings.mode is not TrackingMode.online:
        return settings
    try:
        import wandb

        _probe(wandb.setup(settings=wandb.Settings(silent=True, quiet=True)).settings.base_url)
        if wandb.login(prompt=False, verify=False):
            return settings
        reason = "no API key is configured"
    except Exception as error:  # noqa: BLE001 - whatever it is, runs can still be kept offline
        reason = _reason(error)
    return _offline(settings, warn, reason)


def summary_of(record: Record) -> dict[str, Any]:
    """`record` as flat W&B summary values: numbers, and what they are to be read with. What is None is left out."""
    values = {key: getattr(record, key) for key in RECORD_KEYS}
    values |= {key: record.fingerprint.get(key) for key in ("software_id", "machine_id")}
    values |= {"status": record.status.value, "output/norm": record.output_norm}
    values |= {f"check/{check.name}": check.verdict.value for check in record.checks}
    for array in record.output:
        prefix = _prefix(array.path, len(record.output))
        values |= {f"{prefix}/{key}": getattr(array, key) for key in ARRAY_KEYS}
    for item in dataclasses.fields(record.timing) if record.timing else ():
        value = getattr(record.timing, item.name)
        if isinstance(value, Phases):
            values |= _prefixed(item.name, value)
        elif item.name in MEASUREMENTS and value is not None:
            flags = ", ".join(value.summary.flags)
            values |= _prefixed(f"timing/{item.name}", value.summary) | {f"timing/{item.name}/flags": flags}
        else:
            values[item.name] = value
    if record.train:
        train = record.train
        values |= _prefixed(f"{TRAIN}_step", train.step) | {f"{TRAIN}/not_moved": ", ".join(train.not_moved)}
        values |= {f"{TRAIN}/first_loss": train.losses[0], f"{TRAIN}/last_loss": train.losses[-1]}
    if record.checkpoint:
        values |= _prefixed("checkpoint", record.checkpoint)
    if record.error:
        message = record.error.message[:MAX_MESSAGE_CHARACTERS]
        values |= {"error/kind": record.error.kind.value, "error/type": record.error.type, "error/message": message}
    return {key: _cell(value) for key, value in values.items() if value is not None}


def loss_rows(train: TrainInfo) -> Iterator[dict[str, Any]]:
    """The loss curve as W&B history: one row a step."""
    for num, loss in enumerate(train.losses, start=train.first_step):
        yield {f"{TRAIN}/step": num, f"{TRAIN}/loss": _cell(loss)}


def history_of(record: Record) -> dict[str, Any]:
    """The numbers of `record` that a chart is drawn of: one row a run, with the seed as an axis."""
    latency = record.timing.apply_latency if record.timing else None
    values = {
        "seed": record.settings.get("seed"),
        "output/norm": record.output_norm,
        "timing/apply_latency/median_s": latency.summary.median_s if latency else None,
    }
    return {key: _cell(value) for key, value in values.items() if value is not None}


def wandb_id(sweep: str, name: str) -> str:
    """An id that W&B takes (letters, digits, '-' and '_', at most 64), another one for other arguments."""
    whole = f"{sweep}-{name}"
    safe = re.sub(r"[^A-Za-z0-9_-]", "-", whole)
    if safe == whole and len(safe) <= MAX_ID_CHARACTERS:
        return safe
    return f"{safe[: MAX_ID_CHARACTERS - 13]}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"


def histogram_of(array: np.ndarray, num_bins: int = 64) -> tuple[np.ndarray, np.ndarray] | None:
    """Counts and bin edges of the finite values of `array` (complex: magnitudes); None where there are none."""
    with np.errstate(all="ignore"):
        values = (np.abs(array) if np.iscomplexobj(array) else array).astype(np.float64).ravel()
        values = values[np.isfinite(values)]
        if values.size == 0:
            return None
        try:
            return np.histogram(values, bins=num_bins)
        except ValueError:
            # So many bins don't fit in the range, e.g. where all values are 1e20, or the range is infinite.
            return np.array([values.size]), np.array([values.min(), values.max()])


def _media(wandb: Any, record: Record, output: Mapping[str, np.ndarray], table_max_elements: int) -> dict[str, Any]:
    media = {}
    latency = record.timing.apply_latency if record.timing else None
    if latency and (histogram := histogram_of(np.array(latency.samples.durations_s))):
        # One row a run: a row a sample takes W&B ten times as long and draws the same picture.
        media["timing/apply_latency/samples_s"] = wandb.Histogram(np_histogram=histogram)
    for path, array in output.items():
        if histogram := histogram_of(array):
            media[f"{_prefix(path, len(output))}/histogram"] = wandb.Histogram(np_histogram=histogram)
    if 0 < sum(array.size for array in output.values()) <= table_max_elements:
        places = [(path, index) for path, array in output.items() for index in np.ndindex(array.shape)]
        rows = [[path, literal(index), _cell(output[path][index])] for path, index in places]
        media["output/table"] = wandb.Table(columns=["array", "index", "value"], data=rows, allow_mixed_types=True)
    return media


def _prefix(path: str, num_arrays: int) -> str:
    # One array, as nearly always, has the same keys whatever it is called: W&B compares runs by key.
    return f"output/{path}" if num_arrays > 1 else "output"


def _prefixed(prefix: str, item: Any) -> dict[str, Any]:
    return {f"{prefix}/{key}": value for key, value in dataclasses.asdict(item).items()}


def _cell(value: Any) -> Any:
    if isinstance(value, np.generic) and not np.iscomplexobj(value):
        value = bool(value) if value.dtype == bool else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        # As W&B spells them: its JSON has no other way, and a bare NaN in a summary becomes null.
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, (bool, int, float, str)) else literal(value)


def _offline(settings: TrackingSettings, warn: Callable[[str], None], reason: str) -> TrackingSettings:
    warn(f"tracking.mode=online: {reason}. This sweep's W&B runs stay offline; `wandb sync` sends them later")
    return dataclasses.replace(settings, mode=TrackingMode.offline)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _probe(url: str) -> None:
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500:
            raise


@contextlib.contextmanager
def environment_of(wandb_dir: Path) -> Iterator[None]:
    """Sets what wandb takes from variables only, for as long as our calls last."""
    # wandb keeps a copy of every table in its data folder until it is synced, by default in the user's home; and it
    # sends statistics to its makers, even offline. Only variables govern these; the user's own values win.
    wanted = {"WANDB_DATA_DIR": str(wandb_dir / "staging"), "WANDB_ERROR_REPORTING": "false"}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
