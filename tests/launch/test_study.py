"""A study in a file: what is asked, told and kept, across processes and kills."""

from __future__ import annotations

import contextlib

import optuna
import pytest

from runner.config.enums import Direction
from runner.errors import StorageError, UserError
from runner.launch.search import study
from runner.launch.search.sampler import Sampler
from runner.launch.search.space import Axis
from runner.launch.search.study import Study

AXES = (
    Axis(key="rate", typed="tag(log,interval(1e-4,1))", low=1e-4, high=1.0, log=True),
    Axis(key="size", typed="int(interval(4,64))", low=4, high=64, whole=True),
    Axis(key="kind", typed="a,b", choices=("a", "b")),
)
TPE = Sampler(target="optuna.samplers.TPESampler", arguments={"seed": 0})


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    study.quiet()


def open_study(path=None, *, axes=AXES, sampler=TPE):
    return contextlib.closing(Study(path, axes, Direction.minimize, sampler))


def asked(path, numbers, **kwargs) -> list[tuple[str, ...]]:
    """What trials of these numbers ask for; each is told at once."""
    with open_study(path, **kwargs) as one:
        for number in numbers:
            one.ask(number)
            one.tell(number, float(number % 5))
        return [trial.overrides for trial in one.trials()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TPESampler", "RandomSampler", "QMCSampler"])
def test_interrupted_studies_ask_the_same_trials(name, tmp_path):
    sampler = Sampler(target=f"optuna.samplers.{name}", arguments={"seed": 3})
    whole = asked(None, range(14), sampler=sampler)
    for start in range(0, 14, 2):
        parts = asked(tmp_path / "study.db", range(start, start + 2), sampler=sampler)
    assert parts == whole
    assert len(set(whole)) == 14


@pytest.mark.slow
def test_unfinished_trials_keep_their_parameters(tmp_path):
    with open_study(tmp_path / "study.db") as one:
        one.ask(0)
        one.note(0, "abc")
        (before,) = one.trials()
    with open_study(tmp_path / "study.db") as one:
        assert one.trials() == [before]
    assert (before.ended, before.value, before.run_id) == (False, None, "abc")


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 13])
def test_half_sampled_trials_complete_identically(number, tmp_path):
    asked(tmp_path / "study.db", range(number))
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    killed = optuna.create_study(storage=storage, study_name=study.NAME, load_if_exists=True, sampler=TPE.make(number))
    half = killed.ask()
    _ = half.relative_params
    killed.sampler = TPE.make(number, "rate")
    half.suggest_float("rate", 1e-4, 1.0, log=True)
    with open_study(tmp_path / "study.db") as one:
        assert one.trials()[number].overrides == asked(None, range(number + 1))[number]


def test_failed_trials_never_end_the_study(tmp_path):
    with open_study(tmp_path / "study.db") as one:
        one.ask(0)
        one.fail(0, "no memory")
        one.ask(1)
        one.tell(1, 2.5)
        failed, done = one.trials()
    assert (failed.ended, failed.value, failed.error) == (True, None, "no memory")
    assert (done.ended, done.value, done.error) == (True, 2.5, None)


def test_studies_keep_their_description_anywhere(tmp_path):
    path = tmp_path / "a b?c%20#d" / "study.db"
    path.parent.mkdir()
    with open_study(path) as one:
        one.keep({"objective": "loss_last"})
    with open_study(path) as one:
        assert one.about == {"objective": "loss_last"}
    assert path.exists()


def test_exhausted_samplers_are_detected():
    sampler = Sampler(target="optuna.samplers.BruteForceSampler", arguments={"seed": 0})
    with open_study(axes=AXES[2:], sampler=sampler) as one:
        exhausted = []
        for number in range(2):
            one.ask(number)
            one.tell(number, 1.0)
            exhausted.append(one.exhausted)
        assert {trial.overrides for trial in one.trials()} == {("kind=a",), ("kind=b",)}
    assert exhausted == [False, True]


@pytest.mark.parametrize(
    ("target", "arguments", "said"),
    [
        (
            "my.Sampler",
            {},
            r"hydra\.sweeper\.sampler\._target_=my\.Sampler: no sampler; Optuna has BruteForceSampler, .*",
        ),
        ("json.JSONDecoder", {}, r"hydra\.sweeper\.sampler\._target_=json\.JSONDecoder: no sampler; Optuna has .*"),
        ("optuna.samplers.TPESampler", {"sed": 1}, r".*: TPESampler\(sed=1\): .* unexpected keyword argument 'sed'"),
        ("optuna.samplers.BruteForceSampler", {}, r".*: BruteForceSampler\(\): .* search space will be infinite\)"),
    ],
)
def test_unusable_samplers_are_refused(target, arguments, said):
    with (
        pytest.raises(UserError, match=rf"^{said}\.\n  Try: hydra/sweeper/sampler=tpe$"),
        open_study(sampler=Sampler(target=target, arguments=arguments)) as one,
    ):
        one.ask(0)


def test_invalid_study_files_are_reported(tmp_path):
    (tmp_path / "study.db").write_text("no database, whatever it is called")
    with pytest.raises(StorageError, match=r"study\.db: file is not a database\.\n  Try: -m with sweep=another_name"):
        Study(tmp_path / "study.db", AXES, Direction.minimize, TPE)
