"""What reaches a W&B server: the real command, the real `wandb sync`, and a loopback server of the tests' own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from wandb_sent import API_KEY, NETRC_KEY, Sent, environment, execute, files_with_a_key, write_netrc
from wandb_server import serve

from runner.commands import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory, offline_sweep: Path) -> Iterator[Sent]:
    """A sweep of four runs that was tracked offline, then sent by `wandb sync`."""
    folder = tmp_path_factory.mktemp("synced")
    shutil.copytree(offline_sweep.parent, folder / "outputs")
    with serve() as server:
        paths = [str(path) for path in folder.glob("outputs/*/wandb/offline-run-*")]
        known = environment(folder / "home", server.url)
        yield Sent(folder, server, execute(folder, "wandb", "sync", *paths, environment=known))


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    """One run that was tracked online, by a user whose key is in their .netrc."""
    folder = tmp_path_factory.mktemp("online")
    with serve() as server:
        write_netrc(folder / "home", server.server_port)
        known = environment(folder / "home", server.url, key=None)
        typed = ("tracking=online", "tracking.patience_s=60", "tracking.artifacts=true")
        yield Sent(
            folder,
            server,
            execute(folder, "runner", "seed=7", *typed, environment=known),
        )


@pytest.fixture(params=["synced", "online"])
def sent(request: pytest.FixtureRequest) -> Sent:
    return request.getfixturevalue(request.param)


def test_wandb_sync_sends_runs_and_sweep(synced):
    # wandb sync exits 0 whatever happens: what the server has is the proof.
    assert synced.done.returncode == 0 and "ERROR" not in synced.done.stderr
    (sweep,) = {record["sweep"] for record in synced.records.values()}
    assert {run.fields["groupName"] for run in synced.server.runs.values()} == {sweep}
    assert sorted(run.fields["jobType"] for run in synced.server.runs.values()) == ["linear"] * 4 + ["sweep"]
    axes = {(run.config["seed"], run.config["features"]) for run in synced.runs.values()}
    assert axes == {(0, 8), (0, 16), (1, 8), (1, 16)}


def test_synced_runs_match_their_records(sent):
    assert sent.runs.keys() == sent.records.keys()
    for run_id, record in sent.records.items():
        run = sent.runs[run_id]
        assert run.summary["output/norm"] == record["output"][0]["norm"]
        assert run.config["seed"] == record["settings"]["seed"]
        assert (run.fields["groupName"], run.fields["project"]) == (record["sweep"], "bridge-runner")
        assert (run.fields["tags"], run.exit_code) == (["linear", "cpu", "done"], 0)
        (row,) = (row for row in run.history if "seed" in row)
        assert row["apply_ms"] == 1e3 * record["timing"]["apply_latency"]["summary"]["median_s"]


def test_artifacts_reload_on_another_machine(online, tmp_path, monkeypatch, capsys):
    ((run_id, record),) = online.records.items()
    manifest = online.runs[run_id].artifacts["checkpoint"]["manifest"]["contents"]
    assert {"record.json", *record["files"]} == manifest.keys()
    number = next(num for num, item in enumerate(online.server.artifacts) if item["artifactTypeName"] == "checkpoint")
    for name in manifest:
        path = tmp_path / "downloaded" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(online.server.files[f"artifacts/{number}/{name}"])
    monkeypatch.chdir(tmp_path)
    assert main.main(["verify", "downloaded"]) == 0
    assert "the output is the same bit for bit" in capsys.readouterr().out


def test_only_the_sweep_has_a_table(synced):
    (sweep,) = [run for run in synced.server.runs.values() if run.fields["jobType"] == "sweep"]
    assert (sweep.summary["num_runs"], sweep.summary["num_failed"]) == (4, 0)
    assert sweep.summary["runs"]["nrows"] == 4 and "run_table" in sweep.artifacts
    assert any(path.endswith(sweep.summary["runs"]["path"]) for path in synced.server.files)
    assert [run.artifacts for run in synced.runs.values()] == [{}] * 4


def test_online_runs_arrive_at_once(online):
    assert (online.done.returncode, online.done.stderr) == (0, "")
    assert [run.config["seed"] for run in online.runs.values()] == [7]
    assert f"  online      {online.server.url}/team/bridge-runner\n" in online.done.stdout
    assert "send " not in online.done.stdout


def test_server_handled_every_request(sent):
    assert sent.server.errors == []


def test_api_key_lands_in_no_file(sent):
    (key,) = sent.server.keys
    assert key in (API_KEY, NETRC_KEY)
    assert files_with_a_key(sent.folder) == []
    assert key not in sent.done.stdout + sent.done.stderr


def test_offline_sweeps_contain_no_key(offline_sweep):
    assert (offline_sweep.parent.parent / "said.txt").exists()
    assert files_with_a_key(offline_sweep.parent.parent) == []


def test_documented_keys_exist_on_dashboards(synced):
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "trackers.md").read_text()
    section = page.partition("## What a W&B run has")[2].partition("\n## ")[0]
    for run in synced.runs.values():
        row = next(row for row in run.history if "seed" in row)
        named = {"program": run.config, "overrides": run.config, "apply_ms": row, "output/norm": row, "features": row}
        named |= dict.fromkeys(("status", "checks", "init_ms", "compile_s", "wall_s", "num_params"), run.summary)
        named |= dict.fromkeys(("output/mean", "output/std", "run_id", "started_at", "checkpoint"), run.summary)
        for key, there in named.items():
            assert f"`{key}`" in section and key in there
        assert run.config["layer"]["kwargs"]["out_features"] == run.config["features"]
