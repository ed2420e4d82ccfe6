"""The report: what it is made of, that text stays text, that nothing is loaded, and the verb. Without a browser."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import html
import json
import math
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from html.parser import HTMLParser

import pytest
from started_processes import Started

from runner.commands import main
from runner.config import serialize
from runner.config.settings.run import Run
from runner.records import seeds, store
from runner.records.codec import to_data
from runner.records.disk.files import make_run_folder, make_sweep_folder
from runner.records.journal import to_line
from runner.records.paths import SweepFolder
from runner.records.record import Check, Failure, FailureKind, Record, Status, TrainInfo, Verdict
from runner.records.row import Trial
from runner.report.html.data import Report
from runner.report.html.page import INDEX_SCRIPTS, PARTS, SCRIPTS, STYLE, VENDOR, manifest, to_html
from runner.sweep.writing.outputs import Summary
from tests.records.test_record import RECORD

SETTINGS = serialize.to_data(Run())
HOSTILE = "</script><img src=x onerror=alert(1)>"
MACHINE = {
    "versions": {"jax": "0.10.2", "wandb": None},
    "xla_flags": None,
    "devices": [{"kind": "cpu", "platform": "cpu", "count": 1}],
    "cpu": {"model": "fast", "num_cores": 2, "quota_cores": None},
    "memory_bytes": 2**33,
    "os": "Linux",
    "git": {"commit": "abc", "dirty": True},
    "machine_id": "m",
    "software_id": "s",
}


def record(num: int, **values) -> Record:
    """A run that is done, of the layer `linear`; `settings` are those that it has of its own."""
    own = values.pop("settings", {})
    given = {"run_id": f"{num}" * 64, "num": num, "status": Status.done, "error": None, "layer": "linear", "checks": []}
    given |= {"settings": {**SETTINGS, **own}, "fingerprint": MACHINE}
    return dataclasses.replace(RECORD, **(given | values))


def plan(*runs: Record, num_configs: int | None = None) -> dict:
    return {
        "sweep": "mine",
        "written_at": "2026-01-01T10:20:30.000+00:00",
        "origin": {"command": ["-m", "seed=0,1", "input_shape=[4],[8]"]},
        "num_configs": num_configs or len(runs),
        "runs": [
            {
                **{"num": run.num, "run_id": run.run_id, "result_id": run.result_id, "program_id": run.program_id},
                **{"layer": run.layer, "overrides": run.overrides, "settings": run.settings},
            }
            for run in runs
        ],
    }


def data_of(*runs: Record, missing: tuple[Record, ...] = ()) -> dict:
    report = Report()
    for run in runs:
        report.add(run)
    return report.data(plan(*runs, *missing), "outputs/mine")


def verdict(*runs: Record, missing: tuple[Record, ...] = ()) -> tuple[str, list[str]]:
    found = data_of(*runs, missing=missing)["head"]["verdict"]
    return found["level"], found["sentences"]


def said(name: str, answer: str, **values) -> Check:
    return Check(name=name, verdict=Verdict(answer), detail="as it was", **values)


def unpacked(page: bytes) -> dict:
    packed = re.search(r'<script type="text/plain" id="data">([A-Za-z0-9+/=]+)</script>', page.decode())
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


class Text(HTMLParser):
    """The tags of a page, and its text outside of scripts and styles."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)

    def handle_data(self, text: str) -> None:
        if self.tags[-1:] not in (["script"], ["style"]):
            self.text += text


def test_columns_follow_plan_order():
    runs = [record(num, settings={"seed": num}) for num in (2, 0, 1)]
    columns = data_of(*runs)["columns"]
    assert columns["num"] == [0, 1, 2]
    assert columns["label"] == ["0-00000000", "1-11111111", "2-22222222"]
    assert {len(values) for values in columns.values()} == {3}


