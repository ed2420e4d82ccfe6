"""What the terminal shows: the table of runs, notes below it, progress, and text as it is."""

from __future__ import annotations

import dataclasses
import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from runner.config import serialize
from runner.config.settings.run import Run
from runner.records.record import Check, Failure, FailureKind, Record, Status, TrainInfo, Verdict
from runner.records.row import Row, row_of
from runner.records.timing import Aggregate, Phases
from runner.report import table
from runner.report import terminal as report_terminal
from runner.report.terminal import Terminal

SETTINGS = serialize.to_data(Run())


def make_row(num: int, **values) -> Row:
    """A row that is done; names of config keys (`__` for the dot) go into its settings."""
    fields = {field.name for field in dataclasses.fields(Row)}
    data = {**SETTINGS, "layer": {**SETTINGS["layer"], "kwargs": {}}}
    for key, value in values.items():
        if key not in fields or key == "device":
            head, _, rest = key.partition("__")
            data[head] = {**data[head], rest: value} if rest else value
    given = {key: value for key, value in values.items() if key in fields}
    row = {"num": num, "run_id": f"{num}abcdef0123", "status": "done", "layer": "linear", "device": "cpu:0"}
    return Row(**(row | {"output_norm": 1.5, "apply_s": 2e-3, "checkpoint_bytes": 1234, "settings": data} | given))


def record(status: Status = Status.done, **values) -> Record:
    empty = dict.fromkeys(("run_id", "result_id", "timing_id", "program_id", "sweep", "started_at"), "x")
    given = {"num": 0, "status": status, "wall_s": 0.0, "overrides": [], "settings": SETTINGS, "platform": "cpu"}
    return Record(**(empty | given | {"layer": "linear", "device": "cpu:0"} | values))


def failure(kind: str, name: str, message: str) -> Failure:
    return Failure(kind=FailureKind[kind], type=name, message=message, traceback="")


def plan(num_runs: int = 3, *, num_configs: int | None = None, counts: dict[str, int] | None = None):
    return SimpleNamespace(
        tasks=[None] * num_runs,
        drafts=dict.fromkeys(range(2)),
        num_configs=num_configs or num_runs,
        counts=lambda: counts or {"new": num_runs},
        folder=SimpleNamespace(name="mine"),
        study=None,
    )


def on_terminal(width: int = 80) -> Terminal:
    """A terminal of `width` columns whose two streams are kept."""
    return Terminal(*(Console(file=io.StringIO(), width=width, force_terminal=True) for _ in range(2)))


def in_pipe(width: int = 80) -> Terminal:
    return Terminal(*(Console(file=io.StringIO(), width=width, highlight=False) for _ in range(2)))


def said(shown: Terminal) -> tuple[str, str]:
    return shown.console.file.getvalue(), shown.errors.file.getvalue()


def headings(rows, width):
    return re.split(r" {2,}", table.runs_table(rows, width=width).plain.splitlines()[0].strip())


FIXED = ["output norm", "apply", "saved", "status"]

WIDE = [
    make_row(
        seed,
        seed=seed,
        features=8 * seed + 8,
        input_shape=[4, seed + 1],
        device=f"cpu:{seed}",
        layer=f"a_layer_of_a_long_name_{seed}",
    )
    for seed in range(3)
]


@pytest.mark.parametrize(
    ("varied", "shown"),
    [
        ({}, []),
        ({"seed": [0, 1, 2]}, ["seed"]),
        ({"features": [8, 16, 8], "seed": [0, 0, 1]}, ["seed", "features"]),
        ({"input_shape": [[4], [8], [4]], "layer": ["linear", "linear", "mlp"]}, ["layer", "input_shape"]),
        ({"timing__rounds": [10, 10, 20], "seed": [0, 1, 1]}, ["seed", "timing.rounds"]),
        ({"layer": ["a", "b", "b"], "layer__name": ["a", "b", "b"], "layer__target": ["x", "y", "y"]}, ["layer"]),
        ({"layer": ["a", "b", "b"], "input__high": [None, 32, 32]}, ["layer"]),
        ({"seed": [0, 1, 2], "features": [8, 16, 32]}, ["seed", "features"]),
        ({"sweep": ["a", "b", "c"], "output_root": ["a", "b", "c"]}, []),
    ],
)
def test_tables_show_the_varying_axes(varied, shown):
    rows = [make_row(num, **{key: values[num] for key, values in varied.items()}) for num in range(3)]
    assert headings(rows, 200) == ["run", *shown, *FIXED]
    assert table.notes(rows, width=200) == []


