"""What is there: sweeps, runs, one run. From plans, journals and records alone, without JAX, in well under a second."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.config.serialize import flatten
from runner.errors import StorageError, literal
from runner.launch import queue
from runner.records import find, journal, seeds, store
from runner.records.paths import SweepFolder
from runner.records.row import Row
from runner.report import table
from runner.report.terminal import Terminal, describe_study

# Between two looks at a journal.
WATCH_S = 0.5

DEFAULT_ROOT = Path("outputs")

# Longer values make a page of `show` unreadable; `--json` has them whole.
MAX_VALUE_CHARACTERS = 100


def ls(path: Path | None, *, as_json: bool, watch: bool = False, by: Sequence[str] = ()) -> int:
    """Prints the runs of the sweep at `path`, or the sweeps in it (by default in outputs/).

    Args:
      path: A sweep, or a folder of sweeps.
      as_json: Whether to print JSON instead of a table.
      watch: Whether to follow a sweep until it ends.
      by: Config keys; runs that share their values are shown as one row.

    Raises:
      UserError: There is no sweep, or its runs have no such key.
    """
    folder = SweepFolder(path) if path is not None else None
    terminal = Terminal()
    if folder is not None and folder.plan.exists():
        if watch:
            _watch(folder, terminal)
        rows = find.read_rows(folder)
        if by:
            return _ls_by(folder, rows, by, as_json=as_json)
        if as_json:
            print(json.dumps([vars(row) for row in rows]))  # asdict would copy every config
            return 0
        terminal.line(f"{folder.name}: {_counts(rows)}")
        if folder.trials.exists():
            for line in describe_study(store.read_plan(folder), find.read_trials(folder)):
                terminal.line(line)
        terminal.results(rows, max_rows=len(rows))
        return 0
    if by:
        raise StorageError(
            f"ls --by {','.join(by)}: {path or DEFAULT_ROOT} is no sweep", "bridge-runner ls SWEEP --by KEY"
        )
    root = path or DEFAULT_ROOT
    sweeps = find.find_sweeps(root)
    if not sweeps:
        raise StorageError(f"{root} holds no sweep", "bridge-runner -m seed=0,1,2, or bridge-runner ls FOLDER")
    lines = [_sweep_line(sweep) for sweep in sweeps]
    if as_json:
        print(json.dumps(lines))
    else:
        terminal.console.print(table.plain_table(lines))
    return 0


def _ls_by(folder: SweepFolder, rows: Sequence[Row], by: Sequence[str], *, as_json: bool) -> int:
    from runner.report import aggregate  # loads NumPy, a third of what any other ls takes

    groups = aggregate.by(rows, by)
    if as_json:
        print(json.dumps([dataclasses.asdict(group) for group in groups]))
        return 0
    terminal = Terminal()
    terminal.line(f"{folder.name}: {_counts(rows)}")
    terminal.console.print(table.plain_table(aggregate.lines(groups)))
    for note in aggregate.notes(groups):
        terminal.line(note)
    return 0


def show(path: Path, *, as_json: bool) -> int:
    """Prints one run: settings, output, times, checks, variables, files.

    Raises:
      StorageError: There is no run.
    """
    folder = find.find_run(path)
    text = folder.record.read_text()
    if as_json:
        print(text, end="")
        return 0
    record = store.read_json(folder.record)
    terminal = Terminal()
    for line in describe(record, folder.path):
        terminal.line(line)
    return 0


def _watch(folder: SweepFolder, terminal: Terminal) -> None:
    """Shows the last runs of a sweep as they come, until its journal says that it ended."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(console=terminal.console, transient=True, auto_refresh=False) as live:
        while True:
            rows = find.read_rows(folder)
            there = [row for row in rows if row.status in find.STATUSES]
            height = max(terminal.console.height - 6, 3)
            head = Text(f"{folder.name}: {_counts(rows)}")
            tail = table.runs_table(there[-height:], width=terminal.console.width) if there else Text("no run yet")
            live.update(Group(head, tail), refresh=True)
            if is_over(folder):
                return
            time.sleep(WATCH_S)


