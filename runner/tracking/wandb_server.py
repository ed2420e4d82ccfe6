"""Uploads offline W&B runs with `wandb sync`, and verifies the upload by querying the server.

`wandb sync` exits with 0 even if the server rejected a run, and marks runs as synced whose files never arrived. So a
run counts as uploaded only once the server has everything in the run's file: exit code, summary, every row of history,
every file and every artifact.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import ServerError, UserError
from runner.tracking.wandb_files import OfflineRun
from runner.tracking.wandb_runs import environment_of, start_service

# Concurrent uploads by `wandb sync`: most of each one's time is spent waiting for responses.
PARALLEL = 8

# Retry limits of a request: by default, and while a sweep runs. wandb waits as long as a server requests (429 with
# Retry-After), else twice as long as before; its own limits are 20 retries and more, hours if a server hangs. The
# user's own variables win.
TRIES = {"retry_max": 4, "retry_wait_min_seconds": 2.0, "retry_wait_max_seconds": 20.0, "timeout_seconds": 15.0}
FEW_TRIES = {"retry_max": 2, "retry_wait_min_seconds": 1.0, "retry_wait_max_seconds": 4.0, "timeout_seconds": 5.0}
TIMEOUT_S = 10.0
HASTY_TIMEOUT_S = 2.0
# Timeout multiplier for each kind of request: files may be large.
KINDS = {"graphql": 1, "file_stream": 1, "file_transfer": 8}

# A sweep does not wait for a server that takes longer for a simple request: a W&B run takes ten of them.
SLOW_S = 1.0

# A server shows uploads with a delay: it is queried again after these many seconds.
ASK_AGAIN_S = (0.2, 0.5, 1.0, 2.0, 4.0)

# Summary keys that distinguish this version of a run from another.
STAMPS = ("run_id", "status", "started_at", "wall_s", "num_runs", "num_failed", "results_digest")

ERROR = re.compile(r"^wandb: ERROR (?:\[[^\]]*/(?P<wandb_id>[^\]/]+)\] )?(?P<text>.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Upload result of one run: its `url` on the server, or `why` it is not there."""

    url: str | None = None
    why: str | None = None


class Server:
    """A reachable W&B server that accepts our API key; see `connected`.

    Args:
      url: Its address.
      api: `wandb.Api()`.
      entity: The default user or team of runs.
      heard: Called whenever the server has responded.
    """

    def __init__(self, url: str, api: Any, entity: str, heard: Callable[[], None]) -> None:
        self.url = url
        self._heard = heard
        self._api = api
        self._entity = entity

    def place_of(self, run: OfflineRun) -> tuple[str, str]:
        """The entity and the project that a run belongs to."""
        return run.entity or self._entity, run.project

    def send(self, runs: Sequence[OfflineRun]) -> dict[str, Answer]:
        """Uploads complete runs and verifies what arrived; an existing run is overwritten.

        Returns:
          The upload result of each, by id.
        """
        places = {run.wandb_id: self.place_of(run) for run in runs}
        answers = {}
        for entity, project in dict.fromkeys(places.values()):
            ours = [run for run in runs if places[run.wandb_id] == (entity, project)]
            errors = _sync(ours, entity, self._heard)
            sent = [run for run in ours if run.wandb_id not in errors]
            missing = self._missing(sent, f"{entity}/{project}", ASK_AGAIN_S[:1] if errors else ASK_AGAIN_S)
            for run in ours:
                why = errors.get(run.wandb_id) or missing.get(run.wandb_id)
                if why and run.wandb_id not in errors and "" in errors:
                    why = f"{why}; wandb sync says: {errors['']}"
                url = f"{self.url}/{entity}/{project}/runs/{run.wandb_id}"
                answers[run.wandb_id] = Answer(why=why) if why else Answer(url=url)
        return answers

    def _missing(self, runs: Sequence[OfflineRun], path: str, ask_again_s: Sequence[float]) -> dict[str, str]:
        """By id, what the server lacks of each incomplete run."""
        lacking: dict[str, str] = {}
        for wait_s in (0.0, *ask_again_s):
            if not runs:
                break
            time.sleep(wait_s)
            try:
                lacking = self._ask(runs, path)
            except Exception as error:  # noqa: BLE001 - whatever wandb raises, these runs are not known to be there
                return dict.fromkeys((run.wandb_id for run in runs), reason_of(error))
            runs = [run for run in runs if run.wandb_id in lacking]
        return lacking

    def _ask(self, runs: Sequence[OfflineRun], path: str) -> dict[str, str]:
        wandb_ids = [run.wandb_id for run in runs]
        lacking = {}
        with captured(), ThreadPoolExecutor(PARALLEL) as pool:
            self._api.flush()  # otherwise it would answer from its cache
            found = {run.id: run for run in self._api.runs(path, {"name": {"$in": wandb_ids}}, lazy=False)}
            lacks = pool.map(_lacks, runs, [found.get(wandb_id) for wandb_id in wandb_ids])
            for wandb_id, what in zip(wandb_ids, lacks, strict=True):
                self._heard()
                if what is not None:
                    lacking[wandb_id] = what
        return lacking


