"""`compare`: two sweeps, what differs and one verdict, after real sweeps and after changes that are known."""

from __future__ import annotations

import functools
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from compared_layers import LAYERS

from runner.arrays import trees
from runner.bridge import targets, user_source
from runner.commands import main
from runner.records.codec import seal

QUIET = ("timing.rounds=2", "tracking=disabled", "checkpoint=none")
WORKS = ("layer=custom", "layer.target=worked_layers.Works", "layer.kwargs.features=4", *QUIET)


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A sweep of eight seeds of a layer of the user's."""
    path = tmp_path_factory.mktemp("compared")
    (path / "worked_layers.py").write_text(LAYERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.syspath_prepend(str(path))
        assert main.main(["-m", "seed=range(0,8)", "sweep=a", *WORKS]) == 0
    return path


@pytest.fixture
def here(swept, tmp_path, monkeypatch) -> Path:
    """The sweep twice in the working directory: `outputs/a` and its copy `outputs/b`."""
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "outputs" / "a", tmp_path / "outputs" / "b")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    edit("a", calm)
    edit("b", calm)
    return tmp_path


def edit(sweep: str, change: Callable[[dict], None], *nums: int) -> None:
    """Changes the records of some runs of a sweep, or of all."""
    for path in Path("outputs", sweep, "runs").glob("*/record.json"):
        record = json.loads(path.read_text())
        if not nums or record["num"] in nums:
            del record["digest"]
            change(record)
            path.write_bytes(seal(json.dumps(record, indent=1).encode()))


def calm(record: dict, factor: float = 1.0) -> None:
    """Times as on a quiet machine, a little apart."""
    summary = record["timing"]["apply_latency"]["summary"]
    summary["median_s"] = factor * 1e-3 * (1 + record["num"] / 1000)
    summary["flags"] = []


