"""`bridge-runner sync` against a server of the tests' own: what arrives, what is refused, what is sent again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from started_processes import Started

from runner.commands import main
from runner.tracking import payload, wandb_files

pytestmark = pytest.mark.slow


def records(sweep: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(sweep.glob("runs/*/record.json"))]


def test_each_run_is_sent_once(server, sweep, sync):
    there = f"5 of 5 W&B runs are at {server.url}/team/bridge-runner\n"
    assert sync(sweep) == (0, f"{sweep.name}: 5 W&B runs, 0 sent before\n{there}", "")
    arrived, asked = dict(server.runs), server.asked["UpsertBucket"]
    ids = {run.summary.get("run_id") for run in arrived.values()}
    assert ids == {None, *(record["run_id"] for record in records(sweep))}
    assert sync(sweep) == (0, f"{sweep.name}: 5 W&B runs, 5 sent before\n{there}", "")
    assert (server.runs, server.asked["UpsertBucket"], server.errors) == (arrived, asked, [])


def test_an_agents_variables_change_no_upload(server, sweep, sync, monkeypatch):
    foreign = {"RUN_ID": "theirs", "SWEEP_ID": "sw1", "PROJECT": "theirs", "MODE": "disabled", "DIR": "/nowhere"}
    for name, value in foreign.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    code, out, err = sync(sweep)
    assert (code, err) == (0, "")
    assert out.endswith(f"5 of 5 W&B runs are at {server.url}/team/bridge-runner\n")
    assert len(server.runs) == 5
    assert all(run.startswith(f"{sweep.name}-") for run in server.runs)


def test_resending_adds_no_duplicate_rows(server, sweep, sync):
    sync(sweep)
    (sweep / "wandb" / "sent.jsonl").unlink()
    assert sync(sweep)[0] == 0
    rows = {run.fields["jobType"]: len(run.history) for run in server.runs.values()}
    assert (len(server.runs), rows) == (5, {"linear": 1, "sweep": 5})


def test_missing_runs_are_rebuilt_from_records(server, sweep, sync):
    missing, torn, *_ = sorted((sweep / "wandb").glob("offline-run-*-*"))
    shutil.rmtree(missing)
    (file,) = torn.glob("*.wandb")
    os.truncate(file, file.stat().st_size - 10)
    code, out, err = sync(sweep)
    assert (code, err) == (0, "")
    assert out.startswith("W&B runs made from their records, since missing or out of date: 2\n")
    norms = {
        run.summary["run_id"]: run.summary["output/norm"] for run in server.runs.values() if "run_id" in run.summary
    }
    assert norms == {record["run_id"]: record["output"][0]["norm"] for record in records(sweep)}
    assert {run.exit_code for run in server.runs.values()} == {0}


def test_project_from_environment_is_resolved_again(server, sync, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_PROJECT", "project-of-mine")
    assert main.main(["tracking.project=${oc.env:WANDB_PROJECT}", "timing=off", "checkpoint=none", "sweep=s"]) == 0
    (made,) = tmp_path.glob("outputs/s/wandb/offline-run-*")
    shutil.rmtree(made)
    assert sync("outputs/s")[:2] == (
        0,
        "W&B runs made from their records, since missing or out of date: 1\ns: 1 W&B runs, 0 sent before\n"
        f"1 of 1 W&B runs are at {server.url}/team/project-of-mine\n",
    )


def test_late_reports_are_sent_too(server, sweep, sync):
    sync(sweep)
    (sweep / "report.html").write_text("<p>all of it</p>")
    assert "since missing or out of date: 1\n" in sync(sweep)[1]
    (whole,) = [run for run in server.runs.values() if run.fields["jobType"] == "sweep"]
    assert "report.html" in whole.artifacts["report"]["manifest"]["contents"]


def test_only_refused_runs_are_sent_again(server, sweep, sync):
    first = records(sweep)[0]
    server.fault = lambda what, sent: 403 if what == "UpsertBucket" and first["run_id"][:12] in sent["name"] else None
    code, out, err = sync(sweep)
    assert (code, out.splitlines()[-1].split(" are at ")[0]) == (1, "4 of 5 W&B runs")
    assert err == f"not sent: 0-{first['run_id'][:8]}: the server does not have it; wandb sync says: <no message>\n"
    server.fault = lambda what, sent: None
    server.asked.clear()
    assert sync(sweep)[:2] == (
        0,
        f"{sweep.name}: 5 W&B runs, 4 sent before\n5 of 5 W&B runs are at {server.url}/team/bridge-runner\n",
    )
    assert server.asked["CreateRunFiles"] == 1


@pytest.mark.parametrize(
    ("what", "reason", "num"),
    [
        # Only the sweep's own run has a table, by default.
        ("upload", "of its files are not there: media/table/", 1),
        ("CommitArtifact", "of its artifacts are not there: ", 1),
        ("file_stream", "Fatal error while uploading data", 5),
    ],
)
def test_silent_upload_failures_are_detected(server, sweep, sync, what, reason, num):
    server.fault = lambda asked, sent: 500 if asked == what else None
    code, _, err = sync(sweep)
    assert code == 1
    assert err.count("not sent: ") == err.count(reason) == num


def test_sync_respects_retry_after(server, sweep, sync, monkeypatch):
    monkeypatch.setenv("WANDB_X_GRAPHQL_RETRY_MAX", "5")
    since = time.monotonic()
    refused = []

    def fault(what, sent):
        if what == "UpsertBucket" and time.monotonic() < since + 2:
            refused.append(sent["name"])
            return 429
        return None

    server.fault = fault
    server.retry_after_s = 3
    assert sync(sweep)[0] == 0
    # Without Retry-After it would ask again every 0.1 s.
    assert sorted(refused) == sorted(set(refused)) and refused


def test_killed_sync_resumes(server, sweep, sync):
    (sweep / "journal.jsonl").write_text((sweep / "journal.jsonl").read_text().rsplit("\n", 2)[0] + "\n")
    command = [sys.executable, "-m", "runner", "sync", str(sweep), "--watch"]
    with Started(command, stdout=subprocess.PIPE, text=True) as watching:
        sent = [line for line in (watching.stdout.readline() for _ in range(5)) if line.startswith("sent ")]
        watching.kill()
    assert len(sent) == 4
    code, out, _ = sync(sweep)
    assert (code, out.splitlines()[0]) == (0, f"{sweep.name}: 5 W&B runs, 4 sent before")
    assert {len(run.history) for run in server.runs.values()} == {1, 5}


def test_sync_gives_up_on_refusing_servers(server, sweep, sync, monkeypatch):
    from runner.commands.saved import wandb_sync

    monkeypatch.setattr(wandb_sync, "BATCH_RUNS", 1)
    server.fault = lambda what, sent: 403 if what == "UpsertBucket" else None
    code, _, err = sync(sweep)
    assert (code, server.asked["UpsertBucket"]) == (1, 2)
    assert err.count("the server took none before it") == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda what, sent: 500, "error: the W&B server at URL is broken: HTTP 500.\n"),
        (
            lambda what, sent: 401 if what != "GET" else None,
            "error: the W&B server at URL does not let us in: Failed to verify credentials with URL: "
            'returned error 401: {"data":null}.\n',
        ),
    ],
)
def test_rejected_logins_are_reported(server, sweep, sync, fault, message):
    server.fault = fault
    code, _, err = sync(sweep)
    assert (code, err.replace(server.url, "URL")) == (1, message)


def test_unreachable_servers_are_reported(server, sweep, sync, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    code, _, err = sync(sweep)
    assert (code, err) == (1, "error: no W&B server answers at http://127.0.0.1:9: [Errno 111] Connection refused.\n")


@pytest.mark.parametrize("words", [[], ["--workspace"]])
def test_sync_without_a_key_does_nothing(words, server, sweep, sync, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    shutil.rmtree(sweep / "wandb")
    code, _, err = sync(sweep, *words)
    assert code == 2
    assert err == f"error: no API key is configured for {server.url}.\n  Try: wandb login, or WANDB_API_KEY=…\n"
    assert not list((sweep / "wandb").glob("offline-run-*"))


def test_sync_needs_a_finished_run(server, sweep, sync):
    (sweep / "journal.jsonl").write_text("")
    again = f"bridge-runner sync {sweep} --watch"
    assert sync(sweep) == (2, "", f"error: {sweep} has no run that has ended.\n  Try: {again}\n")


def test_running_sweeps_are_left_alone(server, sweep, sync):
    code = "import sys; from pathlib import Path; from runner.records import paths\n"
    code += "from runner.records.disk import files\n"
    code += "with files.locked(paths.SweepFolder(Path(sys.argv[1]))): print('locked', flush=True), input()"
    command = [sys.executable, "-c", code, str(sweep)]
    with Started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        said = sync(sweep)
        other.communicate("\n")
    reason = f"error: {sweep}: another process works on this sweep.\n  Try: wait for it, or sweep=another_name\n"
    assert said == (2, "", reason)


def test_a_project_gets_one_workspace(server, sweep, sync):
    code, out, err = sync(sweep, "--workspace")
    ((name, view),) = server.views.items()
    url = f"{server.url}/team/bridge-runner?nw={name.removeprefix('nw-').removesuffix('-v')}"
    assert (code, err, server.errors) == (0, "", [])
    assert f"\nworkspace by program: {url}\n" in out
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("team", "bridge-runner", "Programs")
    section = json.loads(view["spec"])["section"]
    assert section["runSets"][0]["grouping"] == [{"section": "config", "name": "program.value"}]
    run = server.runs[wandb_files.wandb_id(sweep.name, records(sweep)[0]["run_id"][:12])]
    assert "program" in run.config
    (charts,) = [part["panels"] for part in section["panelBankConfig"]["sections"]]
    scattered = [(chart["config"]["xAxis"], chart["config"]["yAxis"]) for chart in charts[:-1]]
    axes = [(f"config:{axis}.value", f"summary:{number}") for number, axis in payload.AXES.items()]
    assert scattered == axes[:2] and {"seed", "features"} <= run.config.keys() and "output/norm" in run.summary
    assert charts[-1]["config"] == {"xAxis": "train/step", "metrics": ["train/loss"]}
    # What wandb-workspaces wrote it reads back, and leaves as it is.
    assert f"\nworkspace by program, there before: {url}\n" in sync(sweep, "--workspace")[1]
    assert server.asked["UpsertView2"] == 1


def test_a_refused_workspace_is_reported(server, sweep, sync):
    server.fault = lambda what, sent: 403 if what == "UpsertView2" else None
    code, _, err = sync(sweep, "--workspace")
    assert (code, server.views, len(server.runs)) == (1, {}, 5)
    assert err.startswith(f"error: the W&B server at {server.url} saved no workspace: ") and err.count("\n") == 1


def test_workspaces_are_an_extra(server, sweep, sync, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    install = "pip install 'bridge-runner[workspaces]'"
    message = f"error: wandb-workspaces is not installed.\n  Try: {install}\n"
    assert (sync(sweep, "--workspace"), server.runs) == ((2, "", message), {})
    one = f"error: --workspace goes without --watch.\n  Try: bridge-runner sync {sweep} --workspace\n"
    assert sync(sweep, "--workspace", "--watch") == (2, "", one)
