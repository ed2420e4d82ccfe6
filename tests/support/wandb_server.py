"""A W&B server of the tests' own, on the loopback: what wandb 0.31's client asks for to send a run and look it up."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.server
import json
import re
import sys
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

TEAM = {"id": "e", "name": "team"}
ALWAYS: dict[str, dict[str, Any]] = {
    "Viewer": {"viewer": {"id": "u", "entity": "team", "username": "u", "flags": "{}", "teams": {"edges": []}}},
    "GetDefaultEntity": {"viewer": {"id": "u", "entity": "team"}},
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "ArtifactType": {"project": {"artifact": None}},
    "CreateAgent": {"createAgent": {"agent": {"id": "a"}}},
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


LAST_PAGE = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
HANG = -1


class WandbServer(http.server.ThreadingHTTPServer):
    """Keeps what arrives: `runs` by id, `views` by name, uploaded `files` by path, API `keys`.

    `errors` is what it had no answer to.

    `asked` counts requests by what they are: the GraphQL operation, `file_stream`, `upload` or `GET`. `fault` is asked
    before each is answered: it gives a status (429 comes with Retry-After), `HANG`, or None where all is well.
    `trials` is what an agent is told to run, one after the other: each a `run_id` and `args`, with `program`, by
    `agent_command`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, Received] = {}
        self.files: dict[str, bytes] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.keys: set[str] = set()
        self.errors: list[str] = []
        self.artifacts: list[dict[str, Any]] = []
        self.asked: Counter[str] = Counter()
        self.fault: Callable[[str, dict[str, Any]], int | None] = lambda what, sent: None
        self.retry_after_s = 1
        self.agent_command: list[str] = []
        self.program = ""
        self.trials: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()

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
            case "View":
                found = [self.views[name] for name in [given["viewName"]] if name in self.views]
                nodes = [{"node": {key: view[key] for key in ("id", "displayName", "spec")}} for view in found]
                return {"project": {"allViews": {"edges": nodes}}}
            case "UpsertView2":
                is_new = given["name"] not in self.views
                self.views[given["name"]] = given | {"id": f"v{len(self.views)}"}
                view = {"id": self.views[given["name"]]["id"], "name": given["name"]}
                return {"upsertView": {"view": view, "inserted": is_new}}
            case "SweepWithRuns":
                config = json.dumps({"command": self.agent_command})
                return {"project": {"sweep": {"id": given["sweep"], "config": config, "runs": {"edges": []}}}}
            case "Heartbeat":
                # An agent has at most one run at a time, and is told to exit once no trial is left.
                if json.loads(given["runState"]):
                    commands = []
                elif self.trials:
                    commands = [{"type": "run", "program": self.program} | self.trials.pop(0)]
                else:
                    commands = [{"type": "exit"}]
                return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}
            case "CreateRunFiles":
                files = [self.place(f"{given['run']}/{name}") | {"name": name} for name in given["files"]]
                return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
            case "Runs":
                wanted = json.loads(given["filters"])["name"]["$in"]
                edges = [{"node": node(id, self.runs[id]), "cursor": id} for id in wanted if id in self.runs]
                found = {"edges": edges, "pageInfo": LAST_PAGE}
                return {"project": {"internalId": "1", "runCount": len(edges), "readOnly": False, "runs": found}}
            case "RunFiles":
                prefix = f"{given['name']}/"
                names = [path.removeprefix(prefix) for path in self.files if path.startswith(prefix)]
                nodes = [{"id": name, "name": name, "sizeBytes": 0, "md5": "", "mimetype": ""} for name in names]
                files = {"edges": [{"node": node, "cursor": ""} for node in nodes], "pageInfo": LAST_PAGE}
                return {"project": {"run": {"fileCount": len(nodes), "files": files}}}
            case "RunOutputArtifacts":
                nodes = [described(item) for item in self.artifacts if item["runName"] == given["run"]]
                edges = [{"node": node, "cursor": ""} for node in nodes]
                return {
                    "project": {"run": {"artifacts": {"totalCount": len(nodes), "pageInfo": LAST_PAGE, "edges": edges}}}
                }
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


def described(artifact: dict[str, Any]) -> dict[str, Any]:
    """An artifact as it is looked up."""
    project = {"id": "p", "internalId": "1", "name": artifact["projectName"], "entity": {"name": "team"}}
    sequence = {"__typename": "ArtifactSequence", "name": artifact["artifactCollectionName"], "project": project}
    state = "COMMITTED" if "manifest" in artifact else "PENDING"
    nothing = dict.fromkeys(("description", "metadata", "historyStep", "commitHash", "updatedAt"))
    return nothing | {
        **{"__typename": "Artifact", "id": "a", "artifactSequence": sequence, "versionIndex": 0, "state": state},
        **{
            "artifactType": {"name": artifact["artifactTypeName"]},
            "digest": artifact["digest"],
            "tags": [],
            "aliases": [],
        },
        **{
            "ttlIsInherited": False,
            "ttlDurationSeconds": -1,
            "size": 0,
            "fileCount": 0,
            "createdAt": "2026-01-01T00:00:00Z",
        },
    }


def node(id: str, run: Received) -> dict[str, Any]:
    """A run as it is looked up."""
    state = {None: "running", 0: "finished"}.get(run.exit_code, "failed")
    config = json.dumps({key: {"value": value} for key, value in run.config.items()})
    return {"id": id, "name": id, "state": state, "config": config, "summaryMetrics": json.dumps(run.summary)} | {
        "historyLineCount": len(run.history),
        "user": {"name": "u", "username": "u"},
        "projectId": "1",
        "tags": [],
    }


class Handler(http.server.BaseHTTPRequestHandler):
    server: WandbServer

    def do_GET(self) -> None:
        self.serve("GET", {}, lambda: {})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        path = urllib.parse.unquote(self.path[1:])
        self.serve("upload", {}, lambda: self.server.files.update({path: content}) or {})

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user_and_key = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        self.server.keys.add(user_and_key.partition(":")[2])
        if self.path == "/graphql":
            (operation,) = re.findall(r"^\s*(?:query|mutation)\s+(\w+)", sent["query"].removeprefix("#graphql"))
            self.serve(operation, sent.get("variables") or {}, lambda: self.answer(operation, sent))
        else:
            # /files/ENTITY/PROJECT/RUN/file_stream
            run = self.path.split("/")[4]
            self.serve("file_stream", {"name": run}, lambda: self.server.stream(self.server.runs[run], sent) or {})

    def answer(self, operation: str, sent: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"data": self.server.answer(operation, sent.get("variables") or {})}
        except LookupError as error:
            # A client that gets no answer asks again for minutes.
            self.server.errors.append(f"{operation}: {error!r}")
            return {"errors": [{"message": operation}]}

    def serve(self, what: str, given: dict[str, Any], answer: Callable[[], dict[str, Any]]) -> None:
        with self.server.lock:
            self.server.asked[what] += 1
        status = self.server.fault(what, given)
        with self.server.lock:
            data = answer() if status is None else {}
        if status == HANG:
            self.server.closing.wait()
            self.close_connection = True
            return
        self.send_response(status or 200)
        if status == 429:
            self.send_header("Retry-After", str(self.server.retry_after_s))
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
            server.closing.set()
            server.shutdown()
            thread.join()
