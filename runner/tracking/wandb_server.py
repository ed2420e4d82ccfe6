"""Offline W&B runs to a W&B server: `wandb sync` sends, and the server is asked what it has.

`wandb sync` ends with 0 also where the server refused a run, and marks it as synced where its files never arrived. So a
run counts as sent only when the server has what the run's file holds: how it ended, its summary, every row of history,
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
from runner.tracking.wandb_runs import environment_of

# Runs that `wandb sync` has under way at a time: most of the time of each is waiting for answers.
PARALLEL = 8

# How often a request is tried, in peace and while a sweep goes on. wandb waits as long as a server asks it to (429 with
# Retry-After), else twice as long as before; its own limits are 20 times and more, hours where a server hangs. A user's
# own variables win.
TRIES = {"retry_max": 4, "retry_wait_min_seconds": 2.0, "retry_wait_max_seconds": 20.0, "timeout_seconds": 15.0}
FEW_TRIES = {"retry_max": 2, "retry_wait_min_seconds": 1.0, "retry_wait_max_seconds": 4.0, "timeout_seconds": 5.0}
TIMEOUT_S = 10.0
HASTY_TIMEOUT_S = 2.0
# Of each kind of request, how many times as long it may take: a file may be large.
KINDS = {"graphql": 1, "file_stream": 1, "file_transfer": 8}

# A server that takes longer for a simple answer is not waited for by a sweep: a W&B run takes ten of them.
SLOW_S = 1.0

# A server has what it took a moment later: it is asked again after so many seconds.
ASK_AGAIN_S = (0.2, 0.5, 1.0, 2.0, 4.0)

# Of the summary, what tells this making of a run from another.
STAMPS = ("run_id", "status", "started_at", "wall_s", "num_runs", "num_failed", "results_digest")

# Meant for the runs that users make themselves; `wandb sync` would do nothing, or say nothing.
NOT_OURS = ("WANDB_MODE", "WANDB_DISABLED", "WANDB_SILENT", "WANDB_QUIET")

ERROR = re.compile(r"^wandb: ERROR (?:\[[^\]]*/(?P<wandb_id>[^\]/]+)\] )?(?P<text>.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one run: `url`, where it is on the server, or `why` it is not there."""

    url: str | None = None
    why: str | None = None


class Server:
    """A W&B server that answers and lets us in; see `connected`.

    Args:
      url: Where it is.
      api: `wandb.Api()`.
      entity: The user or team that runs without one are for.
      heard: Called whenever the server has answered.
    """

    def __init__(self, url: str, api: Any, entity: str, heard: Callable[[], None]) -> None:
        self.url = url
        self._heard = heard
        self._api = api
        self._entity = entity

    def send(self, runs: Sequence[OfflineRun]) -> dict[str, Answer]:
        """Sends whole runs and looks what arrived; a run that is there already is written over.

        Returns:
          What became of each, by its id.
        """
        places = {run.wandb_id: (run.entity or self._entity, run.project) for run in runs}
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
        """By id, what the server lacks of each run that is not wholly there."""
        lacking: dict[str, str] = {}
        for wait_s in (0.0, *ask_again_s):
            if not runs:
                break
            time.sleep(wait_s)
            try:
                lacking = self._ask(runs, path)
            except Exception as error:  # noqa: BLE001 - whatever wandb raises, these runs are not known to be there
                return dict.fromkeys((run.wandb_id for run in runs), _reason(error))
            runs = [run for run in runs if run.wandb_id in lacking]
        return lacking

    def _ask(self, runs: Sequence[OfflineRun], path: str) -> dict[str, str]:
        wandb_ids = [run.wandb_id for run in runs]
        lacking = {}
        with _said(), ThreadPoolExecutor(PARALLEL) as pool:
            self._api.flush()  # it would answer from memory
            found = {run.id: run for run in self._api.runs(path, {"name": {"$in": wandb_ids}}, lazy=False)}
            lacks = pool.map(_lacks, runs, [found.get(wandb_id) for wandb_id in wandb_ids])
            for wandb_id, what in zip(wandb_ids, lacks, strict=True):
                self._heard()
                if what is not None:
                    lacking[wandb_id] = what
        return lacking


