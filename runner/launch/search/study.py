"""An Optuna study with an ask-and-tell interface, in a SQLite file that outlives the process.

That file is Optuna's; views are made from the lines of `trials.jsonl`. Only this file and `sampler` know Optuna.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.enums import Direction
from runner.errors import StorageError, UserError
from runner.launch.search.sampler import Sampler
from runner.launch.search.space import Axis

NAME = "study"

RUN_ID, ERROR, EXHAUSTED = "run_id", "error", "exhausted"

ANOTHER = "-m with sweep=another_name"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A trial as the study has it.

    Attributes:
      number: From 0.
      overrides: What it asks for, an override an axis.
      ended: Whether its value was told, or that it failed.
      value: What was told; None where it failed, or has not ended.
      run_id: The run that answers it, once that is known.
      error: Why it failed.
    """

    number: int
    overrides: tuple[str, ...]
    ended: bool
    value: float | None = None
    run_id: str | None = None
    error: str | None = None


class Study:
    """A study, made where there is none.

    Args:
      path: Its file; None keeps it in memory.
      axes: What it goes over.
      direction: Whether to minimize or maximize.
      sampler: How it finds the next trial.

    Raises:
      StorageError: The file is damaged, or of another version of Optuna.
      UserError: A sampler that can't be made.
    """

    def __init__(self, path: Path | None, axes: Sequence[Axis], direction: Direction, sampler: Sampler) -> None:
        import optuna

        self._path = path
        self._axes = axes
        self._sampler = sampler
        first = sampler.make(0)
        with self._stored():
            self._storage = _storage(path)
            self._study = optuna.create_study(
                storage=self._storage, study_name=NAME, direction=direction.value, sampler=first, load_if_exists=True
            )
            self._study_id = self._storage.get_study_id_from_name(NAME)

    @property
    def about(self) -> dict[str, Any]:
        """What was kept with the study."""
        with self._stored():
            return dict(self._study.user_attrs)

    def keep(self, about: Mapping[str, Any]) -> None:
        """Keeps JSON data with the study."""
        with self._stored():
            for key, value in about.items():
                self._study.set_user_attr(key, value)

    @property
    def exhausted(self) -> bool:
        """Whether its sampler has asked for all there is."""
        return bool(self.about.get(EXHAUSTED))

    def trials(self) -> list[Asked]:
        """All trials that were ever asked for, in order; half of one that was asked for at a kill is asked for now."""
        with self._stored():
            found = self._study.get_trials(deepcopy=False)
            for trial in found:
                if not trial.state.is_finished() and len(trial.params) < len(self._axes):
                    self._suggest(trial.number, self._id(trial.number))
            return [self._asked(trial) for trial in self._study.get_trials(deepcopy=False)]

    def ask(self, number: int) -> None:
        """Asks for one more trial.

        Args:
          number: That it will have.

        Raises:
          UserError: The sampler can't take the space.
        """
        with self._stored():
            self._suggest(number, None)

    def note(self, number: int, run_id: str) -> None:
        """Keeps with a trial the run that answers it."""
        with self._stored():
            self._storage.set_trial_user_attr(self._id(number), RUN_ID, run_id)

    def tell(self, number: int, value: float) -> None:
        """Ends a trial with its value."""
        self._end(number, value)

    def fail(self, number: int, error: str) -> None:
        """Ends a trial without a value, and says why."""
        with self._stored():
            self._storage.set_trial_user_attr(self._id(number), ERROR, error)
        self._end(number, None)

    def close(self) -> None:
        """Closes the file."""
        self._storage.remove_session()

    def _suggest(self, number: int, trial_id: int | None) -> None:
        import optuna

        with self._sampler.blamed():
            self._study.sampler = self._sampler.make(number)
            trial = self._study.ask() if trial_id is None else optuna.trial.Trial(self._study, trial_id)
            _ = trial.relative_params  # drawn together, before the others: of half a trial they are the same again
            for axis in self._axes:
                self._study.sampler = self._sampler.make(number, axis.key)
                if axis.choices:
                    trial.suggest_categorical(axis.key, axis.choices)
                elif axis.whole:
                    trial.suggest_int(axis.key, int(axis.low), int(axis.high), step=int(axis.step or 1), log=axis.log)
                else:
                    trial.suggest_float(axis.key, axis.low, axis.high, step=axis.step, log=axis.log)

    def _end(self, number: int, value: float | None) -> None:
        import optuna

        with self._stored():
            try:
                self._study.tell(number, value, state=optuna.trial.TrialState.FAIL if value is None else None)
            except RuntimeError:
                # So a sampler ends the loop of Optuna's own, which is not here, when it has nothing left to ask for.
                if not self._storage.get_trial(self._id(number)).state.is_finished():
                    raise
                self._study.set_user_attr(EXHAUSTED, True)

    def _id(self, number: int) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number))

    def _asked(self, trial: Any) -> Asked:
        return Asked(
            number=trial.number,
            overrides=tuple(axis.override(trial.params[axis.key]) for axis in self._axes),
            ended=trial.state.is_finished(),
            value=trial.values[0] if trial.values else None,
            run_id=trial.user_attrs.get(RUN_ID),
            error=trial.user_attrs.get(ERROR),
        )

    @contextlib.contextmanager
    def _stored(self) -> Iterator[None]:
        """Says what is wrong with the file as a mistake that the user can fix."""
        import optuna
        import sqlalchemy.exc

        try:
            yield
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
            what = str(error.__cause__ or error).strip().splitlines()[0].rstrip(".")
            raise StorageError(f"{self._path}: {what}", ANOTHER) from error
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:  # of a changed word in it
            raise StorageError(f"{self._path} is damaged: {type(error).__name__} on reading", ANOTHER) from error


def require() -> None:
    """Checks whether Optuna is there.

    Raises:
      UserError: It is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UserError("hydra/sweeper=optuna: Optuna is not installed", "pip install 'bridge-runner[optuna]'")


def quiet() -> None:
    """Keeps Optuna's log of every trial off the terminal."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _storage(path: Path | None) -> Any:
    import optuna
    import sqlalchemy

    if path is None:
        return optuna.storages.InMemoryStorage()
    url = sqlalchemy.URL.create("sqlite", database=str(path.absolute()))
    return optuna.storages.RDBStorage(url.render_as_string())