def test_axes_stay_and_others_make_room():
    axes = ["layer", "seed", "input_shape", "features", "device"]
    assert headings(WIDE, 200) == ["run", *axes, *FIXED]
    assert headings(WIDE, 100) == ["run", *axes[:-1], "device", "output", "apply", "status"]
    assert headings(WIDE, 80) == ["run", "layer", "seed", "input_", "features", "device", "status"]
    assert table.notes(WIDE, width=80) == ["not shown at 80 columns: output norm, apply, saved"]
    assert table.notes(WIDE, width=200) == []


def test_what_does_not_fit_is_folded():
    typed = [f"layer.kwargs.a_long_name={[1000 + seed] * 9}" for seed in range(2)]
    rows = [
        make_row(seed, seed=seed, layer__kwargs={"a_long_name": [1000 + seed] * 9}, overrides=[typed[seed]])
        for seed in range(2)
    ]
    lines = table.runs_table(rows, width=46).plain.splitlines()
    assert max(map(len, lines)) <= 46
    assert [line[:16].split() for line in lines if line[0] in "01"] == [["0-0abcdef0", "0"], ["1-1abcdef0", "1"]]
    last = lines[next(place for place, line in enumerate(lines) if line.startswith("1")) :]
    assert "".join(line[16:38].strip() for line in last) == str([1001] * 9).replace(" ", "")


def test_typed_axes_are_columns_though_others_determine_them():
    values = {"features": [4, 8, 16], "train__learning_rate": [0.1, 0.2, 0.1]}
    rows = [make_row(num, **{key: given[num] for key, given in values.items()}) for num in range(3)]
    assert "train.learning_rate" not in headings(rows, 200)
    rows = [dataclasses.replace(row, overrides=["features=1", "+train.learning_rate=0.1"]) for row in rows]
    assert headings(rows, 200) == ["run", "features", "train.learning_rate", *FIXED]


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (None, "–"),
        (Aggregate(num=3, median=2e-5, low=None, high=None), "20 µs n 3"),
        (Aggregate(num=8, median=2e-5, low=1.9e-5, high=3.25e-5), "20 µs (19–32.5) n 8"),
        (Aggregate(num=8, median=9.9e-4, low=9.8e-4, high=1.1e-3), "990 µs (980 µs–1.1 ms) n 8"),
    ],
)
def test_medians_show_interval_and_count(one, said):
    assert table.spread(one, table.duration) == said


@pytest.mark.parametrize("width", [60, 80, 81, 100, 120, 200])
def test_table_lines_fit_the_terminal(width):
    shown = in_pipe(width)
    shown.console.print(table.runs_table(WIDE, width=width))
    lines = said(shown)[0].splitlines()
    assert max(map(len, lines)) <= width
    last = next(line for line in lines if line.startswith("2-2abcdef0 "))
    assert all(value in last for value in ("[4,3]", "24", "cpu:2", "done"))
    assert "…" not in "".join(lines)


def test_tables_have_one_line_per_run():
    rows = [make_row(0, apply_flags=["short"]), make_row(1, seed=1, status="failed", output_norm=None, apply_s=None)]
    shown = in_pipe()
    shown.results([rows[0], dataclasses.replace(rows[1], checkpoint_bytes=None)])
    heading, _, first, second, note = said(shown)[0].splitlines()
    assert heading.split("  ")[0] == "run"
    assert first.split() == ["0-0abcdef0", "0", "1.5", "~2", "ms", "1.23", "kB", "done"]
    assert second.split() == ["1-1abcdef0", "1", "–", "–", "–", "failed"]
    assert note == "~ read with care: 1 under 1 ms a sample (timing=careful loops)"


def test_long_tables_name_the_rest():
    rows = [make_row(num, seed=num) for num in range(table.MAX_ROWS + 2)]
    shown = in_pipe()
    shown.results(rows)
    lines = said(shown)[0].splitlines()
    assert len(lines) == 2 + table.MAX_ROWS + 1
    assert lines[-1] == "… and 2 more: bridge-runner ls SWEEP"
    shown.results(rows, max_rows=len(rows))
    assert said(shown)[0].count("done") == 2 * table.MAX_ROWS + 2


def test_no_rows_are_no_table():
    shown = in_pipe()
    shown.results([])
    assert said(shown) == ("", "")


def test_notes_fold_at_words_on_terminals():
    rows = [make_row(0, apply_flags=["short", "spread"])]
    for make, folded in ((on_terminal, True), (in_pipe, False)):
        shown = make(60)
        shown.results(rows)
        *_, first, last = said(shown)[0].splitlines()
        assert last.startswith("  ") == folded and (max(len(first), len(last)) <= 60) == folded