def test_axes_are_the_settings_that_vary():
    runs = [record(num, settings={"seed": num, "input_shape": [num, 4]}) for num in range(2)]
    data = data_of(*runs)
    assert data["axes"] == {"seed": [0, 1], "input_shape": ["[0,4]", "[1,4]"]}
    own = [[data["pool"][place] for place in places] for places in data["columns"]["settings"]]
    assert own[1] == [["seed", 1], ["input_shape", "[1,4]"]]
    common = dict(data["pool"][place] for place in data["common"])
    assert common["timing.rounds"] == SETTINGS["timing"]["rounds"]
    assert "seed" not in common


def test_shared_values_are_pooled_once():
    runs = [record(num, checks=[said("streams", "pass", evidence={"n": 1})]) for num in range(3)]
    data = data_of(*runs)
    assert data["columns"]["checks"] == [data["columns"]["checks"][0]] * 3
    (place,) = data["columns"]["checks"][0]
    assert data["pool"][place] == ["streams", "pass", "as it was", None, '{\n "n": 1\n}']
    assert len({json.dumps(value) for value in data["pool"]}) == len(data["pool"])


def test_seed_story_matches_show():
    run = record(1, settings={"seed": 7})
    data = data_of(run)
    story = [data["pool"][place] for place in data["columns"]["story"][0]]
    assert story == seeds.story(to_data(run))


def test_equal_values_keep_their_types():
    runs = [record(num, settings={"features": value}) for num, value in enumerate((1, True, 1.0, "1"))]
    data = data_of(*runs)
    assert data["columns"]["settings"] != [[], [], [], []]
    assert [
        dict(data["pool"][place] for place in [*data["common"], *own])["features"]
        for own in data["columns"]["settings"]
    ] == [1, "true", 1.0, "1"]


def test_waiting_runs_keep_their_place():
    gone = record(1, settings={"seed": 1})
    data = data_of(record(0), missing=(gone,))
    assert data["columns"]["status"] == ["done", "waiting"]
    assert data["axes"] == {"seed": [0, 1]}
    assert verdict(record(0), missing=(gone,)) == (
        "care",
        ["1 of 2 runs done, 1 waiting", "times: 1 of 1 to be read with care (~)"],
    )


def test_refused_runs_took_no_time():
    refused = record(0, status=Status.failed, timing=None, wall_s=0.0)
    assert data_of(refused, record(1))["columns"]["wall_s"] == [None, pytest.approx(RECORD.wall_s)]


@pytest.mark.parametrize(
    ("objective", "shown"), [("apply_latency_median_s", "250 ms"), ("checkpoint_bytes", "0 B"), ("loss_last", "0.25")]
)
def test_best_value_has_its_unit(objective, shown):
    report = Report()
    report.add(record(0))
    study = {"objective": objective, "direction": "minimize", "space": {}, "sampler": "TPE", "n_trials": 1}
    trial = Trial(number=0, overrides=["features=8"], value=0.25, run_id="0" * 64)
    head = report.data({**plan(record(0)), "study": study}, "mine", [trial])["head"]
    assert head["search"]["best"]["value"] == shown


def test_sweeps_without_results_have_a_page():
    data = data_of(missing=(record(0), record(1, settings={"seed": 1})))
    assert data["head"]["verdict"]["sentences"] == ["0 of 2 runs done, 2 waiting"]
    assert "No run has been made yet." in Text(to_html(data)).text


@pytest.mark.parametrize(
    ("answers", "level", "sentence"),
    [
        ({"streams": "pass", "mutable": "pass"}, "good", "2 checks: each holds"),
        ({"streams": "pass", "mutable": "warn"}, "care", "2 checks: warn for mutable"),
        ({"streams": "fail", "mutable": "warn"}, "bad", "2 checks: fail for streams; warn for mutable"),
        ({"streams": "pass", "traps": "skipped"}, "good", "1 check: each holds"),
        ({"eager": "fail"}, "bad", "1 check: fail for eager"),
    ],
)
def test_verdict_names_failing_checks(answers, level, sentence):
    found = verdict(record(0, timing=None, checks=[said(name, answer) for name, answer in answers.items()]))
    assert found == (level, ["1 of 1 runs done", sentence])