def is_over(folder: SweepFolder) -> bool:
    """Whether the last attempt at a sweep has ended: its journal says so, or nobody is left who works on it."""
    if journal.is_held(folder.trials):  # a search goes on between one submission and the next
        return False
    last = max(folder.submissions(), default=0)
    own = journal.read_journal(folder.journal)
    if own and int(own[-1].get("after", 0)) >= last and own[-1]["event"] == "end":
        return True
    if not last:
        return False
    submission = folder.submission(last)
    return not journal.is_held(submission.launcher) and not queue.living_jobs(submission)


def _counts(rows: Sequence[Row]) -> str:
    return ", ".join(f"{number} {status}" for status, number in Counter(row.status for row in rows).items())


def results(path: Path) -> int:
    """Writes the results (and `checks.md`, where claims were asked) of the sweep at `path` from its records.

    Raises:
      StorageError: There is no sweep, or a record is damaged.
    """
    from runner.sweep.outputs import Summary

    folder = SweepFolder(path)
    there = [row for row in find.read_rows(folder) if row.status != "missing"]
    summary = Summary()
    for record in store.read_records(folder.run(row.num, row.run_id) for row in there):
        summary.add(record)
    rows = summary.write(folder, [row.run_id for row in there])
    for path in (folder.results, folder.results_csv):
        Terminal().line(f"{path}: {len(rows)} runs")
    if folder.checks.exists():
        Terminal().line(f"{folder.checks}")
    return 0


def describe(record: Mapping[str, Any], path: Path) -> list[str]:
    """A record (as JSON data) in lines for the terminal."""
    lines = [f"{record['num']}-{record['run_id'][:8]} of {record['sweep']}: {record['status']}", f"  {path}"]
    lines += ["", "settings"]
    for key, value in flatten(record["settings"]).items():
        lines.append(f"  {key}={_short(literal(value))}")
    in_host = f" in host {record['host']}" if record.get("host") else ""
    lines += ["", f"layer {record['layer']}{in_host} on {record['device']}{_mesh(record.get('mesh'))}"]
    lines.append(f"  streams {', '.join(record['streams']) or '–'}; mutable {', '.join(record['mutable']) or '–'}")
    lines += ["", "variables", *_variables(record)]
    removed = (record["checkpoint"] or {}).get("removed")
    lines += [f"  the checkpoint was removed: {removed}"] if removed else []
    lines += ["", "seed (the same values natively)", *(f"  {line}" for line in seeds.story(record))]
    lines += ["", "output"]
    for array in record["output"]:
        numbers = " ".join(f"{key} {array[key]:.6g}" for key in ("norm", "mean", "std") if array[key] is not None)
        lines.append(f"  {array['path'] or 'y'} {array['dtype']}{array['shape']} {numbers}  {array['digest'][:12]}")
    if record.get("train"):
        lines += ["", "training", *_training(record["train"])]
    if record["timing"]:
        lines += ["", "times", *_times(record["timing"])]
    lines += ["", "checks"]
    for check in record["checks"]:
        lines.append(f"  {check['verdict']:<8}{check['name']}: {_short(check['detail'])}")
        if check["verdict"] == "no" and check.get("mend"):
            lines += [f"            {line}" for line in check["mend"].splitlines()]
    if record["error"]:
        error = record["error"]
        lines += ["", f"failed: {error['kind']}: {error['type']}: {error['message']}", error["traceback"]]
    lines += ["", f"again: bridge-runner rerun {path}"]
    return lines


def _mesh(mesh: Mapping[str, Any] | None) -> str:
    if mesh is None:
        return ""
    axes = ", ".join(f"{name}={size}" for name, size in mesh["axes"].items())
    processes = f" of {mesh['num_processes']} processes" if mesh["num_processes"] > 1 else ""
    return f": mesh {axes} over {len(mesh['devices'])} devices{processes}, x cut by {literal(mesh['x'])}"