@contextlib.contextmanager
def connected(wandb_dir: Path, *, hasty: bool = False, heard: Callable[[], None] = lambda: None) -> Iterator[Server]:
    """Connects to a reachable server that accepts our API key, for the duration of the context.

    Args:
      wandb_dir: Folder for wandb's own files.
      hasty: Whether a sweep is waiting: fewer retries, and slow servers are rejected.
      heard: Called whenever the server has responded.

    Raises:
      UserError: No API key is configured.
      ServerError: The server does not respond, is slow, or rejects the key.
    """
    import wandb

    team = os.environ.get("WANDB_ENTITY")
    try:
        # Its API creates folders for the runs it is queried for, by default in the system's temporary folder.
        with environment_of(wandb_dir, WANDB_DIR=str(wandb_dir / "staging")):
            (wandb_dir / "staging").mkdir(exist_ok=True)
            settings = start_service(wandb, silent=False, **_retries(hasty)).settings
            url = settings.base_url
            answer_s = probe(url, HASTY_TIMEOUT_S if hasty else TIMEOUT_S)
            # Retry once: the first response takes longer.
            if hasty and answer_s > SLOW_S and (answer_s := probe(url, HASTY_TIMEOUT_S)) > SLOW_S:
                raise ServerError(f"the W&B server at {url} takes {answer_s:.1f} s for an answer")
            with captured():
                if not wandb.login(prompt=False, verify=False):
                    raise UserError(f"no API key is configured for {url}", "wandb login, or WANDB_API_KEY=…")
            heard()
            _load()
            yield Server(settings.app_url.rstrip("/"), *_api(team or settings.entity, url), heard)
    finally:
        # A service that couldn't send everything exits with a code that wandb passes to sys.exit.
        with contextlib.suppress(SystemExit), captured():
            wandb.teardown()