def test_failures_make_the_verdict_bad():
    error = Failure(kind=FailureKind.compile, type="ValueError", message="no way", traceback="")
    runs = [record(num, status=Status.failed, error=error, settings={"seed": num}) for num in range(7)]
    head = data_of(*runs)["head"]
    assert head["verdict"]["level"] == "bad"
    assert head["verdict"]["sentences"][0] == "0 of 7 runs done, 7 failed"
    (reason,) = head["failures"]
    assert (reason["kind"], reason["message"], reason["num"], len(reason["runs"])) == ("compile", "no way", 7, 5)


def test_non_finite_numbers_become_null():
    output = [dataclasses.replace(RECORD.output[0], norm=math.nan, max=math.inf)]
    train = TrainInfo(first_step=0, losses=[1.0, math.nan], step=RECORD.timing.init, steps_s=[], not_moved=[])
    data = data_of(record(0, output=output, train=train, settings={"input": {"high": math.inf}}))
    page = to_html(data)
    assert data["columns"]["outputs"][0][0][1:6] == [None, 0.0, 0.5, 0.0, None]
    assert unpacked(page)["columns"]["losses"] == [[[0, 1.0], [1, None]]]


def test_long_loss_curves_are_thinned():
    train = TrainInfo(
        first_step=5, losses=[float(n) for n in range(10_000)], step=RECORD.timing.init, steps_s=[], not_moved=[]
    )
    data = data_of(record(0, train=train))
    (curve,) = data["columns"]["losses"]
    assert len(curve) == 200
    assert (curve[0], curve[-1]) == ([0, 0.0], [9999, 9999.0])


def test_page_shows_command_and_axis_values():
    runs = [record(num, settings={"seed": num, "features": num % 2}) for num in range(20)]
    page = Text(to_html(data_of(*runs))).text
    assert "bridge-runner -m seed=0,1 'input_shape=[4],[8]'" in page
    assert "0, 1 … 19 (20 values)" in page
    assert re.search(r"features\s*0, 1\s", page)


STUDY = {"objective": "loss_last", "direction": "maximize", "n_trials": 5, "n_jobs": 1, "sampler": "TPESampler(seed=0)"}


def test_search_page_lists_trials_and_best():
    runs = [record(num, settings={"features": num}) for num in range(2)]
    report = Report()
    for run in runs:
        report.add(run)
    trials = [
        Trial(number=0, overrides=["features=0"], value=2.0, run_id=runs[0].run_id),
        Trial(number=2, overrides=["features=0"], value=2.0, run_id=runs[0].run_id),
        Trial(number=1, overrides=["features=1"], value=3.5, run_id=runs[1].run_id),
        Trial(number=3, overrides=[f"features={HOSTILE}"], error="no number"),
    ]
    study = {**STUDY, "space": {"features": "range(0,2)"}}
    data = report.data({**plan(*runs), "study": study}, "outputs/mine", trials)
    assert data["search"] == {
        "objective": "loss_last",
        "direction": "maximize",
        "trials": [
            [0, 2.0, 0, "features=0", None],
            [1, 3.5, 1, "features=1", None],
            [2, 2.0, 0, "features=0", None],
            [3, None, None, f"features={HOSTILE}", "no number"],
        ],
    }
    assert (data["columns"]["trial"], data["columns"]["objective"]) == ([0, 1], [2.0, 3.5])
    page = Text(to_html(data))
    assert "img" not in page.tags
    words = " ".join(page.text.split())
    said = "search maximize loss_last trials 4 of 5, 1 failed features range(0,2) sampler TPESampler(seed=0)"
    assert said.replace(" ", "") in words.replace(" ", "")
    assert "3.5, trial 1: features=1 (1-11111111)" in words


def test_searches_without_trials_have_a_page():
    data = Report().data({**plan(), "study": {**STUDY, "space": {"features": "range(0,2)"}}}, "outputs/mine")
    assert "0 of 5" in Text(to_html(data)).text