def change_output(sweep: str, num: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Another output of a run, with the digest that belongs to it."""
    (folder,) = Path("outputs", sweep, "runs").glob(f"{num}-*")
    made = change(np.load(folder / "output.npy"))
    np.save(folder / "output.npy", made)
    summary = {"shape": list(made.shape), "dtype": made.dtype.name, "digest": trees.array_digest(made)}
    edit(sweep, lambda record: record["output"][0].update(summary), num)


def on(machine: str | None = None, software: str | None = None) -> Callable[[dict], None]:
    def change(record: dict) -> None:
        record["fingerprint"]["cpu"]["model"] = machine or record["fingerprint"]["cpu"]["model"]
        record["fingerprint"]["versions"]["jax"] = software or record["fingerprint"]["versions"]["jax"]
        record["fingerprint"]["machine_id"] = machine or record["fingerprint"]["machine_id"]
        record["fingerprint"]["software_id"] = software or record["fingerprint"]["software_id"]

    return change


def compare(capsys, *words: str) -> tuple[int, list[str], str]:
    code = main.main(["compare", "outputs/a", "outputs/b", *words])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def test_a_sweep_equals_its_copy(here, capsys):
    code, lines, err = compare(capsys)
    assert (code, err) == (0, "")
    assert lines[:7] == [
        "A outputs/a",
        "B outputs/b",
        "pairs        8 by result id",
        "results      8 the same bits",
        "checks       the same",
        "settings     the same",
        "environment  the same",
    ]
    assert re.fullmatch(r"Works +1 ms \(1–1\.01\) n 8 +1 ms \(1–1\.01\) n 8 +1\.00 × +1 +same *", lines[9])
    assert lines[10:] == [
        "median over its n runs (99 % interval, which takes 8)",
        "verdict      same: the same results in 8 runs; no slower, no faster",
    ]


@pytest.mark.parametrize(("factor", "code", "said"), [(1.2, 3, "slower"), (1.05, 0, "same"), (0.8, 0, "faster")])
def test_longer_times_make_b_slower(factor, code, said, here, capsys):
    edit("b", lambda record: calm(record, factor))
    found, lines, _ = compare(capsys)
    assert found == code
    assert re.search(rf" {factor:.2f} × +[\d.e-]+ +{said} *$", lines[9])
    outcome = "slower" if code else "same"
    assert lines[-1].startswith(f"verdict      {outcome}: the same results in 8 runs; ")
    assert (f"{said}: Works by {factor:.2f} ×" in lines[-1]) is (said != "same")


def test_differing_results_outweigh_times(here, capsys):
    edit("b", lambda record: calm(record, 2))
    change_output("b", 3, lambda y: y + 1)
    code, lines, _ = compare(capsys)
    assert code == 4
    assert lines[-1] == "verdict      results differ: results differ in 1 of 8 runs; slower: Works by 2.00 ×"


CHANGES = {
    "ulp": (lambda y: np.nextafter(y, np.float32(9)), 0, "within 4 ulp: output by 1 ulp"),
    "four ulp": (lambda y: y + 4 * np.spacing(y), 0, "within 4 ulp: output by 4 ulp"),
    "five ulp": (lambda y: y + 5 * np.spacing(y), 0, "within the tolerance: output by 5 ulp"),
    "tolerance": (lambda y: y * (1 + np.float32(3e-6)), 0, "within the tolerance: output by "),
    "different": (lambda y: y * 2, 4, "different: output by up to 1 of the largest value"),
    "shape": (lambda y: y[:2], 4, "different: output (float32[4] against float32[2])"),
    "integers": (lambda y: y.view(np.int32) + 1, 4, "different: output (float32[4] against int32[4])"),
    "infinite": (lambda y: y * np.float32(np.inf), 4, "different: output by up to inf of the largest value"),
}


@pytest.mark.parametrize(("change", "code", "said"), CHANGES.values(), ids=CHANGES)
def test_outputs_across_versions_agree_within_tolerance(change, code, said, here, capsys):
    edit("b", on(software="0.99"))
    change_output("b", 0, change)
    found, lines, _ = compare(capsys)
    (line,) = (line for line in lines if " ulp: " in line or "tolerance: " in line or "different: " in line)
    assert found == code
    assert re.match(rf"  0-[0-9a-f]{{8}}: {re.escape(said)}", line)
    agree = "results differ in 1 of 8 runs" if code else "results agree in 8 runs"
    assert f": {agree}; no slower, no faster" in lines[-1]


def test_one_ulp_counts_without_an_excuse(here, capsys):
    change_output("b", 0, lambda y: np.nextafter(y, np.float32(9)))
    code, lines, _ = compare(capsys)
    assert code == 4
    assert "within 4 ulp, though all that could change them is the same: output by 1 ulp" in lines[4]


def test_one_failed_side_differs(here, capsys):
    edit("b", lambda record: record.update(status="failed", output=[]), 5)
    code, lines, _ = compare(capsys)
    assert code == 4
    assert lines[4].endswith(": different: done against failed")


def test_outputs_are_read_only_if_needed(here, capsys):
    for path in here.glob("outputs/*/runs/*/output.npy"):
        path.unlink()
    assert compare(capsys)[0] == 0


def test_missing_outputs_are_reported_when_needed(here, capsys):
    change_output("b", 0, lambda y: y + 1)
    (path,) = here.glob("outputs/b/runs/0-*/output.npy")
    path.unlink()
    code, _, err = compare(capsys)
    assert code == 2
    assert "output.npy: FileNotFoundError: [Errno 2] No such file or directory" in err


def test_comparing_across_machines_needs_force(here, capsys):
    edit("b", on(machine="Another CPU"))
    edit("b", lambda record: calm(record, 2))
    code, lines, _ = compare(capsys)
    again = "bridge-runner compare outputs/a outputs/b --force compares all the same"
    assert (code, lines[-1]) == (5, f"verdict      not comparable: made on different machines; {again}")
    assert not any("×" in line for line in lines)
    code, lines, _ = compare(capsys, "--force")
    assert code == 3
    assert lines[-1].endswith("; slower: Works by 2.00 × (different machines)")


@pytest.mark.slow
def test_sides_without_common_runs_are_incomparable(here, capsys):
    shutil.rmtree("outputs/b")
    assert main.main(["-m", "seed=range(10,13)", "sweep=b", *WORKS]) == 0
    capsys.readouterr()
    code, lines, _ = compare(capsys)
    assert code == 5
    assert lines[2] == "pairs        none"
    assert lines[3].startswith("only in A    0-") and lines[4].startswith("only in B    0-")
    assert lines[-1] == "verdict      not comparable: no run of A has a partner in B"


def test_what_else_differs_is_listed(here, capsys):
    def change(record: dict) -> None:
        on(software="0.99")(record)
        record["settings"]["checks"]["mode"] = "report"
        record["settings"]["sweep"] = "another"
        record["checks"][0]["verdict"] = "warn"

    edit("b", change)
    before = json.loads(next(here.glob("outputs/a/runs/0-*/record.json")).read_text())
    name, version = before["checks"][0]["name"], before["fingerprint"]["versions"]["jax"]
    code, lines, _ = compare(capsys)
    assert code == 0
    assert lines[4:10] == [
        "checks",
        f"  {name}: pass → warn (8 runs)",
        "settings",
        "  checks.mode: strict → report (8 runs)",
        "environment",
        f"  versions.jax: {version} → 0.99",
    ]


@pytest.mark.slow
def test_few_seeds_suffice_across_programs(here, capsys):
    for sweep, factor in (("a", 1.0), ("b", 1.3)):
        shutil.rmtree(f"outputs/{sweep}")
        words = ["-m", "seed=0,1", "input_shape=[1,4],[2,4],[3,4],[4,4]", f"sweep={sweep}", *WORKS]
        assert main.main(words) == 0
        edit(sweep, lambda record, factor=factor: calm(record, factor))
    capsys.readouterr()
    code, lines, _ = compare(capsys)
    assert code == 3
    assert lines[-2] == "unclear: 2 runs a side can't tell: p < 0.002 takes 7 seeds (4 of 5)"
    assert lines[-1] == "verdict      slower: the same results in 8 runs; slower: all 4 programs by 1.30 ×"


def test_busy_machines_leave_times_unclear(here, capsys):
    edit("b", lambda record: record["timing"]["apply_latency"]["summary"].update(flags=["loaded"]))
    code, lines, _ = compare(capsys)
    assert (code, lines[-2]) == (0, "unclear: B was timed on a busy machine (1 of 1)")
    assert lines[-3] == "~ read with care: 8 on a busy machine"
    assert lines[-1].endswith(
        "times unclear for 1 of 1 (B was timed on a busy machine); to settle it: "
        "bridge-runner compare outputs/a outputs/b --rerun 30 --trust"
    )


def test_json_has_every_pair_and_number(here, capsys):
    edit("b", lambda record: calm(record, 2))
    code = main.main(["compare", "outputs/a", "outputs/b", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (code, found["outcome"], found["exit_code"], len(found["results"])) == (3, "slower", 3, 8)
    assert (found["results"][0]["agreement"], found["results"][0]["how"]) == ("the same bits", "result id")
    (times,) = found["times"]
    assert (times["pace"], times["a"]["num"], times["ratio"]) == ("slower", 8, pytest.approx(2))


def test_changed_sources_pair_by_settings(here, capsys):
    def older(record: dict) -> None:
        record.update(result_id="0" * 64, program_id="1" * 64, run_id=f"{record['num']:064d}")

    edit("a", older)
    code, lines, err = compare(capsys, "--rerun", "10", "--trust")
    assert (code, err) == (5, "")
    reason = "their ids differ: the layer's source, an input file or given variables are others"
    assert lines[2] == f"pairs        8 by settings ({reason})"
    why = "A is another program here than when it was saved, by the same source"
    assert lines[-2:] == [f"unclear: {why} (1 of 1)", f"verdict      not comparable: times unclear for 1 of 1: {why}"]


EDITS = {
    "slow": LAYERS.replace("loops=0", "loops=3_000"),
    "equal": LAYERS.replace("y = self.linear(x)", "y = self.linear(x)  # as before"),
}


@pytest.fixture(scope="module")
def edited(tmp_path_factory) -> Callable[[str], None]:
    """Copies a sweep of two seeds here, made after an edit of the layer: `slow` takes far longer, `equal` as long."""

    @functools.cache
    def made(name: str) -> Path:
        path = tmp_path_factory.mktemp(name)
        (path / "worked_layers.py").write_text(EDITS[name])
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(path)
            patch.syspath_prepend(str(path))
            patch.delitem(sys.modules, "worked_layers", raising=False)
            forget_sources()
            assert main.main(["-m", "seed=0,1", f"sweep={name}", *WORKS]) == 0
            del sys.modules["worked_layers"]
        forget_sources()
        return path / "outputs" / name

    return lambda name: shutil.copytree(made(name), f"outputs/{name}")


def forget_sources() -> None:
    """As in another process, whose modules may be others."""
    for cached in (targets.source_digest, user_source._texts):
        cached.cache_clear()


def test_a_sweep_keeps_its_source_once(here):
    (kept,) = Path("outputs/a/sources").iterdir()
    assert kept.read_text() == LAYERS
    (record,) = (json.loads(path.read_text()) for path in here.glob("outputs/a/runs/3-*/record.json"))
    assert record["sources"] == {"worked_layers": kept.stem} == {"worked_layers": user_source.digest(LAYERS)}


@pytest.mark.parametrize("lost", [False, True])
def test_edited_sources_are_shown_as_a_diff(lost, here, edited, capsys):
    edited("slow")
    capsys.readouterr()
    if lost:
        shutil.rmtree("outputs/a/sources")
    code = main.main(["compare", "outputs/a", "outputs/slow"])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    place = lines.index("source")
    if lost:
        assert lines[place + 1] == "  worked_layers: another on each side; the one of A is not kept (2 runs)"
        assert lines[-1].endswith("; the source of A is not kept, so that only runs of more seeds settle it")
    else:
        assert lines[place + 1] == "  worked_layers: 1 line out, 1 in (2 runs)"
        assert "    -    def __init__(self, features, *, loops=0, rngs):" in lines
        assert "    +    def __init__(self, features, *, loops=3_000, rngs):" in lines
        assert lines[-1].endswith("to settle it: bridge-runner compare outputs/a outputs/slow --rerun 30 --trust")
    assert "2 runs a side can't tell: p < 0.002 takes 7 seeds" in lines[-1]


def test_rerun_runs_both_sources(here, edited, capsys):
    edited("slow")
    capsys.readouterr()
    code = main.main(["compare", "outputs/a", "outputs/slow", "--rerun", "10", "--trust"])
    lines = capsys.readouterr().out.splitlines()
    assert (code, lines[-1].split(" by ")[0]) == (3, "verdict      slower: the same results in 2 runs; slower: Works")


@pytest.mark.slow
def test_rerun_of_equally_fast_sources_passes(here, edited, capsys):
    edited("equal")
    capsys.readouterr()
    code = main.main(["compare", "outputs/a", "outputs/equal", "--rerun", "20", "--trust"])
    lines = capsys.readouterr().out.splitlines()
    assert (code, lines[-1]) == (0, "verdict      same: the same results in 2 runs; no slower, no faster")


def test_rerun_of_one_source_stays_here(here, capsys, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    code, lines, err = compare(capsys, "--rerun", "10", "--trust")
    assert (code, err) == (0, "")
    assert lines[-1] == "verdict      same: the same results in 8 runs; no slower, no faster"


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_rerun_without_a_source_is_unclear(damage, here, edited, capsys):
    edited("slow")
    capsys.readouterr()
    (kept,) = Path("outputs/slow/sources").iterdir()
    if damage == "gone":
        kept.unlink()
    else:
        kept.write_text(LAYERS)
    code = main.main(["compare", "outputs/a", "outputs/slow", "--rerun", "10", "--trust"])
    lines = capsys.readouterr().out.splitlines()
    assert code == 5
    why = "the source of B is neither kept nor the one that is here"
    assert lines[-1] == f"verdict      not comparable: times unclear for 1 of 1: {why}"
    assert "--rerun" not in lines[-1]


@pytest.mark.slow
def test_rerun_times_both_sides_in_turns(here, capsys):
    shutil.rmtree("outputs/b")
    assert main.main(["-m", "seed=0,1", "layer.kwargs.loops=10000", "sweep=b", *WORKS]) == 0
    edit("b", on(machine="Another CPU"))
    capsys.readouterr()
    code, lines, err = compare(capsys, "--rerun", "10", "--trust")
    assert err == ""
    assert lines[2] == "pairs        2 by the settings that both sides share (the sides differ on purpose)"
    assert "  layer.kwargs.loops: – → 10000 (2 runs)" in lines
    assert lines[-2] == "median over the fastest calls of 10 rounds in turns (99 % interval, which takes 8)"
    assert (code, lines[-1].split(" by ")[0]) == (3, "verdict      slower: the same results in 2 runs; slower: Works")


def test_rerunning_untrusted_layers_needs_trust(here, capsys):
    code, _, err = compare(capsys, "--rerun", "10")
    said = "error: rebuilding this run imports worked_layers.Works, which runs its code.\n"
    assert (code, err) == (2, f"{said}  Try: the same with --trust\n")


def test_missing_run_folders_are_left_out(here, capsys):
    (folder,) = here.glob("outputs/b/runs/2-*")
    shutil.rmtree(folder)
    code, lines, err = compare(capsys)
    assert (code, err) == (0, f"{folder.name}: the folder is missing, so this run is left out\n")
    assert lines[2:4] == ["pairs        7 by result id", f"only in A    {folder.name}"]


def test_a_run_is_a_side_too(here, capsys):
    code = main.main(["compare", "outputs/a/3", "outputs/b/3"])
    lines = capsys.readouterr().out.splitlines()
    assert (code, lines[2]) == (0, "pairs        1 by result id")
    assert "unclear: 1 run a side can't tell: p < 0.002 takes 7 seeds (1 of 1)" in lines


USAGE = "\n  Try: bridge-runner compare outputs/A outputs/B [--rerun 30 [--trust]] [--force] [--json]"

MISTAKES = [
    ("compare outputs/a", "compare: the following arguments are required: b" + "." + USAGE),
    ("compare outputs/a outputs/b --rerun x", "compare: argument --rerun: invalid int value: 'x'." + USAGE),
    ("compare outputs/a outputs/c", "outputs/c is no run: it has no record.json.\n  Try: bridge-runner ls SWEEP"),
    (
        "compare outputs/a outputs/b --rerun 9",
        "--rerun 9: fewer than 10 rounds tell nothing, however far apart the sides lie.\n  Try: --rerun 30",
    ),
]


@pytest.mark.parametrize(("typed", "said"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_mistakes_exit_with_2(typed, said, here, capsys):
    assert main.main(typed.split()) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_rerun_on_an_absent_device_fails(here, capsys):
    edit("b", lambda record: record["settings"].update(device="tpu"))
    code, _, err = compare(capsys, "--rerun", "10")
    there = ", ".join(f"cpu:{device.id}" for device in jax.devices("cpu"))
    assert (code, err) == (2, f"error: device=tpu: not here; here are {there}.\n  Try: device=cpu\n")