def _variables(record: Mapping[str, Any]) -> list[str]:
    """A line a leaf: its path in Linen and in the native module, shape, bytes, digest, and axis names if it has any."""
    layer = seeds.layer_path(record)
    rows = [("Linen path", "NNX path", "array", "bytes", "digest", "spec")]
    for leaf in record["variables"]:
        spec = f"{literal(leaf['names'])} {leaf['box']}" if leaf["box"] else ""
        if leaf.get("spec") is not None:
            spec = f"{literal(leaf['spec'])}" + (f" by {spec}" if spec else "")
        rows.append(
            (
                "/".join(str(part) for part in leaf["path"]),
                seeds.nnx_path(leaf["path"], layer),
                f"{leaf['dtype']}{literal(leaf['shape'])}",
                str(leaf["num_bytes"]),
                leaf["digest"][:12],
                spec,
            )
        )
    if len(rows) == 1:
        return ["  none"]
    return table.columns(rows)


def _training(train: Mapping[str, Any]) -> list[str]:
    losses, first = train["losses"], train["first_step"]
    since = f" (from step {first})" if first else ""
    lines = [f"  {first + len(losses)} steps{since}, loss {losses[0]:.6g} to {losses[-1]:.6g}"]
    lines.append(f"  {'step':<17} {_phases(train['step'])} (cache {train['step']['cache']})")
    lines.append(f"  did not move: {', '.join(train['not_moved']) or 'none'}")
    if train.get("resumed_at"):
        lines.append(f"  went on at step {', '.join(map(str, train['resumed_at']))} after it was stopped")
    lines += [f"  {remark}" for remark in train.get("remarks", ())]
    return lines


def _phases(phases: Mapping[str, Any]) -> str:
    return ", ".join(f"{key[:-2]} {table.duration(phases[key])}" for key in phases if key.endswith("_s"))


def _times(timing: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in ("init", "apply"):
        phases = timing[name]
        shared = ", contended" if phases["contended"] else ""
        shared += "" if timing["compiled_here"] else ", compiled for another run"
        lines.append(f"  {name:<17} {_phases(phases)} (cache {phases['cache']}{shared})")
    for name in ("apply_latency", "apply_dispatch", "apply_throughput", "apply_device", "init_latency"):
        if timing.get(name):
            summary = timing[name]["summary"]
            interval = ""
            if summary["median_low_s"] is not None:
                low, high = table.duration(summary["median_low_s"]), table.duration(summary["median_high_s"])
                interval = f", 99 % of {low} to {high}"
            flags = f"  {table.FLAGGED} {', '.join(summary['flags'])}" if summary["flags"] else ""
            median = table.duration(summary["median_s"])
            lines.append(f"  {name:<17} {median}{interval}, n {summary['num_samples']}{flags}")
    for name in ("checkpoint_s", "tracker_s"):
        lines.append(f"  {name:<17} {table.duration(timing[name])}")
    for card in timing.get("cards", []):
        clocks = f"{card['clock_mhz']} of {card['max_clock_mhz']} MHz, memory {card['memory_clock_mhz']} MHz"
        others = f"{card['num_other_processes']} other processes"
        lines.append(
            f"  {'gpu ' + str(card['index']):<17} {card['name']}, {clocks}, {card['temperature_c']} °C, {others}"
        )
    return lines


def _sweep_line(sweep: SweepFolder) -> dict[str, Any]:
    plan = store.read_plan(sweep)
    last: dict[str, str] = {}
    for event in store.read_events(sweep):
        if event["event"] in find.STATUSES:
            last[event["run_id"]] = event["event"]
    counts = Counter(last.values())
    return {
        "sweep": str(sweep.path),
        "runs": len(plan["runs"]),
        "done": counts["done"],
        "failed": counts["failed"],
        "missing": len(plan["runs"]) - len(last),
        "written": plan["written_at"][:16].replace("T", " "),
    }


def _short(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 1]}…"
