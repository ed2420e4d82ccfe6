"""A W&B server of the tests' own, on the loopback: what wandb 0.31's client asks for to send a run."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.server
import json
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

TEAM = {"id": "e", "name": "team"}
ALWAYS: dict[str, dict[str, Any]] = {
    "Viewer": {"viewer": {"id": "u", "entity": "team", "username": "u", "flags": "{}", "teams": {"edges": []}}},
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "ArtifactType": {"project": {"artifact": None}},
}


@dataclasses.dataclass
class Received:
    """One run, as it arrived: `fields` of UpsertBucket, and by type the artifacts committed, each with its manifest."""

    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    artifacts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    exit_code: int | None = None


class WandbServer(http.server.ThreadingHTTPServer):
    """Keeps what arrives: `runs` by id, uploaded `files` by path, API `keys`; `errors` is what it had no answer to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, Received] = {}
        self.files: dict[str, bytes] = {}
        self.keys: set[str] = set()
        self.errors: list[str] = []
        self.artifacts: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client may close a connection without reading all of the answer.
        if not isinstance(error := sys.exception(), ConnectionError):
            self.errors.append(repr(error))

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data of one GraphQL operation."""
        match operation:
            case "UpsertBucket":
                run = self.runs.setdefault(given["name"], Received())
                run.fields |= {key: value for key, value in given.items() if value is not None}
                run.config |= {key: item["value"] for key, item in json.loads(given["config"] or "{}").items()}
                project = {"id": "p", "name": given["project"], "entity": TEAM}
                bucket = {"id": given["name"], "name": given["name"], "project": project, "historyLineCount": 0}
                return {"upsertBucket": {"inserted": True, "bucket": bucket}}
            case "CreateRunFiles":
                files = [self.place(f"{given['run']}/{name}") | {"name": name} for name in given["files"]]
                return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
            case "CreateArtifact":
                self.artifacts.append(given["input"])
                created = {"id": str(len(self.artifacts) - 1), "state": "PENDING", "artifactSequence": {}}
                return {"createArtifact": {"artifact": created}}
            case "CreateArtifactManifest":
                file = self.place(f"manifests/{given['artifactID']}")
                return {"createArtifactManifest": {"artifactManifest": {"id": given["artifactID"], "file": file}}}
            case "CreateArtifactFiles":
                places = [(file["artifactID"], file["name"]) for file in given["input"]["artifactFiles"]]
                nodes = [self.place(f"artifacts/{id}/{name}") | {"artifact": {"id": id}} for id, name in places]
                return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
            case "CommitArtifact":
                artifact = self.artifacts[int(given["artifactID"])]
                artifact["manifest"] = json.loads(self.files[f"manifests/{given['artifactID']}"])
                self.runs[artifact["runName"]].artifacts[artifact["artifactTypeName"]] = artifact
                return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": artifact["digest"]}}}
        return ALWAYS[operation]

    def place(self, path: str) -> dict[str, Any]:
        return {"id": path, "uploadUrl": f"{self.url}/{path}", "uploadHeaders": []}

    def stream(self, run: Received, sent: dict[str, Any]) -> None:
        """Takes in rows of a run's history and summary, and how it ended."""
        for name, part in sent.get("files", {}).items():
            rows = [json.loads(row) for row in part["content"]]
            if name == "wandb-history.jsonl":
                run.history[part["offset"] :] = rows
            elif name == "wandb-summary.json":
                run.summary |= rows[-1]
        run.exit_code = sent.get("exitcode", run.exit_code)


class Handler(http.server.BaseHTTPRequestHandler):
    server: WandbServer

    def do_GET(self) -> None:
        self.reply({})

    def do_PUT(self) -> None:
        self.server.files[self.path[1:]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply({})

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user_and_key = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        data: dict[str, Any] = {}
        with self.server.lock:
            self.server.keys.add(user_and_key.partition(":")[2])
            if self.path == "/graphql":
                (operation,) = re.findall(r"^\s*(?:query|mutation)\s+(\w+)", sent["query"])
                try:
                    data = {"data": self.server.answer(operation, sent.get("variables") or {})}
                except LookupError as error:
                    # A client that gets no answer asks again for minutes.
                    self.server.errors.append(f"{operation}: {error!r}")
                    data = {"errors": [{"message": operation}]}
            else:
                # /files/ENTITY/PROJECT/RUN/file_stream
                self.server.stream(self.server.runs[self.path.split("/")[4]], sent)
        self.reply(data)

    def reply(self, data: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serve() -> Iterator[WandbServer]:
    """A running server."""
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
