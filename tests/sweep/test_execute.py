"""Sweeps end to end, through the command: what they leave, what they skip, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
import yaml
from failing_layers import LAYERS
from started_processes import Started
from told_reporter import Reporter
from wandb_reader import read_offline_run

from runner.arrays import trees
from runner.bridge.example import nnx_inside_linen
from runner.checks import registry
from runner.commands import main
from runner.config.composing.composed import Config
from runner.records import store
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import FailureKind, Status
from runner.sweep import execute as engine
from runner.sweep.plan import make_plan
from runner.tracking import payload
from runner.tracking.pool import InlineTracking
from runner.tracking.tracker import NullTracker

LEAN = ("tracking=disabled", "timing=off", "checks=off")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_layers.py").write_text(LAYERS)
    sys.modules.pop("my_layers", None)
    return tmp_path


def sweep(*words: str) -> int:
    return main.main(["-m", *words])


def only_sweep(here: Path) -> SweepFolder:
    (folder,) = (here / "outputs").iterdir()
    return SweepFolder(folder)


def all_records(folder: SweepFolder):
    found = [store.read_record(RunFolder(path)) for path in (folder.path / "runs").iterdir()]
    return sorted(found, key=lambda record: record.num)


def bits(record):
    return [leaf.digest for leaf in record.variables], [array.digest for array in record.output]


def test_runs_leave_all_their_files(here):
    assert sweep("seed=0,1,2", "features=8,32", "timing=quick", "tracking=disabled") == 0
    folder = only_sweep(here)
    records = all_records(folder)
    assert [record.num for record in records] == list(range(6))
    for record in records:
        run = folder.run(record.num, record.run_id)
        restored = ocp.PyTreeCheckpointer().restore(run.checkpoint)
        assert trees.tree_digest(trees.leaves(restored)) == record.checkpoint.digest
        assert trees.array_digest(np.load(run.path / "output.npy")) == record.output[0].digest
        assert yaml.safe_load((run.hydra / "config.yaml").read_text())["seed"] == record.settings["seed"]
        assert yaml.safe_load((run.hydra / "overrides.yaml").read_text()) == list(record.overrides)


@pytest.mark.slow
def test_equal_sweeps_have_equal_checkpoints(here):
    sizes = []
    for root in ("here", "in/a/longer/path"):
        assert main.main(["-m", "seed=0,1", *LEAN, "sweep=s", f"output_root={root}"]) == 0
        folders = sorted(Path(root, "s", "runs").iterdir())
        sizes.append([store.read_record(RunFolder(folder)).checkpoint.num_bytes for folder in folders])
    assert sizes[0] == sizes[1]


def test_swept_runs_equal_standalone_runs(here):
    sweep("seed=3,4", "features=5,8", *LEAN)
    swept = all_records(only_sweep(here))
    for record in (swept[0], swept[-1]):  # another seed and another program
        assert main.main([*record.overrides, "output_root=alone", f"sweep=run{record.num}"]) == 0
        (alone,) = all_records(SweepFolder(here / "alone" / f"run{record.num}"))
        assert (alone.result_id, bits(alone)) == (record.result_id, bits(record))


@pytest.mark.slow
def test_linear_layer_equals_the_worked_example(here):
    sweep("seed=0,7,123", "input_shape=[1],[5],[64]", "features=1,3,65", "grid.zip=[[input_shape,features]]", *LEAN)
    for record in all_records(only_sweep(here)):
        settings = record.settings
        x = np.random.default_rng(0).standard_normal(settings["input_shape"]).astype(np.float32)
        expected = nnx_inside_linen(settings["seed"], x, settings["features"])
        assert record.output[0].digest == trees.array_digest(np.asarray(expected))


@pytest.mark.slow
def test_each_program_compiles_once(here):
    sweep("seed=0,1,2", "features=8,9", *LEAN)
    here_first = [record.timing.compiled_here for record in all_records(only_sweep(here))]
    assert here_first == [True, True, False, False, False, False]


TRACED = """
from pathlib import Path
from flax import nnx