def test_commands_of_a_verdict_stay_whole():
    text = (
        "verdict: "
        + "words of a sentence " * 5
        + "to settle it: bridge-runner compare outputs/before outputs/after --rerun 30"
    )
    shown, piped = on_terminal(60), in_pipe(60)
    shown.verdict(text)
    piped.verdict(text)
    *lines, last = said(shown)[0].splitlines()
    assert last == "  bridge-runner compare outputs/before outputs/after --rerun 30"
    assert max(map(len, lines)) <= 60 and lines[-1].endswith("it:")
    assert said(piped)[0] == f"{text}\n"


def test_details_of_checks_keep_their_column():
    check = Check(name="trained", verdict=Verdict.warn, detail="some words of a sentence " * 5)
    first, *more = table.check_lines(check, width=60)
    assert first.startswith("  trained           warn     some words") and len(more) > 2
    assert all(line.startswith(" " * 29 + "s") or line[29] != " " for line in more)
    assert max(map(len, (first, *more))) <= 60


def test_flags_are_counted_and_explained():
    rows = [make_row(0, apply_flags=["short", "spread"]), make_row(1, apply_flags=["short"]), make_row(2)]
    assert table.notes(rows, width=80) == [
        "~ read with care: 2 under 1 ms a sample (timing=careful loops), 1 with a deviation of 10 % or more"
    ]
    assert table.notes([make_row(0, apply_flags=["odd"])], width=80) == ["~ read with care: 1 odd"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0, "0 ns"),
        (1.234e-9, "1.23 ns"),
        (9.99e-7, "999 ns"),
        (9.999e-7, "1 µs"),
        (1e-6, "1 µs"),
        (12.34e-6, "12.3 µs"),
        (9.996e-4, "1 ms"),
        (1e-3, "1 ms"),
        (0.1234, "123 ms"),
        (0.9999, "1 s"),
        (1.0, "1 s"),
        (61.26, "61.3 s"),
        (999.6, "1000 s"),
        (3600.0, "3600 s"),
        (86400.0, "86400 s"),
    ],
)
def test_durations_have_three_digits_and_units(seconds, text):
    assert table.duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_499, "999 kB"),
        (999_999, "1 MB"),
        (12_345_678, "12.3 MB"),
        (999_999_999, "1 GB"),
        (5 * 10**12, "5 TB"),
        (5678 * 10**12, "5678 TB"),
    ],
)
def test_sizes_have_three_digits_and_units(num_bytes, text):
    assert table.size(num_bytes) == text


def test_text_aligns_left_and_numbers_right():
    shown = in_pipe()
    shown.plain_table([{"sweep": "[red]a[/]", "runs": 5}, {"sweep": "b", "runs": 100}])
    _, _, first, second = said(shown)[0].splitlines()
    assert (first, second) == ("[red]a[/]     5", "b           100")


@pytest.mark.parametrize("make", [on_terminal, in_pipe])
def test_what_looks_like_markup_is_text(make):
    shown = make(200)
    rows = [make_row(0, layer="[red]x[/]"), make_row(1, layer="[/]y :smile:", layer__kwargs={"[bold]": "[b]"})]
    shown.results(rows)
    shown.line("[red]line[/]")
    shown.warned("[red]warned[/] [/]")
    shown.finished(record(Status.failed, error=failure("other", "E", "[blink]")), SimpleNamespace(record="f"))
    out, err = said(shown)
    assert "[red]x[/]" in out and "[/]y :smile:" in out and "[red]line[/]" in out
    assert "[red]warned[/] [/]" in err and "[blink]" in err


