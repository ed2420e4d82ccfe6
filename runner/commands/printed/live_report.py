"""Builds the report of a sweep from its folder: written there, or served while the sweep runs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from runner.errors import StorageError
from runner.records import find, paths, store
from runner.records.codec import growing
from runner.records.disk import files
from runner.records.paths import SweepFolder
from runner.report.html.data import Report
from runner.report.html.page import to_html
from runner.report.terminal import Terminal

HOST = "127.0.0.1"

# Journal lines after which a record on disk is a new one; at a `begin` it may be that of an earlier try.
NEWS = find.STATUSES | {find.REMOVED}

# Minimum pause between two builds of the page, as a multiple of the time that the last one took.
RESTS = 10


class Source:
    """The page of a sweep, updated from what is new in its folder.

    Args:
      folder: The sweep.
      live: Whether the page is served, and polls for updates.

    Raises:
      StorageError: The folder is not a sweep.
    """

    def __init__(self, folder: SweepFolder, *, live: bool = False) -> None:
        self._folder = folder
        self._live = live
        self._read_plan()
        self._report = Report()
        self._sizes: dict[str, int] | None = None
        self._num_events: Counter[str] = Counter()
        self._edition = 0
        self._rest_until = 0.0
        self._page = b""
        self._lock = threading.Lock()

    def page(self) -> tuple[bytes, str]:
        """The current page, and a tag that changes with it.

        Raises:
          StorageError: A journal or a record is damaged.
        """
        with self._lock:
            sizes = store.journal_sizes(self._folder)
            if sizes != self._sizes and time.monotonic() >= self._rest_until:
                start = time.monotonic()
                if "study" in self._plan:  # the plan grows
                    self._read_plan()
                with growing():
                    self._read_news()
                    trials = find.read_trials(self._folder)
                    data = self._report.data(self._plan, paths.shown(self._folder.path), trials)
                    self._page = to_html(data, live=self._live)
                self._sizes, self._edition = sizes, self._edition + 1
                # Rebuilding too often would take a core from a sweep that is taking times.
                self._rest_until = time.monotonic() + RESTS * (time.monotonic() - start)
            return self._page, f'"{self._edition}"'

    def read_weights(self) -> int:
        """Reads the checkpoints of runs for the page; returns how many were left out."""
        from runner.commands.saved import weight_histograms

        folders = [self._folder.run(num, run_id) for run_id, num in self._nums.items()]
        records = ((one, store.read_record(one)) for one in folders if one.record.exists())
        histograms, left_out = weight_histograms.read(records)
        self._report.add_weights(histograms)
        return left_out

    def _read_plan(self) -> None:
        self._plan = store.read_plan(self._folder)
        self._nums = {run["run_id"]: run["num"] for run in self._plan["runs"]}

    def _read_news(self) -> None:
        """Loads the records of runs that ended, or lost a checkpoint, since the last update."""
        events = store.read_events(self._folder)
        told = Counter(
            event["run_id"] for event in events if event["event"] in NEWS and event.get("run_id") in self._nums
        )
        news = [run_id for run_id, number in told.items() if number != self._num_events[run_id]]
        for record in store.read_records(self._folder.run(self._nums[run_id], run_id) for run_id in news):
            self._report.add(record)
        self._num_events = told


def write(path: Path, *, weights: bool = False) -> int:
    """Writes `report.html` of the sweep at `path` from its records.

    Args:
      path: The sweep's folder.
      weights: Whether checkpoints are read, for histograms of what is in them.

    Raises:
      StorageError: There is no sweep, a journal or a record is damaged, or the page can't be written.
    """
    folder = SweepFolder(path)
    source = Source(folder)
    left_out = source.read_weights() if weights else 0
    page, _ = source.page()
    try:
        files.write_atomic(folder.report, page)
    except OSError as error:
        raise StorageError(
            f"{folder.report}: {error.strerror or error}", f"bridge-runner report {path} --watch"
        ) from error
    Terminal().line(f"{folder.report}: {len(page) / 1e6:.1f} MB, opens in any browser")
    if left_out:
        Terminal().line(f"  the weights of {left_out} more runs were not read: a page holds those of a few")
    return 0


def watch(path: Path) -> int:
    """Serves a live report of the sweep at `path` on localhost until Ctrl-C.

    Raises:
      StorageError: There is no sweep.
    """
    source = Source(SweepFolder(path), live=True)
    with ThreadingHTTPServer((HOST, 0), _handler(source)) as server:
        Terminal().line(f"http://{HOST}:{server.server_port}/ follows {path}; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def _handler(source: Source) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # Reject other host names that resolve to this machine (DNS rebinding).
            if self.headers.get("Host") not in self._own_names():
                self._answer(HTTPStatus.FORBIDDEN, b"this page is for this machine")
            elif self.path != "/":
                self._answer(HTTPStatus.NOT_FOUND, b"there is one page here: /")
            else:
                self._send_page()

        def _send_page(self) -> None:
            try:
                page, name = source.page()
            except StorageError as error:
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode(errors="replace"))
                return
            if self.headers.get("If-None-Match") == name:
                self._answer(HTTPStatus.NOT_MODIFIED, b"")
            else:
                self._answer(HTTPStatus.OK, page, {"Content-Type": "text/html; charset=utf-8", "ETag": name})

        def _answer(self, status: HTTPStatus, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            sent = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store", **(headers or {})}
            for key, value in sent.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _own_names(self) -> tuple[str, str]:
            port = self.connection.getsockname()[1]
            return f"{HOST}:{port}", f"localhost:{port}"

        def log_message(self, format: str, *args: object) -> None:
            """Logs nothing: a browser polls every second."""

    return Handler
