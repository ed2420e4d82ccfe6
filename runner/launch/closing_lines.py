"""What a sweep prints when it ends: how it ended, where its files are, and what to type next."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from runner.config.dotted_keys import apart
from runner.config.wandb_environment import overruled
from runner.errors import listed
from runner.records import paths
from runner.records.paths import SweepFolder

if TYPE_CHECKING:
    from runner.config.settings.train import CheckpointSettings
    from runner.records.row import Row
    from runner.sweep.plan import Plan
    from runner.sweep.reporter import SweepOutcome

# From this many seeds on, one row for all of them is easier to read.
MANY_SEEDS = 5
MAX_NAMED = 4


def closing_lines(
    plan: Plan,
    outcome: SweepOutcome,
    rows: Sequence[Row],
    *,
    keep: CheckpointSettings,
    keys: Sequence[str] | None = None,
) -> list[str]:
    """How a sweep ended, where its files are, and what to type next.

    Args:
      plan: The plan of the sweep.
      outcome: How it ended.
      rows: Its runs.
      keep: Which checkpoints are kept.
      keys: `table.shown_keys(rows)`, if the caller has them.
    """
    from runner.records.record import Status
    from runner.report import aggregate
    from runner.tracking import registry

    folder = paths.shown(plan.folder.path)
    num_done = sum(row.status == Status.done.value for row in rows)
    num_failed = sum(row.status == Status.failed.value for row in rows)
    lines = [f"{num_done} of {len(rows)} runs done" + (f", {num_failed} failed" if num_failed else "")]
    if outcome.interrupted or outcome.stopped:
        lines[0] += f"; stopped by {outcome.stopped or 'you'}"
    if num_missing := len(rows) - num_done - num_failed:
        lines[0] += "" if outcome.interrupted or outcome.stopped else f", {num_missing} missing"
        lines.append("  go on       the same command again")
    if alike := _alike(rows):
        lines.append(f"  one output  {alike}")
    if plan.study is None and any(task.state.value == "stale" for task in plan.tasks):
        lines.append("  stale       done by other software; do them again with failure.retry=all")
    lines += [f"  {line}" for line in _searched(plan.folder)] if plan.study is not None else []
    lines.append(f"  records     {folder}/runs/*/record.json")
    if plan.folder.results.exists():
        lines.append(f"  results     {folder}/{plan.folder.results.name}")
    if plan.folder.report.exists():
        lines.append(f"  report      {folder}/{plan.folder.report.name}")
    if len({row.settings.get("seed") for row in rows}) >= MANY_SEEDS:
        lines.append(f"  over seeds  bridge-runner ls {folder} --by {aggregate.suggest(rows, keys)}")
    if plan.folder.checks.exists():
        lines.append(f"  checks      {folder}/{plan.folder.checks.name}")
    num_kept = sum(row.checkpoint_bytes is not None for row in rows)
    if num_kept:
        kept = "" if keep.num_kept is None else f", {num_kept} of {num_done} kept: {keep.sentence}"
        lines.append(f"  checkpoints {folder}/runs/*/checkpoint  (plain Orbax{kept})")
    if any(plan.folder.submissions()):
        lines.append(f"  jobs        {folder}/{plan.folder.jobs.name}")
    lines += _tracked(plan.folder, folder)
    looks = [registry.look(task.job.run.tracking, plan.folder.path) for task in plan.tasks[:1]]
    lines += [f"  look        {command}" for command in looks if command]
    lines += [f"  W&B         {sentence}" for task in plan.tasks[:1] for sentence in overruled(task.job.run.tracking)]
    return lines


def _alike(rows: Sequence[Row]) -> str | None:
    """Which seeds gave one output, by its norm, though a sweep over seeds expects several; None if none did."""
    groups: dict[Hashable, dict[int, float]] = {}
    for row in rows:
        if row.output_norm is not None and "seed" in row.settings:
            others = tuple(part.key for part in apart(row.settings))
            groups.setdefault(others, {})[row.settings["seed"]] = row.output_norm
    alike = [list(norms) for norms in groups.values() if len(norms) > 1 and len(set(norms.values())) == 1]
    if not alike:
        return None
    configs = f", in {len(alike)} of {len(groups)} configs" if len(groups) > 1 else ""
    seeds = listed([str(seed) for seed in sorted(alike[0])], MAX_NAMED)
    return f"seeds {seeds} give the same{configs}: nothing that the output depends on comes from the seed"


def _searched(folder: SweepFolder) -> list[str]:
    """The outcome of a search."""
    from runner.records import find, store
    from runner.report.terminal import describe_study

    return describe_study(store.read_plan(folder), find.read_trials(folder))


def _tracked(folder: SweepFolder, shown: str) -> list[str]:
    """Where to view the runs, and the command that uploads missing ones to W&B."""
    from runner.tracking import wandb_files

    found = wandb_files.find_offline_runs(folder.wandb)
    sent = wandb_files.read_sent(folder.wandb)
    urls = [sent[path.name] for path in found.values() if path.name in sent]
    lines = [f"  look        wandb leet {shown}/{folder.wandb.name}"] if found else []
    lines += [f"  online      {urls[-1].partition('/runs/')[0]}"] if urls else []
    lines += [f"  send        bridge-runner sync {shown}  (or wandb sync)"] if len(urls) < len(found) else []
    if folder.tensorboard.exists():
        lines.append(f"  look        tensorboard --logdir {shown}/{folder.tensorboard.name}")
    return lines
