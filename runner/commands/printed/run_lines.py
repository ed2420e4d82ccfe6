"""Formats a run's record for the terminal: settings, variables, output, times, checks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.config.dotted_keys import flatten
from runner.errors import literal
from runner.records import seeds
from runner.records.record import FailureKind
from runner.report import table
from runner.report.folding import paragraph

# The kind of failure of a run that a check refused.
CHECK = FailureKind.check.value

# Longer values make `show` unreadable; `--json` prints them in full.
MAX_VALUE_CHARACTERS = 100


def describe(record: Mapping[str, Any], path: Path, *, width: int) -> list[str]:
    """Formats a record (as JSON data) for a terminal of `width` columns."""
    lines = [f"{record['num']}-{record['run_id'][:8]} of {record['sweep']}: {record['status']}", f"  {path}"]
    lines += ["", "settings"]
    for key, value in flatten(record["settings"]).items():
        filled = "  (filled in)" if key in record.get("filled", ()) else ""
        lines.append(f"  {key}={_short(literal(value))}{filled}")
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
        lines += paragraph(f"  {check['verdict']:<8}{check['name']:<{table.CHECK_WIDTH}}  ", check["detail"], width)
        if check["verdict"] == "fail" and check.get("fix"):
            lines += [f"            {line}" for line in check["fix"].splitlines()]
    if record["error"]:
        error = record["error"]
        lines += ["", f"failed: {error['kind']}: {error['type']}: {error['message']}"]
        # Of a check that refuses the run, the fix above says more than our own lines.
        lines += [error["traceback"]] if error["kind"] != CHECK else []
    lines += ["", f"again: bridge-runner rerun {path}"]
    return lines


def _mesh(mesh: Mapping[str, Any] | None) -> str:
    if mesh is None:
        return ""
    axes = ", ".join(f"{name}={size}" for name, size in mesh["axes"].items())
    processes = f" of {mesh['num_processes']} processes" if mesh["num_processes"] > 1 else ""
    return f": mesh {axes} over {len(mesh['devices'])} devices{processes}, x cut by {literal(mesh['x'])}"


def _variables(record: Mapping[str, Any]) -> list[str]:
    """One line per leaf: its path in Linen and in the native module, shape, bytes, digest, and axis names if any."""
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
    for gpu in timing.get("gpus", []):
        clocks = f"{gpu['clock_mhz']} of {gpu['max_clock_mhz']} MHz, memory {gpu['memory_clock_mhz']} MHz"
        others = f"{gpu['num_other_processes']} other processes"
        lines.append(f"  {'gpu ' + str(gpu['index']):<17} {gpu['name']}, {clocks}, {gpu['temperature_c']} °C, {others}")
    return lines


def _short(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 1]}…"