class Traced(nnx.Linear):
    def __call__(self, x):
        with Path("traces").open("a") as file:
            file.write("call\\n")
        return super().__call__(x)
"""


@pytest.mark.slow
def test_checks_run_once_per_program(here):
    (here / "traced.py").write_text(TRACED)
    layer = ["layer=custom", "layer.target=traced.Traced", "layer.kwargs.in_features=4", "layer.kwargs.out_features=2"]
    lean = [*layer, "tracking=disabled", "timing=off", "checks.eager=never"]
    traces = {}
    for name, words in {"one": ["seed=0"], "four": ["seed=0,1,2,3"], "off": ["seed=0,1,2,3", "checks=off"]}.items():
        (here / "traces").unlink(missing_ok=True)
        assert sweep(*lean, *words, f"sweep={name}") == 0
        traces[name] = len((here / "traces").read_text().splitlines())
    assert traces["one"] == traces["four"] > traces["off"]


@pytest.mark.slow
def test_checks_reach_records_and_wandb(here):
    assert sweep("layer=lora,linear", "seed=0,1", "timing=off", "checks.eager=never", "sweep=s") == 0
    records = {record.run_id: record for record in all_records(SweepFolder(here / "outputs" / "s"))}
    found = [read_offline_run(path)["summary"] for path in (here / "outputs" / "s" / "wandb").glob("offline-run-*")]
    shown = {summary["run_id"]: summary for summary in found if "run_id" in summary}
    assert shown.keys() == records.keys()
    for run_id, record in records.items():
        checks = {check.name: check for check in record.checks}
        asked = [name for name in registry.TRACED if name not in registry.ASKED_IF]
        assert list(checks)[: len(asked)] == asked
        assert shown[run_id]["checks"] == payload.verdicts_of(record)
        lora = ["LoRAParam/lora/lora_a", "LoRAParam/lora/lora_b"] if record.layer == "lora" else None
        assert checks["trained"].evidence.get("outside") == lora


@pytest.mark.slow
def test_contended_compile_times_are_flagged(here):
    sweep("features=8,9", *LEAN)
    assert main.main(["output_root=alone", "sweep=one", *LEAN]) == 0
    (alone,) = all_records(SweepFolder(here / "alone" / "one"))
    assert not alone.timing.init.contended
    assert all(record.timing.init.contended for record in all_records(only_sweep(here)))


def test_repeating_a_sweep_does_nothing(here, capsys):
    sweep("seed=0,1,2", *LEAN)
    before = {path: path.stat().st_mtime_ns for path in only_sweep(here).path.rglob("record.json")}
    assert sweep("seed=0,1,2", *LEAN) == 0
    assert "3 runs · 1 program · 3 done · 0 to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in only_sweep(here).path.rglob("record.json")} == before


def test_equal_configs_run_once(here, capsys):
    assert sweep("layer=layer_norm", "features=8,16", "seed=0,0", *LEAN) == 0
    assert "1 run · 1 program · 3 equal configs left out" in capsys.readouterr().out
    assert len(all_records(only_sweep(here))) == 1


@pytest.mark.slow
def test_failing_runs_are_isolated_and_retried(here, capsys):
    words = ["layer=custom", "layer.target=my_layers.Fails", "layer.kwargs.when=broken,whole", "seed=0,1", *LEAN]
    (here / "broken").touch()
    assert sweep(*words) == 1
    captured = capsys.readouterr()
    assert "2 of 4 runs done, 2 failed" in captured.out
    assert "run 0 failed: other: RuntimeError: the cable is out  (" in captured.err
    (here / "broken").unlink()
    assert sweep(*words) == 0
    assert "4 runs · 2 programs · 2 done, 2 failed · 2 to do" in capsys.readouterr().out


def test_failed_runs_record_kind_and_traceback(here):
    (here / "broken").touch()
    code = sweep("layer=custom", "layer.target=my_layers.Fails", "layer.kwargs.when=broken,whole", *LEAN)
    failed, done = all_records(only_sweep(here))
    assert code == 1
    assert (failed.status, done.status) == (Status.failed, Status.done)
    assert failed.error.kind is FailureKind.other
    assert "my_layers.py" in failed.error.traceback
    assert failed.error.traceback.endswith("in look\nRuntimeError: the cable is out")
    assert failed.checkpoint is None


@pytest.mark.slow
def test_nan_output_fails_a_strict_run(here, capsys):
    words = ["layer=custom", "layer.target=my_layers.Divides", "layer.kwargs.by=0.0,1.0", "tracking=disabled"]
    assert sweep(*words) == 1
    assert "run 0 failed: non-finite output: 4 of 4 elements are NaN or infinite  (" in capsys.readouterr().err
    assert sweep(*words, "checks=warn") == 0


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["failure.action=stop", "failure.max=1"])
def test_sweeps_may_stop_at_a_failure(policy, here, capsys):
    (here / "broken").touch()
    words = ["layer=custom", "layer.target=my_layers.Fails", "layer.kwargs.when=broken,whole", *LEAN]
    assert sweep(*words, policy) == 1
    assert f"0 of 2 runs done, 1 failed; stopped by {policy}" in capsys.readouterr().out
    (here / "broken").unlink()
    assert sweep(*words, policy) == 0


@pytest.mark.slow
def test_retry_none_leaves_failed_runs_alone(here, capsys):
    (here / "broken").touch()
    words = ["layer=custom", "layer.target=my_layers.Fails", "layer.kwargs.when=broken", "seed=0,1", *LEAN]
    assert sweep(*words) == 1
    (here / "broken").unlink()
    assert sweep(*words, "failure.retry=none") == 1
    assert "2 failed · 0 to do" in capsys.readouterr().out


@pytest.mark.slow
def test_retried_runs_are_archived(here):
    (here / "broken").touch()
    words = ["layer=custom", "layer.target=my_layers.Fails", "layer.kwargs.when=broken,x", *LEAN]
    sweep(*words)
    (here / "broken").unlink()
    sweep(*words)
    names = sorted(path.name for path in (only_sweep(here).path / "runs").iterdir())
    assert [name.endswith(".old-1") for name in names] == [False, True, False]


@pytest.mark.slow
def test_truncated_records_are_redone(here, capsys):
    sweep("seed=0,1", *LEAN)
    record = min(only_sweep(here).path.rglob("record.json"))
    whole = json.loads(record.read_text())
    record.write_text(record.read_text()[:300])
    assert sweep("seed=0,1", *LEAN) == 0
    assert "1 done, 1 damaged · 1 to do" in capsys.readouterr().out
    assert json.loads(record.read_text())["variables"] == whole["variables"]


@pytest.mark.slow
def test_torn_journal_lines_cost_no_run(here, capsys):
    sweep("seed=0,1", *LEAN)
    journal = only_sweep(here).journal
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    assert sweep("seed=0,1", *LEAN) == 0
    assert "2 done · 0 to do" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("plugins", [["hydra/sweeper=basic"], ["hydra/launcher=basic"]])
def test_other_sweepers_run_the_same_configs(plugins, here):
    assert sweep("seed=0,1", *LEAN, *plugins, "hydra.sweep.dir=there") == 0
    found = [store.read_record(RunFolder(path.parent)) for path in (here / "there").rglob("record.json")]
    assert sweep("seed=0,1", *LEAN) == 0
    ours = all_records(only_sweep(here))
    assert sorted(map(bits, found)) == sorted(map(bits, ours))


@pytest.mark.slow
def test_a_failed_run_ends_another_sweeper(here, capsys):
    (here / "broken").touch()
    words = ["layer=custom", "layer.target=my_layers.Fails", "layer.kwargs.when=broken", *LEAN]
    assert sweep(*words, "hydra/sweeper=basic") == 1
    error = capsys.readouterr().err
    assert "run 0 failed: other: RuntimeError: the cable is out" in error
    assert "Hydra can't read" not in error


@pytest.mark.slow
def test_devices_do_not_change_the_bits(here):
    code = "import sys; from runner.commands import main; sys.exit(main.main(sys.argv[1:]))"
    words = ["-m", "device=cpu:0,cpu:1", "process.num_cpu_devices=2", *LEAN]
    subprocess.run([sys.executable, "-c", code, *words], check=True, timeout=120, capture_output=True)
    first, second = all_records(only_sweep(here))
    assert [first.device, second.device] == ["cpu:0", "cpu:1"]
    assert bits(first) == bits(second)


@pytest.mark.slow
def test_a_pipe_gets_no_control_characters(here):
    command = [sys.executable, "-m", "runner", "-m", "seed=range(0,8)", "tracking=disabled", "timing=off"]
    done = subprocess.run(command, check=True, timeout=120, capture_output=True)
    assert done.stderr == b""
    assert b"\x1b" not in done.stdout
    assert b"\r" not in done.stdout
    assert done.stdout.decode().count("done") == 9


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_sweeps_keep_finished_runs(number, here):
    words = ["-m", "seed=range(0,100)", "tracking=disabled", "timing=off", "sweep=long"]
    command = [sys.executable, "-m", "runner", *words]
    process = Started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    journal = here / "outputs" / "long" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not journal.exists() or journal.read_text().count("done") < 5):
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    num_done = journal.read_text().count('"done"')
    assert f"{num_done} of 100 runs done; stopped by you" in out.decode()
    soon = ", or in 30 s" if number is signal.SIGTERM else ""
    assert f"stopping after the current run{soon}; Ctrl-C again stops now" in err.decode()
    assert 5 <= num_done < 100
    again = subprocess.run(command, check=True, timeout=120, capture_output=True)
    assert f"{num_done} done, {100 - num_done} new · {100 - num_done} to do" in again.stdout.decode()
    assert len(all_records(SweepFolder(journal.parent))) == 100


@pytest.mark.slow
def test_one_sweep_allows_one_process(here):
    (here / "waiting_layers.py").write_text(LAYERS)
    (here / "until").write_text("wait")
    layer = ["layer=custom", "layer.target=waiting_layers.Waits", "+layer.kwargs.until=until"]
    words = ["-m", *layer, "seed=0,1", "tracking=disabled", "timing=off", "checks=off", "sweep=shared"]
    lock = here / "outputs" / "shared" / "journal.jsonl"
    with Started([sys.executable, "-m", "runner", *words], stdout=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not lock.exists():
            time.sleep(0.02)
        second = subprocess.run([sys.executable, "-m", "runner", *words], timeout=60, capture_output=True)
        (here / "until").write_text("go")
        assert first.wait(timeout=60) == 0
    assert second.returncode == 2
    assert second.stderr.decode() == (
        "error: outputs/shared: another process works on this sweep.\n  Try: wait for it, or sweep=another_name\n"
    )
    assert len(all_records(SweepFolder(lock.parent))) == 2


LONG = """
import time
from pathlib import Path
import jax
from flax import nnx