def test_page_shows_machine_software_and_git():
    page = Text(to_html(data_of(record(0)))).text
    for words in ("jax\n?0.10.2", r"1 × cpu \(cpu\)", "fast, 2 cores", "8.0 GiB", "abc, changed files"):
        assert re.search(words, page), words
    assert "wandb" not in page


def test_hostile_text_is_escaped_everywhere():
    error = Failure(kind=FailureKind.other, type=HOSTILE, message=HOSTILE, traceback=HOSTILE)
    run = record(0, layer=HOSTILE, error=error, status=Status.failed, checks=[said(HOSTILE, "fail", fix=HOSTILE)])
    other = record(1, settings={"variables": HOSTILE}, fingerprint={**MACHINE, "os": HOSTILE})
    report = Report()
    report.add(run)
    report.add(other)
    hostile_plan = {**plan(run, other), "sweep": HOSTILE, "origin": {"command": [HOSTILE]}}
    page = to_html(report.data(hostile_plan, HOSTILE))
    plain = to_html(data_of(record(0), record(1, settings={"variables": "x"})))
    assert "img" not in Text(page).tags
    assert Text(page).tags.count("script") == Text(plain).tags.count("script")
    assert html.escape(HOSTILE) in page.decode()
    assert unpacked(page)["columns"]["layer"][0] == HOSTILE


def test_lone_surrogates_do_not_break_pages():
    error = Failure(kind=FailureKind.other, type="OSError", message="file \ud800", traceback="")
    assert b"file ?" in to_html(data_of(record(0, status=Status.failed, error=error)))


def test_content_policy_allows_only_inline_scripts():
    page = to_html(data_of(record(0))).decode()
    rules = dict(
        rule.split(" ", 1) for rule in html.unescape(re.search(r'Policy" content="([^"]*)"', page)[1]).split("; ")
    )
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in json.dumps(rules)
    assert "connect-src" not in rules
    assert not re.search(r'<(?:link|img|iframe)[^>]* (?:src|href)="(?!data:)', page)


def test_vendored_bundles_match_the_manifest():
    entries = manifest()
    for entry in entries:
        content = (VENDOR / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]
        assert re.search(rb"</script|<!--|</style", content, re.IGNORECASE) is None, entry["file"]
        assert "Permission" in (VENDOR / entry["license_file"]).read_text()
    listed = {entry["file"] for entry in entries} | {entry["license_file"] for entry in entries} | {"manifest.json"}
    assert listed == {path.name for path in VENDOR.iterdir()}
    assert all(entry["version"] and entry["license"] in ("MIT", "ISC") for entry in entries)


def test_every_page_asset_is_used():
    files = {path.name for path in PARTS.iterdir() if path.is_file()}
    assert files == {*SCRIPTS, *INDEX_SCRIPTS, STYLE, "frame.html", "page.html", "index.html"}


def test_empty_page_is_small_and_reproducible():
    data = data_of(record(0))
    page = to_html(data)
    assert len(page) < 1.2e6
    assert to_html(data) == page


def test_the_report_needs_no_jax():
    code = "import sys, runner.commands.printed.live_report; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A sweep's folder with a plan of two runs, of which one is done."""
    monkeypatch.chdir(tmp_path)
    sweep = SweepFolder(tmp_path / "mine")
    make_sweep_folder(sweep)
    done, gone = record(0), record(1, settings={"seed": 1})
    store.write_plan(sweep, plan(done, gone))
    finish(sweep, done)
    return sweep


def finish(sweep: SweepFolder, run: Record) -> None:
    """Writes what a sweep writes when a run is done."""
    place = sweep.run(run.num, run.run_id)
    make_run_folder(place)
    store.write_record(place, run)
    write_line(sweep, event=run.status.value, run_id=run.run_id)


def write_line(sweep: SweepFolder, **event: str) -> None:
    with open(sweep.journal, "ab") as journal:
        journal.write(to_line(event))


def test_report_writes_the_current_page(folder, capsys):
    assert main.main(["report", "mine"]) == 0
    said = f"mine/report.html: {folder.report.stat().st_size / 1e6:.1f} MB, opens in any browser\n"
    assert capsys.readouterr().out == said
    data = unpacked(folder.report.read_bytes())
    assert data["columns"]["status"] == ["done", "waiting"]
    assert data["folder"] == "mine"