def test_no_color_disables_colours(monkeypatch):
    rows = [make_row(0), make_row(1, seed=1, status="failed")]
    for make, coloured in ((on_terminal, True), (in_pipe, False)):
        shown = make()
        shown.results(rows)
        assert ("\x1b[32mdone" in said(shown)[0], "\x1b[1;31mfailed" in said(shown)[0]) == (coloured, coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    shown = on_terminal()
    shown.results(rows)
    assert "\x1b[32m" not in said(shown)[0] and "31m" not in said(shown)[0]


def test_progress_is_shown_and_cleared():
    shown = on_terminal()
    with shown:
        shown.started(plan(3), 3)
        shown.finished(record(), None)
        shown._progress.refresh()
        shown.finished(record(Status.failed, error=failure("other", "E", "fail")), SimpleNamespace(record="f"))
        shown._progress.refresh()
    out, err = said(shown)
    assert out == "mine: 3 runs · 2 programs\n"
    assert "1/3" in err and "2/3" in err and "1 failed" in err and "compiling" not in err
    assert err.endswith("\x1b[2K") or "\x1b[?25h" in err


def test_compiling_is_shown_until_runs_end():
    shown, bars = on_terminal(), []
    with shown:
        shown.started(plan(24), 24)
        for num, total, ended in ((0, 6, 0), (2, 6, 0), (6, 6, 0), (6, 6, 1), (8, 12, 0)):
            before = len(said(shown)[1])
            shown.compiled(num, total)
            for _ in range(ended):
                shown.advanced()
            shown._progress.refresh()
            bars.append(re.findall(r"compiling \d+ of \d+ programs|runs", said(shown)[1][before:].split("\r")[-1]))
    one, two = "compiling 1 of 6 programs", "compiling 3 of 6 programs"
    assert bars == [[one], [two], ["runs"], ["runs"], ["runs", "compiling 9 of 12 programs"]]


def test_equal_failures_are_reported_once():
    shown = in_pipe()
    with shown:
        for num, text in enumerate(["a", "a", "b", "a", "a", "a"]):
            error = failure("other", "E", text)
            shown.finished(record(Status.failed, num=num, error=error), SimpleNamespace(record=f"{num}.json"))
    assert said(shown)[1].splitlines() == [
        "run 0 failed: other: a  (0.json)",
        "run 2 failed: other: b  (2.json)",
        "as run 0, 4 more runs failed: 1, 3–5",
    ]


@pytest.mark.parametrize(("make", "num_pending"), [(in_pipe, 3), (on_terminal, 1), (on_terminal, 0)])
def test_no_progress_bar_in_pipes(make, num_pending):
    with make() as shown:
        shown.started(plan(3), num_pending)
        shown.finished(record(), None)
    assert said(shown) == ("mine: 3 runs · 2 programs\n", "")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (failure("other", "E", "no cable"), "other: no cable"),
        (failure("compile", "TypeError", ""), "compile: TypeError"),
        (failure("out_of_memory", "E", "two\n  lines"), "out of memory: two lines"),
        (failure("other", "E", "x" * 300), f"other: {'x' * 192}…"),
    ],
)
def test_failures_print_one_line_to_stderr(error, text):
    shown = in_pipe()
    shown.finished(record(Status.failed, num=7, error=error), SimpleNamespace(record="r/record.json"))
    assert said(shown) == ("", f"run 7 failed: {text}  (r/record.json)\n")


@pytest.mark.parametrize(
    ("given", "num_pending", "line"),
    [
        (plan(1), 1, "mine: 1 run · 2 programs"),
        (plan(3, num_configs=5), 3, "mine: 3 runs · 2 programs · 2 equal configs left out"),
        (plan(3, counts={"done": 2, "new": 1}), 1, "mine: 3 runs · 2 programs · 2 done, 1 new · 1 to do"),
        (plan(3, counts={"stale": 3}), 0, "mine: 3 runs · 2 programs · 3 stale · 0 to do"),
    ],
)
def test_head_shows_what_remains(given, num_pending, line):
    assert report_terminal.head(given, num_pending) == line


def trained(not_moved, num=0):
    step = Phases(trace_s=0.1, lower_s=0.1, compile_s=0.1, cache="off")
    return record(num=num, train=TrainInfo(first_step=0, losses=[2.0, 0.5], step=step, steps_s=[], not_moved=not_moved))


def test_tables_show_the_loss_change():
    row = row_of(trained([]))
    assert (row.loss_first, row.loss_last) == (2.0, 0.5)
    text = table.runs_table([make_row(0, loss_first=2.0, loss_last=0.5), make_row(1)], width=80).plain
    assert text.splitlines()[0].split()[:3] == ["run", "loss", "output"]
    assert "  2 → 0.5          1.5" in text and "        –          1.5" in text
    assert "loss" not in table.runs_table([make_row(1)], width=80).plain


def test_failing_checks_are_counted_below_tables():
    rows = [make_row(0, failed_checks=["trained"]), make_row(1, failed_checks=["trained", "traps"]), make_row(2)]
    rows.append(make_row(3, failed_checks=["streams"], status="failed"))
    said = "checks that fail: trained in 2 of 4, traps in 1 of 4 (bridge-runner show RUN says what fixes it)"
    assert said in table.notes(rows, width=200)
    check = Check(name="trained", verdict=Verdict.fail, detail="")
    assert row_of(record(checks=[check])).failed_checks == ["trained"]


def test_unmoved_leaves_are_reported_once():
    terminal = in_pipe()
    for num, paths in enumerate((["params/a"], ["params/a"], [], ["params/a", "params/b"])):
        terminal.finished(trained(paths, num), None)
    assert terminal.errors.file.getvalue() == (
        "run 0: training did not move params/a\nrun 3: training did not move params/a, params/b\n"
    )


def test_row_holds_what_the_table_shows():
    row = row_of(record(Status.failed, error=failure("compile", "TypeError", "")))
    assert (row.status, row.error, row.apply_s, row.output_norm) == ("failed", "compile: TypeError", None, None)
