"""The summary of a report, in words: what was requested, the verdict, failures, machine and software. Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from runner.config.enums import Direction
from runner.errors import literal
from runner.records import plan_form
from runner.records.record import Verdict
from runner.records.row import Trial, best_trial
from runner.report import table

MAX_REASONS = 50
MAX_RUNS = 5
MAX_VALUES = 8

Columns = Mapping[str, Sequence[Any]]


def head(
    plan: Mapping[str, Any], axes: Columns, columns: Columns, pool: Sequence[Any], trials: Sequence[Trial] = ()
) -> dict[str, Any]:
    """The whole summary as JSON data.

    Args:
      plan: The sweep's plan, as in `sweep.json`.
      axes: The config keys that distinguish the runs, with one value per run.
      columns: The columns of `runner.report.html.data.Report.data`.
      pool: The values that indices in the columns refer to.
      trials: A search's trials told to the study.
    """
    return {
        "sweep": plan["sweep"],
        "asked": _asked(plan, axes),
        "search": _search(plan, trials, columns["label"]),
        "verdict": _verdict(columns, pool),
        "failures": _failures(columns, pool),
        "environments": _environments(columns, pool),
    }


def _asked(plan: Mapping[str, Any], axes: Columns) -> dict[str, Any]:
    command = plan["origin"].get("command")
    return {
        "command": f"bridge-runner {shlex.join(command)}".strip() if plan_form.are_words(command) else None,
        "num_configs": plan["num_configs"],
        "num_runs": len(plan["runs"]),
        "num_programs": len({run["program_id"] for run in plan["runs"]}),
        "written_at": plan["written_at"][:16].replace("T", " "),
        "axes": {key: _in_words(values) for key, values in axes.items()},
    }


def _search(plan: Mapping[str, Any], trials: Sequence[Trial], labels: Sequence[str]) -> dict[str, Any] | None:
    """The goal of a search, and the best result it found; None if the sweep is not a search."""
    study = plan.get("study")
    if study is None:
        return None
    best = best_trial(trials, greatest=study["direction"] == Direction.maximize.value)
    places = {run["run_id"]: place for place, run in enumerate(sorted(plan["runs"], key=lambda run: run["num"]))}
    return {
        "goal": f"{study['direction']} {study['objective']}",
        "space": study["space"],
        "sampler": study["sampler"],
        "num_told": len(trials),
        "num_wanted": study["n_trials"],
        "num_failed": sum(trial.value is None for trial in trials),
        "best": best
        and {
            "value": _in_unit(best.value, study["objective"]),
            "trial": best.number,
            "asked": " ".join(best.overrides),
            "run": labels[places[best.run_id]] if best.run_id in places else None,
        },
    }


def _in_unit(value: float | None, name: str) -> str:
    """A value of the results column `name`: as a time, a size or a number."""
    if value is None or name.endswith("_s"):
        return table.duration(value)
    return table.size(round(value)) if name.endswith("_bytes") else f"{value:.6g}"


def _in_words(values: Sequence[Any]) -> str:
    """The distinct values of an axis; if there are many, the first, the last and their number."""
    distinct = list(dict.fromkeys(literal(value) for value in values))
    if len(distinct) <= MAX_VALUES:
        return ", ".join(distinct)
    return f"{distinct[0]}, {distinct[1]} … {distinct[-1]} ({len(distinct)} values)"


def _verdict(columns: Columns, pool: Sequence[Any]) -> dict[str, Any]:
    """How the sweep went: `level` (good, care, bad) and sentences."""
    counts = Counter(columns["status"])
    num_runs = len(columns["status"])
    said = [f"{counts['done']} of {num_runs} runs done"]
    said += [f"{counts[status]} {status}" for status in ("failed", "waiting") if counts[status]]
    answers = _answers(columns, pool)
    given = {verdict for verdicts in answers.values() for verdict in verdicts}
    bad = counts["failed"] or Verdict.fail.value in given
    careful = counts["waiting"] or Verdict.warn.value in given
    return {
        "level": "bad" if bad else "care" if careful else "good",
        "sentences": [", ".join(said), *_check_sentences(answers), *_time_sentences(columns, pool)],
    }


def _check_sentences(answers: Mapping[str, set[str]]) -> list[str]:
    if not answers:
        return []
    parts = []
    for verdict in (Verdict.fail.value, Verdict.warn.value):
        names = sorted(name for name, verdicts in answers.items() if verdict in verdicts)
        parts += [f"{verdict} for {', '.join(names)}"] if names else []
    return [f"{len(answers)} check{'s' * (len(answers) != 1)}: {'; '.join(parts) or 'each holds'}"]


def _time_sentences(columns: Columns, pool: Sequence[Any]) -> list[str]:
    """How many of the headline times, which come first, are flagged."""
    timed = [steady[0] for steady in columns["steady"] if steady and steady[0]]
    flagged = sum(bool(pool[one[-1]]) for one in timed)
    if not timed:
        return []
    care = f"{flagged} of {len(timed)} to be read with care ({table.FLAGGED})" if flagged else "none marked"
    return [f"times: {care}"]


def _answers(columns: Columns, pool: Sequence[Any]) -> dict[str, set[str]]:
    """The verdicts of each check that was run."""
    answers: dict[str, set[str]] = {}
    for place in {place for checks in columns["checks"] for place in checks}:
        name, verdict, *_ = pool[place]
        if verdict != Verdict.skipped.value:
            answers.setdefault(name, set()).add(verdict)
    return answers


def _failures(columns: Columns, pool: Sequence[Any]) -> list[dict[str, Any]]:
    """Each failure reason once, with the runs that failed for it; most frequent first."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for label, place in zip(columns["label"], columns["error"], strict=True):
        if place is not None:
            found.setdefault(tuple(pool[place][:3]), []).append(label)
    most = sorted(found.items(), key=lambda item: -len(item[1]))[:MAX_REASONS]
    return [
        {"kind": kind, "type": name, "message": message, "runs": runs[:MAX_RUNS], "num": len(runs)}
        for (kind, name, message), runs in most
    ]


def _environments(columns: Columns, pool: Sequence[Any]) -> list[dict[str, Any]]:
    """Machine and software, each with the number of its runs."""
    counts = Counter(place for place in columns["environment"] if place is not None)
    return [{"num_runs": number, **pool[place]} for place, number in counts.most_common()]