def test_restarted_runs_have_no_record(folder):
    tried = record(1, settings={"seed": 1})
    finish(folder, tried)
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    folder.journal.write_bytes(lines[0])
    write_line(folder, event="begin", run_id=tried.run_id)
    assert main.main(["report", "mine"]) == 0
    assert unpacked(folder.report.read_bytes())["columns"]["status"] == ["done", "waiting"]


def test_sweep_end_writes_the_same_page(folder):
    summary = Summary()
    for run in store.read_records([folder.run(0, "0" * 64)]):
        summary.add(run)
    summary.write_report(folder)
    at_end = folder.report.read_bytes()
    assert main.main(["report", "mine"]) == 0
    assert folder.report.read_bytes() == at_end


REPORT_USAGE = "\n  Try: bridge-runner report outputs/SWEEP [--watch]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            "report: the following arguments are required: sweep." + REPORT_USAGE,
        ),
        (["a", "b"], "report: 2 paths were typed and 1 wanted.\n  Try: bridge-runner report a"),
        (
            ["mine", "--open"],
            "report: unrecognized arguments: --open." + REPORT_USAGE,
        ),
        (["min"], "min is no sweep: it has no sweep.json.\n  Try: bridge-runner report mine"),
        (["min", "--watch"], "min is no sweep: it has no sweep.json.\n  Try: bridge-runner report mine"),
    ],
)
def test_report_mistakes_write_nothing(words, message, folder, capsys):
    assert main.main(["report", *words]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not folder.report.exists()


def test_damaged_records_keep_the_old_page(folder, capsys):
    folder.report.write_text("old")
    path = folder.run(0, "0" * 64).record
    path.write_bytes(path.read_bytes().replace(b"linear", b"binary", 1))
    assert main.main(["report", "mine"]) == 2
    assert "is damaged: it is not what was written, by its digest" in capsys.readouterr().err
    assert folder.report.read_text() == "old"


def test_unwritable_pages_are_reported(folder, capsys):
    folder.report.mkdir()
    assert main.main(["report", "mine"]) == 2
    said = "error: mine/report.html: Is a directory.\n  Try: bridge-runner report mine --watch\n"
    assert capsys.readouterr().err == said


def get(url: str, **headers: str) -> tuple[int, bytes, str | None]:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): text for name, text in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read(), answer.headers["ETag"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), None


@pytest.fixture
def served(folder):
    """The address of `report mine --watch`, which ends well on Ctrl-C."""
    command = [sys.executable, "-m", "runner", "report", "mine", "--watch"]
    process = Started(command, cwd=folder.path.parent, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        line = process.stdout.readline()
        yield re.fullmatch(r"(http://127\.0\.0\.1:\d+/) follows mine; Ctrl-C ends it\n", line)[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


@pytest.mark.slow
def test_server_sends_only_changed_pages(folder, served):
    status, page, name = get(served)
    assert (status, unpacked(page)["columns"]["status"]) == (200, ["done", "waiting"])
    assert b"connect-src &#39;self&#39;" in page
    assert get(served, If_None_Match=name) == (304, b"", None)
    finish(folder, record(1, settings={"seed": 1}))
    while (news := get(served, If_None_Match=name))[0] == 304:
        time.sleep(0.05)
    assert (news[0], unpacked(news[1])["columns"]["status"]) == (200, ["done", "done"])


def test_server_answers_only_this_machine(served):
    assert get(served, Host="evil.example") == (403, b"this page is for this machine", None)
    assert get(f"{served}etc/passwd") == (404, b"there is one page here: /", None)


def test_server_survives_damaged_files(folder, served):
    content = folder.journal.read_bytes()
    folder.journal.write_bytes(b"{\n" + content)
    status, text, _ = get(served)
    assert (status, b"journal.jsonl line 1 is damaged" in text) == (500, True)
    folder.journal.write_bytes(content)
    assert get(served)[0] == 200