class Long(nnx.Linear):
    def __call__(self, x):
        def pause(y):
            Path("called").touch()
            time.sleep(0.01)
            return y

        y = super().__call__(x)
        return jax.pure_callback(pause, jax.ShapeDtypeStruct(y.shape, y.dtype), y)
"""


@pytest.mark.slow
def test_second_ctrl_c_stops_immediately(here):
    (here / "long_layers.py").write_text(LONG)
    layer = ["layer=custom", "layer.target=long_layers.Long", "+layer.kwargs={in_features:4,out_features:4}"]
    minutes = ["timing=quick", "timing.rounds=100000", "timing.turns=false"]
    words = ["-m", *layer, *minutes, "seed=0,1", "tracking=disabled", "checks=off", "sweep=long"]
    command = [sys.executable, "-m", "runner", *words]
    with Started(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (here / "called").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert first == "stopping after the current run; Ctrl-C again stops now. The same command goes on later.\n"
    assert (process.returncode, rest) == (130, "error: interrupted\n")
    assert main.main(["plan", *words[1:]]) == 0


@pytest.mark.slow
def test_persistent_compilation_cache_can_be_enabled(here):
    command = [sys.executable, "-m", "runner", "-m", "seed=0,1", "process.compilation_cache=cache", *LEAN]
    for sweep_name in ("first", "second"):
        subprocess.run([*command, f"sweep={sweep_name}"], check=True, timeout=120, capture_output=True)
    folders = [SweepFolder(here / "outputs" / name) for name in ("first", "second")]
    timings = [[record.timing for record in all_records(folder)] for folder in folders]
    labels = [{(one.init.cache, one.apply.cache) for one in some} for some in timings]
    assert labels == [{("cold", "cold")}, {("warm", "warm")}]


@pytest.mark.slow
def test_a_second_start_compiles_what_is_timed(here, tmp_path):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    command = [sys.executable, "-m", "runner", "process.compilation_cache=auto", "tracking=disabled", "timing=off"]
    for name in ("first", "second"):
        env = {**clean, "XDG_CACHE_HOME": str(tmp_path / "caches")}
        subprocess.run([*command, f"sweep={name}"], check=True, timeout=300, capture_output=True, env=env)
    (first,), (second,) = (all_records(SweepFolder(here / "outputs" / name)) for name in ("first", "second"))
    assert list((tmp_path / "caches").rglob("*-cache"))
    assert {one.timing.init.cache for one in (first, second)} == {"off"}
    # Read from a cache it would be a hundredth.
    assert second.timing.init.compile_s > 0.2 * first.timing.init.compile_s
    assert [array.digest for array in second.output] == [array.digest for array in first.output]


@pytest.mark.slow
def test_zip_and_exclude_shape_the_sweep(here):
    assert sweep("seed=0,1,2", "features=4,5,6", "grid.zip=[[seed,features]]", "grid.exclude=['seed==1']", *LEAN) == 0
    found = [(record.settings["seed"], record.settings["features"]) for record in all_records(only_sweep(here))]
    assert found == [(0, 4), (2, 6)]


@pytest.mark.slow
def test_untracked_runs_are_tracked_later(here):
    sweep("seed=0,1", "timing=off", "tracking=disabled")
    assert not (only_sweep(here).path / "wandb").exists()
    assert sweep("seed=0,1", "timing=off") == 0
    assert len(list((only_sweep(here).path / "wandb").glob("offline-run-*"))) == 3
    assert all(record.timing.tracker_s > 0 for record in all_records(only_sweep(here)))


@pytest.mark.slow
def test_skipped_eager_checks_name_the_run(here):
    assert sweep("seed=0,1", "tracking=disabled", "timing=off") == 0
    details = [
        [check.detail for check in record.checks if check.name == "eager"] for record in all_records(only_sweep(here))
    ]
    said = "compared on run 0 of this sweep: checks.eager=program compares every program"
    assert details == [["init and apply give the same bits compiled and eager"], [said]]


class Tells(NullTracker):
    """Tracks nothing, and keeps what it was asked and whether that was in the sweep's own thread."""

    def __init__(self):
        self.asked = []

    def warm(self):
        self.asked.append(("warm", threading.current_thread() is threading.main_thread()))

    def log(self, record, output, run_dir):
        self.asked.append(("log", threading.current_thread() is threading.main_thread()))


@pytest.mark.slow
@pytest.mark.parametrize(("words", "times"), [(("checks=strict",), 1), (("checks=off",), 0)])
def test_tracker_warms_up_at_most_once(words, times, make_run, tmp_path):
    runs = [make_run(*words, "timing=off", "checkpoint=none", f"seed={seed}") for seed in range(3)]
    plan = make_plan([Config(run=run) for run in runs], lambda name: SweepFolder(tmp_path))
    tracker, reporter = Tells(), Reporter()
    engine.execute(plan, tracking=lambda **_: InlineTracking(tracker), reporter=reporter)
    assert tracker.asked == [("warm", False)] * times + [("log", True)] * 3
    assert reporter.said == []
