"""Terminal output of a sweep: progress and results; the same in a pipe, without control characters."""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from runner.config.enums import Direction
from runner.errors import discard, visible
from runner.records.record import FailureKind, Record, Status
from runner.records.row import Row, Trial, best_trial
from runner.report import table
from runner.report.folding import paragraph

MAX_REASON_CHARACTERS = 200
MAX_PROGRAMS = 20


class _Console(Console):
    """A console that says nothing more once its reader has gone; what it tells of goes on."""

    def on_broken_pipe(self) -> None:
        """Called by Rich, which would end the process."""
        self.quiet = True
        discard(self.file)


class Terminal:
    """Prints progress and results to the terminal.

    Args:
      console: Where results go: standard output.
      errors: Where progress, warnings and failures go: standard error, so that a pipe gets results only.
    """

    def __init__(self, console: Console | None = None, errors: Console | None = None) -> None:
        self.console = console or _Console(highlight=False, soft_wrap=False)
        self.errors = errors or _Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._compiling: TaskID | None = None
        self._num_failed = 0
        self._failures: dict[str, list[int]] = {}
        self._not_moved: set[tuple[str, ...]] = set()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_progress()

    def started(self, plan: Any, num_pending: int) -> None:
        """Prints the head of a sweep and starts the progress bar."""
        self.line(head(plan, num_pending))
        if self.errors.is_terminal and num_pending > 1:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[failed]}"),
                TimeRemainingColumn(),
                console=self.errors,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("runs", total=num_pending, failed="")
            self._compiling = self._progress.add_task("", total=None, failed="", visible=False)

    def compiled(self, num: int, total: int) -> None:
        """Shows how many programs are compiled; until the first run has ended, in place of the bar of runs."""
        if self._progress is None or self._task is None or self._compiling is None:
            return
        going_on = num < total
        text = f"compiling {num + 1} of {total} programs"
        self._progress.update(self._compiling, description=text, completed=num, total=total, visible=going_on)
        none_ended = not self._progress.tasks[self._task].completed
        self._progress.update(self._task, visible=not (going_on and none_ended))

    def finished(self, record: Record, folder: Any) -> None:
        """Counts a run; reports a failure at once, and each set of leaves that training did not change, once.

        Equal failures are reported once, and counted at the end.
        """
        if record.status is Status.failed and record.error is not None:
            self._num_failed += 1
            reason = shorten(f"{record.error.kind.value}: {record.error.message or record.error.type}")
            alike = self._failures.setdefault(reason, [])
            alike.append(record.num)
            if len(alike) == 1:
                self.warned(f"run {record.num} failed: {reason}  ({folder.record})")
                if record.error.kind is FailureKind.check and any(check.fix for check in record.checks):
                    self.warned(f"  what fixes it: bridge-runner show {folder.record.parent}")
        if record.train is not None and record.train.not_moved:
            self._say_not_moved(record.num, tuple(record.train.not_moved))
        self.advanced()

    def advanced(self) -> None:
        """Advances the bar by one run."""
        if self._progress is not None and self._task is not None:
            failed = f"{self._num_failed} failed" if self._num_failed else ""
            self._progress.update(self._task, advance=1, failed=failed, visible=True)

    def _say_not_moved(self, num: int, paths: tuple[str, ...]) -> None:
        if paths not in self._not_moved:
            self._not_moved.add(paths)
            self.warned(shorten(f"run {num}: training did not move {', '.join(paths)}"))

    def warned(self, text: str) -> None:
        """Prints one line to standard error."""
        # Text, not markup: a layer may be called [red].
        self.errors.print(Text(visible(text)), soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Shows a bar on standard error for `total` steps; call the yielded function after each."""
        if not self.errors.is_terminal or total < 2:
            yield lambda: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.errors, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)

    def line(self, text: str) -> None:
        """Prints one line to standard output."""
        self.console.print(Text(visible(text)), soft_wrap=True)

    def plain_table(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Prints mappings with the same keys as a table."""
        self.console.print(table.plain_table(lines, width=self.console.width), soft_wrap=True)

    def notes(self, texts: Sequence[str]) -> None:
        """Prints sentences to standard output, folded at words on a terminal."""
        for text in texts:
            folded = paragraph("", text, self.console.width) if self.console.is_terminal else [text]
            self.line("\n  ".join(folded))

    def verdict(self, text: str) -> None:
        """Prints a sentence to standard output; on a terminal folded at words, a command at its end in one piece."""
        said, colon, command = text.rpartition(": bridge-runner ")
        if not (self.console.is_terminal and colon):
            self.notes([text])
            return
        self.notes([f"{said}:"])
        self.line(f"  bridge-runner {command}")

    def results(self, rows: Sequence[Row], *, max_rows: int = table.MAX_ROWS) -> Mapping[str, Sequence[Any]]:
        """Prints the table of runs; returns what varied, as `table.varied` does."""
        self._end_progress()
        if not rows:
            return {}
        width, axes = self.console.width, table.varied(rows)
        columns = table.all_columns(rows, axes)
        self.console.print(table.runs_table(rows, width=width, max_rows=max_rows, columns=columns), soft_wrap=True)
        if len(rows) > max_rows:
            self.line(f"… and {len(rows) - max_rows} more: bridge-runner ls SWEEP")
        self.notes(table.notes(rows, width=width, columns=columns))
        return axes

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        for first, *others in self._failures.values():
            if others:
                runs = "run" if len(others) == 1 else "runs"
                self.warned(f"as run {first}, {len(others)} more {runs} failed: {spans(others)}")
        self._failures.clear()


def head(plan: Any, num_pending: int) -> str:
    """One line on what a sweep is about to do."""
    if plan.study is not None:
        goal = f"{plan.study['direction']} {plan.study['objective']}"
        return f"{plan.folder.name}: {goal} · {plan.study['n_trials']} trials, {num_pending} to come"
    num_runs, num_programs = len(plan.tasks), len(plan.drafts)
    parts = [f"{num_runs} run{'s' * (num_runs != 1)}", f"{num_programs} program{'s' * (num_programs != 1)}"]
    if plan.num_configs > num_runs:
        parts.append(f"{plan.num_configs - num_runs} equal configs left out")
    counts = plan.counts()
    if set(counts) != {"new"}:
        parts.append(", ".join(f"{number} {state}" for state, number in counts.items()))
        parts.append(f"{num_pending} to do")
    return f"{plan.folder.name}: {' · '.join(parts)}"


def spans(numbers: Sequence[int]) -> str:
    """Numbers as ranges: `1–3, 7`."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join("–".join(map(str, ends)) for ends in found)


def describe_study(plan: Mapping[str, Any], trials: Sequence[Trial]) -> list[str]:
    """The outcome of a search: the number of trials told, the best of them, and the command that reproduces its run.

    Args:
      plan: Its sweep's plan, as written.
      trials: The trials told to the study.
    """
    study = plan["study"]
    num_failed = sum(trial.value is None for trial in trials)
    num_runs = len({trial.run_id for trial in trials if trial.run_id})
    parts = [f"{len(trials)} of {study['n_trials']} told", f"{num_runs} runs"]
    parts += [f"{num_failed} failed"] if num_failed else []
    lines = [f"trials      {', '.join(parts)}"]
    best = best_trial(trials, greatest=study["direction"] == Direction.maximize.value)
    if best is not None:
        run = next(run for run in plan["runs"] if run["run_id"] == best.run_id)
        typed = [text for text in run["overrides"] if not text.startswith("sweep=")]
        lines.append(f"best        {study['objective']} {best.value:.6g}, trial {best.number}: {run['folder']}")
        lines.append(f"            {shlex.join(['bridge-runner', *typed])}")
    return lines


def describe_plan(plan: Any, trials: Sequence[Trial] = ()) -> list[str]:
    """What a sweep would do: its head, its programs and their pending runs; for a search, its search space.

    Args:
      plan: The plan.
      trials: A search's trials told so far.
    """
    if plan.study is not None:
        lines = [head(plan, max(plan.study["n_trials"] - len(trials), 0)), f"  folder      {plan.folder.path}"]
        lines += [f"  space       {key}={typed}" for key, typed in plan.study["space"].items()]
        return [*lines, f"  sampler     {plan.study['sampler']}, {plan.study['n_jobs']} asked for together"]
    pending = plan.pending()
    lines = [head(plan, len(pending)), f"  folder      {plan.folder.path}"]
    todo = Counter(task.program_key for task in pending)
    runs = Counter(task.program_key for task in plan.tasks)
    jobs = {task.program_key: task.job for task in reversed(plan.tasks)}
    for key in list(runs)[:MAX_PROGRAMS]:
        job = jobs[key]
        typed = " ".join(text for text in job.overrides if not text.startswith("seed="))
        what = f"{job.run.layer.label} on x {plan.drafts[key].x.dtype}{job.run.input_shape}, {job.run.device}"
        lines.append(f"  program     {runs[key]} runs, {todo[key]} to do: {what}  {typed}".rstrip())
    if len(runs) > MAX_PROGRAMS:
        lines.append(f"  … and {len(runs) - MAX_PROGRAMS} more programs")
    return lines


def shorten(text: str) -> str:
    """`text` on one line, truncated to a readable length."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_REASON_CHARACTERS else f"{text[: MAX_REASON_CHARACTERS - 1]}…"