def probe(url: str, timeout_s: float) -> float:
    """Response time in seconds of the server at `url`.

    Raises:
      ServerError: It does not respond within `timeout_s` seconds, or reports a server error.
    """
    began = time.monotonic()
    try:
        urllib.request.urlopen(url, timeout=timeout_s).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500:
            raise ServerError(f"the W&B server at {url} is broken: HTTP {error.code}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ServerError(f"no W&B server answers at {url}: {reason or type(error).__name__}") from error
    return time.monotonic() - began


def _load() -> None:
    """Imports what uploading needs besides wandb: only now, to keep the cost of an unreachable server low."""
    import wandb.apis.public
    import wandb.cli.cli
    import wandb.sdk.artifacts.artifact  # noqa: F401


def _api(entity: str | None, url: str) -> tuple[Any, str]:
    """W&B's API and the default entity; the first query shows whether the key is accepted."""
    import wandb

    try:
        with captured():
            api = wandb.Api(timeout=int(TRIES["timeout_seconds"]))
            entity = entity or api.default_entity
    except Exception as error:
        raise ServerError(f"the W&B server at {url} does not let us in: {reason_of(error)}") from error
    if not entity:
        raise ServerError(f"the W&B server at {url} knows no user of this API key", "tracking.entity=TEAM")
    return api, entity


def _sync(runs: Sequence[OfflineRun], entity: str, heard: Callable[[], None]) -> dict[str, str]:
    """Runs `wandb sync`; returns the errors it reports by run id, and those of no run under ''."""
    import click
    from wandb.cli import cli

    words = ["-n", str(PARALLEL), "--include-synced", "-e", entity, *(str(run.folder) for run in runs)]
    with captured(heard) as said:
        try:
            cli.sync.main(args=words, standalone_mode=False)
        except click.Abort:
            raise KeyboardInterrupt from None
        except Exception as error:  # noqa: BLE001 - what arrived all the same is asked of the server
            return {"": reason_of(error)}
    return {match["wandb_id"] or "": match["text"].split(". ")[0] for match in ERROR.finditer(said.getvalue())}


def send_live(folder: Path) -> None:
    """Uploads the growing files of the run in `folder` every 15 s, until the run has ended."""
    import click
    from wandb.cli import cli

    with captured(), contextlib.suppress(click.Abort):
        cli.cli.main(args=["beta", "sync", "--live", str(folder)], standalone_mode=False)


def _lacks(run: OfflineRun, there: Any) -> str | None:
    """What the server lacks of `run`; None if it is complete."""
    if there is None:
        return "the server does not have it"
    state = "finished" if run.exit_code == 0 else "failed"
    if there.state != state:
        return f"the server says that it is {there.state}, not {state}"
    for key in STAMPS:
        if key in run.summary and (got := there.summary.get(key)) != run.summary[key]:
            return f"its summary is not there: {key} is {got}, not {run.summary[key]}"
    if there.historyLineCount < run.num_rows:
        return f"{there.historyLineCount} of {run.num_rows} rows of its history are there"
    files = run.files - {file.name for file in there.files(per_page=1000)}
    if files:
        return f"{len(files)} of its files are not there: {min(files)}"
    artifacts = run.artifacts - _artifacts(there)
    return f"{len(artifacts)} of its artifacts are not there: {min(artifacts)}" if artifacts else None


def _artifacts(there: Any) -> set[str]:
    """Names of the artifacts on the server; empty if any is incomplete."""
    try:
        return {item.name.split(":")[0] for item in there.logged_artifacts()}
    except AssertionError:  # how wandb reports one that was started but never committed
        return set()


def _retries(hasty: bool) -> dict[str, Any]:
    tries = FEW_TRIES if hasty else TRIES
    wanted = {f"x_{kind}_{key}": value for kind in KINDS for key, value in tries.items()}
    wanted |= {f"x_{kind}_timeout_seconds": times * tries["timeout_seconds"] for kind, times in KINDS.items()}
    return {key: value for key, value in wanted.items() if f"WANDB_{key.upper()}" not in os.environ}


class _Captured(io.StringIO):
    """A text buffer that calls `heard` on every write: wandb prints when a server has responded."""

    def __init__(self, heard: Callable[[], None]) -> None:
        super().__init__()
        self._heard = heard

    def write(self, text: str) -> int:
        self._heard()
        return super().write(text)


@contextlib.contextmanager
def captured(heard: Callable[[], None] = lambda: None) -> Iterator[io.StringIO]:
    """Captures what wandb would print to the terminal."""
    said = _Captured(heard)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        yield said


def reason_of(error: BaseException) -> str:
    """The first line of an error, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
