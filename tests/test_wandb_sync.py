"""What reaches a W&B server: the real command, the real `wandb sync`, and a loopback server of the tests' own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb_server import Received, WandbServer, serve

API_KEY = "0123456789abcdef0123456789abcdef01234567"
# A caller's own, e.g. WANDB_MODE or a netrc that holds a key, would change what is tested.
FOREIGN = ("WANDB_", "XDG_", "NETRC")


@dataclasses.dataclass
class Sent:
    """What was sent from `folder`, the user's home too: what the server got, and what the last command said."""

    folder: Path
    server: WandbServer
    done: subprocess.CompletedProcess[str]

    @property
    def runs(self) -> dict[str, Received]:
        """Those of single records, by the record's run id."""
        found = self.server.runs.values()
        return {run.summary["run_id"]: run for run in found if run.fields["jobType"] != "sweep"}

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        found = [json.loads(path.read_text()) for path in self.folder.glob("outputs/*/runs/*/record.json")]
        return {record["run_id"]: record for record in found}


def execute(folder: Path, server: WandbServer, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    environment |= {"HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1", "WANDB_ERROR_REPORTING": "false"}
    environment |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY}
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    """A sweep of four runs that was tracked offline, then sent by `wandb sync`."""
    folder = tmp_path_factory.mktemp("synced")
    with serve() as server:
        swept = execute(folder, server, "runner", "-m", "seed=0,1", "features=8,16", "tracking=offline")
        assert (swept.returncode, swept.stderr, server.runs) == (0, "", {})
        paths = [str(path) for path in folder.glob("outputs/*/wandb/offline-run-*")]
        yield Sent(folder, server, execute(folder, server, "wandb", "sync", *paths))


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    """One run that was tracked online."""
    folder = tmp_path_factory.mktemp("online")
    with serve() as server:
        yield Sent(folder, server, execute(folder, server, "runner", "seed=7", "tracking=online"))


@pytest.fixture(params=["synced", "online"])
def sent(request: pytest.FixtureRequest) -> Sent:
    return request.getfixturevalue(request.param)


def test_wandb_sync_sends_every_run_of_a_sweep_and_the_sweep(synced):
    # wandb sync exits 0 whatever happens: what the server has is the proof.
    assert synced.done.returncode == 0 and "ERROR" not in synced.done.stderr
    (sweep,) = {record["sweep"] for record in synced.records.values()}
    assert {run.fields["groupName"] for run in synced.server.runs.values()} == {sweep}
    assert sorted(run.fields["jobType"] for run in synced.server.runs.values()) == ["linear"] * 4 + ["sweep"]
    axes = {(run.config["seed"], run.config["features"]) for run in synced.runs.values()}
    assert axes == {(0, 8), (0, 16), (1, 8), (1, 16)}


def test_a_run_that_arrived_says_what_its_record_says(sent):
    assert sent.runs.keys() == sent.records.keys()
    for run_id, record in sent.records.items():
        run = sent.runs[run_id]
        assert run.summary["output/norm"] == record["output"][0]["norm"]
        assert run.config["seed"] == record["settings"]["seed"]
        assert (run.fields["groupName"], run.fields["project"]) == (record["sweep"], "bridge-runner")
        assert (run.fields["tags"], run.exit_code) == (["linear", "cpu", "done"], 0)
        (row,) = (row for row in run.history if "seed" in row)
        assert row["timing/apply_latency/median_s"] == record["timing"]["apply_latency"]["summary"]["median_s"]


def test_a_checkpoint_arrives_as_a_reference_to_where_it_lies(sent):
    for run_id, record in sent.records.items():
        artifact = sent.runs[run_id].artifacts["checkpoint"]
        assert json.loads(artifact["metadata"]) == record["checkpoint"]
        (path,) = sent.folder.glob(f"outputs/*/runs/{record['num']}-{run_id[:8]}/checkpoint")
        references = {entry["ref"] for entry in artifact["manifest"]["contents"].values()}
        assert references == {file.as_uri() for file in path.rglob("*") if file.is_file()}


def test_tables_arrive_with_their_rows(synced):
    (sweep,) = [run for run in synced.server.runs.values() if run.fields["jobType"] == "sweep"]
    assert (sweep.summary["num_runs"], sweep.summary["num_failed"]) == (4, 0)
    tables = [run.summary["runs" if run is sweep else "output/table"] for run in synced.server.runs.values()]
    assert sorted(table["nrows"] for table in tables) == [4, 8, 8, 16, 16]
    assert all(any(path.endswith(table["path"]) for path in synced.server.files) for table in tables)
    assert all("run_table" in run.artifacts for run in synced.server.runs.values())


def test_an_online_run_arrives_at_once(online):
    assert (online.done.returncode, online.done.stderr) == (0, "")
    assert [run.config["seed"] for run in online.runs.values()] == [7]
    assert not list(online.folder.rglob("offline-run-*"))


def test_the_server_had_an_answer_to_all_that_was_asked(sent):
    assert sent.server.errors == []


def test_the_api_key_is_used_and_lands_in_no_file(sent):
    assert sent.server.keys == {API_KEY}
    files = [path for path in sent.folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if API_KEY.encode() in path.read_bytes()]
    assert API_KEY not in sent.done.stdout + sent.done.stderr