@contextlib.contextmanager
def connected(wandb_dir: Path, *, hasty: bool = False, heard: Callable[[], None] = lambda: None) -> Iterator[Server]:
    """A server that answers and lets us in, for as long as the context lasts.

    Args:
      wandb_dir: Where wandb may leave its own files.
      hasty: Whether a sweep waits: less is tried, and a slow server is refused.
      heard: Called whenever the server has answered.

    Raises:
      UserError: No API key is configured.
      ServerError: The server does not answer, is slow, or does not take the key.
    """
    import wandb

    kept = {name: os.environ.pop(name) for name in NOT_OURS if name in os.environ}
    try:
        # Its API makes folders for the runs that it is asked for, by default in the system's temporary folder.
        with environment_of(wandb_dir, WANDB_DIR=str(wandb_dir / "staging")):
            (wandb_dir / "staging").mkdir(exist_ok=True)
            settings = wandb.setup(settings=wandb.Settings(silent=False, **_retries(hasty))).settings
            url = settings.base_url
            answer_s = probe(url, HASTY_TIMEOUT_S if hasty else TIMEOUT_S)
            # Once more: the first answer takes longer.
            if hasty and answer_s > SLOW_S and (answer_s := probe(url, HASTY_TIMEOUT_S)) > SLOW_S:
                raise ServerError(f"the W&B server at {url} takes {answer_s:.1f} s for an answer")
            with _said():
                if not wandb.login(prompt=False, verify=False):
                    raise UserError(f"no API key is configured for {url}", "wandb login, or WANDB_API_KEY=…")
            heard()
            _load()
            yield Server(settings.app_url.rstrip("/"), *_api(settings, url), heard)
    finally:
        os.environ.update(kept)
        # A service that couldn't send everything ends with a code that wandb hands to sys.exit.
        with contextlib.suppress(SystemExit), _said():
            wandb.teardown()


def probe(url: str, timeout_s: float) -> float:
    """Seconds that the server at `url` takes for an answer.

    Raises:
      ServerError: It does not in `timeout_s` seconds, or says that it is broken.
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
    """Loads what sending needs beside wandb: only now, since a server that is not there should cost no more."""
    import wandb.apis.public
    import wandb.cli.cli
    import wandb.sdk.artifacts.artifact  # noqa: F401


def _api(settings: Any, url: str) -> tuple[Any, str]:
    """W&B's API and whose runs are sent; the first question shows whether the key is taken."""
    import wandb

    try:
        with _said():
            api = wandb.Api(timeout=int(TRIES["timeout_seconds"]))
            entity = settings.entity or api.default_entity
    except Exception as error:
        raise ServerError(f"the W&B server at {url} does not let us in: {_reason(error)}") from error
    if not entity:
        raise ServerError(f"the W&B server at {url} knows no user of this API key", "tracking.entity=TEAM")
    return api, entity


def _sync(runs: Sequence[OfflineRun], entity: str, heard: Callable[[], None]) -> dict[str, str]:
    """Runs `wandb sync`; the errors that it says of each run by its id, and of none by ''."""
    import click
    from wandb.cli import cli

    words = ["-n", str(PARALLEL), "--include-synced", "-e", entity, *(str(run.folder) for run in runs)]
    with _said(heard) as said:
        try:
            cli.sync.main(args=words, standalone_mode=False)
        except click.Abort:
            raise KeyboardInterrupt from None
        except Exception as error:  # noqa: BLE001 - what arrived all the same is asked of the server
            return {"": _reason(error)}
    return {match["wandb_id"] or "": match["text"].split(". ")[0] for match in ERROR.finditer(said.getvalue())}


def send_live(folder: Path) -> None:
    """Sends the run whose files are in `folder` as they grow, every 15 s, until its end is in them."""
    import click
    from wandb.cli import cli

    with _said(), contextlib.suppress(click.Abort):
        cli.cli.main(args=["beta", "sync", "--live", str(folder)], standalone_mode=False)


def _lacks(run: OfflineRun, there: Any) -> str | None:
    """What the server lacks of `run`; None where it has all."""
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
    """Names of the artifacts that the server has whole; none where one is not."""
    try:
        return {item.name.split(":")[0] for item in there.logged_artifacts()}
    except AssertionError:  # how wandb says that one was begun and never committed
        return set()


def _retries(hasty: bool) -> dict[str, Any]:
    tries = FEW_TRIES if hasty else TRIES
    wanted = {f"x_{kind}_{key}": value for kind in KINDS for key, value in tries.items()}
    wanted |= {f"x_{kind}_timeout_seconds": times * tries["timeout_seconds"] for kind, times in KINDS.items()}
    return {key: value for key, value in wanted.items() if f"WANDB_{key.upper()}" not in os.environ}


class _Said(io.StringIO):
    """Text that calls `heard` as it comes: wandb says something when a server has answered."""

    def __init__(self, heard: Callable[[], None]) -> None:
        super().__init__()
        self._heard = heard

    def write(self, text: str) -> int:
        self._heard()
        return super().write(text)


@contextlib.contextmanager
def _said(heard: Callable[[], None] = lambda: None) -> Iterator[io.StringIO]:
    """What wandb would say on the terminal."""
    said = _Said(heard)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        yield said


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
