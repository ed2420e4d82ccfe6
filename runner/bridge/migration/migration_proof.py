"""Tries to tell a new model from an old one on the same variables: on the old ones, on random ones, leaf by leaf.

What is compared is all that a call gives: the output and every collection that it updates, in train and in eval mode;
and the gradients, since a model that gives the same numbers may learn otherwise.
Draws are the same on both sides (see `fixed_draws`).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runner.arrays import closeness
from runner.bridge.migration import gradients
from runner.bridge.migration.modes import Mode, in_mode, modes_of
from runner.bridge.migration.new_paths import put, renamed
from runner.bridge.migration.program_in_mode import OUTPUT, Program, is_output
from runner.bridge.migration.sentences import kind, some
from runner.bridge.migration.trial_values import (
    DRAWS,
    Arrays,
    changed,
    is_finite,
    num_ids,
    random_input,
    random_variables,
    same,
    scaled,
)
from runner.bridge.migration.unsaved import without
from runner.bridge.needs import find_needs
from runner.bridge.wrap import Bridged
from runner.errors import LayerError, listed

# Scales of x and of the replaced leaves, near one and far: an activation that is clipped, say at 6, looks like one that
# is not near zero; behind a norm, x alone does not make it large.
NEAR = ((1.0, 1.0), (10.0, 1.0))
FAR = ((1e3, 1.0), (10.0, 1e2))

# Replaced leaves are changed one by one up to this number; of more, several at a time.
MAX_CHANGES = 64

# Results further apart than this, relative to the largest value, are not computed again without compiling.
MAX_ROUNDED = 0.05


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Whether two models do the same.

    Attributes:
      holds: None if it could not be tried.
      sentence: That they do, or where they differ, or why it could not be tried.
      tried: On what they are the same.
      is_missing: Whether it was tried and shows nothing: the output does not depend on what was replaced.
    """

    holds: bool | None
    sentence: str
    tried: str = ""
    is_missing: bool = False


@dataclass(frozen=True, kw_only=True)
class Migration:
    """How the leaves of two models correspond.

    Attributes:
      leaves: Paths of the old leaves, and the path of each in the new tree.
      migrated: The old leaves whose module was replaced: the output must depend on them.
      stored: The old variables by path; None if there are only shapes.
      own: The variables of the new model's own checkpoint, which must do the same; None if it has none.
      recorded: The output that a run saved, by path; None if there is none.
    """

    leaves: Mapping[str, str]
    migrated: Sequence[str]
    stored: Arrays | None = None
    own: Arrays | None = None
    recorded: Arrays | None = None


class _Different(Exception):
    """The two models differ, or can't be compared."""

    def __init__(self, proof: Proof) -> None:
        self.proof = proof
        super().__init__(proof.sentence)


def _missing(sentence: str) -> Proof:
    return Proof(holds=None, sentence=sentence, is_missing=True)


class Prover:
    """Tries to tell two models apart; each is compiled once for all the ways in which their leaves may correspond.

    Args:
      old: The old model.
      new: The new one.
      x: The input.
      unsaved: Collections of each that it is applied without.
    """

    def __init__(self, old: Bridged, new: Bridged, x: Any, unsaved: Sequence[Collection[str]] = ((), ())) -> None:
        self.old, self.new, self.x, self.unsaved = old, new, np.asarray(x), unsaved

    def prove(self, migration: Migration) -> Proof:
        """Whether the new model gives what the old one does, bit for bit, wherever that was tried."""
        try:
            with np.errstate(all="ignore"):
                return self._prove(migration)
        except _Different as error:
            return error.proof
        except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            return _missing(f"could not be tried: a model raises {reason}")

    def _prove(self, migration: Migration) -> Proof:
        pairs, left_out = self._pairs
        trials = [_Trial(pair, migration, self.x) for pair in pairs]
        self._compare_recorded(migration)
        for trial in trials:
            trial.compare_stored()
        try:
            samples = [trial.compare_random() for trial in trials]
            # In train mode statistics are not read, in eval mode they are: dependence in one of the two will do.
            unread = _unread(trials, samples)
        except _Different as error:
            blind = _blind(trials) if migration.stored is not None else []
            raise _vacuous(error, blind) if blind else error from None
        if unread:
            return _missing(f"the output does not depend on {some(unread)}")
        return _praise(trials, left_out, has_gradients=_compare_gradients(trials, samples))

    @functools.cached_property
    def _pairs(self) -> tuple[list[_Pair], list[str]]:
        """The two models in every mode that both have, and the modes that neither takes."""
        found, left_out = [], []
        for mode in modes_of(self.old, self.new):
            needs, refusals = [], []
            sides = zip(("old", "new"), (self.old, self.new), mode.calls, self.unsaved, strict=True)
            for side, layer, call, unsaved in sides:
                try:
                    needs.append(without(find_needs(in_mode(layer, call), self.x, side), unsaved))
                except LayerError as error:
                    refusals.append(error.what)
            if len(refusals) == 1:
                raise _Different(_missing(f"could not be tried in {mode.name} mode: {refusals[0]}"))
            if refusals:
                left_out.append(mode.name)
            else:
                one, two = (in_mode(layer, call) for layer, call in zip((self.old, self.new), mode.calls, strict=True))
                found.append(_Pair(mode=mode, old=Program(one, needs[0]), new=Program(two, needs[1])))
        if not found:
            raise _Different(_missing("could not be tried: neither model takes the input"))
        return found, left_out

    def _compare_recorded(self, migration: Migration) -> None:
        """The run's code may be another by now: what it saved is what counts, where no draw is in it."""
        if migration.recorded is None or migration.stored is None:
            return
        needs = without(find_needs(self.new, self.x, "new"), self.unsaved[1])
        if len(needs.streams) > 1:
            return
        given = Program(self.new, needs).run(put(migration.stored, migration.leaves), self.x)
        output = {path.removeprefix(OUTPUT).strip("/"): leaf for path, leaf in given.items() if is_output(path)}
        if found := closeness.differences(migration.recorded, output):
            where = closeness.largest_differences(found)
            sentence = f"the new one does NOT give the recorded output: it differs in {where} (on the old variables)"
            raise _Different(Proof(holds=False, sentence=sentence))


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The two models in one mode."""

    mode: Mode
    old: Program
    new: Program


class _Trial:
    """The comparison of two models in one mode."""

    def __init__(self, pair: _Pair, migration: Migration, x: np.ndarray) -> None:
        self.pair, self.migration, self.x = pair, migration, x
        self.updates = bool({*pair.old.needs.mutable, *pair.new.needs.mutable})
        self.num_scales = 0

    def compare_stored(self) -> None:
        """Compares on the old variables, and the new model on its own.

        Raises:
          _Different: They give something else.
        """
        stored, own = self.migration.stored, self.migration.own
        if stored is not None:
            self.compare(stored, self.x, "on the old variables")
        if stored is not None and own is not None:
            self.compare(stored, self.x, "on its own variables", own)

    def compare(
        self, variables: Arrays, x: np.ndarray, where: str, own: Arrays | None = None, *, is_far: bool = False
    ) -> Arrays:
        """What the old model gives; so does the new one for the same variables, or for its `own`.

        Raises:
          _Different: It does not.
        """
        leaves = self.migration.leaves
        old, new, given = self.pair.old, self.pair.new, own or put(variables, leaves)
        before = old.run(variables, x)
        expected, after = renamed(before, leaves), new.run(given, x)
        found = closeness.differences(expected, after)
        if found and (is_far or _are_near(expected, after)):
            # Compiled, two programs may round differently, which large values make much of: operation by operation,
            # equal ones do not.
            eager = renamed(old.run(variables, x, eager=True), leaves)
            found = closeness.differences(eager, new.run(given, x, eager=True))
        if found:
            raise _Different(Proof(holds=False, sentence=self._difference(found, where)))
        return before

    def compare_random(self) -> tuple[Arrays, np.ndarray, Arrays]:
        """Compares on random variables; those, the input, and what both gave.

        Raises:
          _Different: They give something else, or nothing finite.
        """
        first = None
        for seed, (scale, replaced) in enumerate((*NEAR, *FAR)):
            is_far = seed >= len(NEAR)
            for draw in DRAWS:
                shapes = self.pair.old.shapes
                variables = random_variables(shapes, self.migration.stored, seed, draw)
                variables |= scaled(variables, self.migration.migrated, replaced)
                x = random_input(self.x, seed, scale, num_ids(shapes))
                if is_finite(self.pair.old.run(variables, x)):
                    given = self.compare(variables, x, "on random variables", is_far=is_far)
                    self.num_scales += 1
                    first = first or (variables, x, given)
                    break
        if first is None:
            raise _Different(_missing("on random variables the old one gives NaN or infinities"))
        return first

    def _difference(self, found: Mapping[str, Any], where: str) -> str:
        lines = {path.removeprefix(OUTPUT).strip("/"): item for path, item in found.items()}
        what = "output" if any(map(is_output, found)) else "updates"
        places = closeness.largest_differences(lines)
        mode = f", {self.pair.mode.name} mode" if self.pair.mode.name else ""
        how = f"x {kind(self.x)}, {where}{mode}"
        return f"the new one does NOT give the old {what}: it differs in {places} ({how})"


def _blind(trials: Sequence[_Trial]) -> list[str]:
    """Migrated leaves that what the old model gives on the old variables does not depend on."""
    x, migration = trials[0].x, trials[0].migration
    assert migration.stored is not None
    given = [trial.pair.old.run(migration.stored, x) for trial in trials]
    found = []
    for name in migration.migrated:
        other = {**migration.stored, name: changed(migration.stored[name])}
        after = [trial.pair.old.run(other, x) for trial in trials]
        if not any(_reads(one, two, {name: other[name]}) for one, two in zip(given, after, strict=True)):
            found.append(name)
    return found


def _unread(trials: Sequence[_Trial], samples: Sequence[tuple[Arrays, np.ndarray, Arrays]]) -> list[str]:
    """Migrated leaves that nothing depends on; the new model is compared with each of them changed."""
    found = []
    for names in _together(trials[0].migration.migrated):
        is_read = False
        for trial, (variables, x, given) in zip(trials, samples, strict=True):
            other = {**variables, **{name: changed(variables[name]) for name in names}}
            after = trial.compare(other, x, f"with {names[0] if len(names) == 1 else some(names)} changed")
            is_read = is_read or _reads(given, after, {name: other[name] for name in names})
        found += [] if is_read else names
    return found


def _compare_gradients(trials: Sequence[_Trial], samples: Sequence[tuple[Arrays, np.ndarray, Arrays]]) -> bool:
    """Whether gradients could be compared; in train mode, where both models have one.

    Raises:
      _Different: The new model has others.
    """
    trial, (variables, x, _) = next(
        ((one, sample) for one, sample in zip(trials, samples, strict=True) if one.pair.mode.name == "train"),
        (trials[0], samples[0]),
    )
    leaves = trial.migration.leaves
    found = gradients.compare(trial.pair.old, trial.pair.new, variables, x, leaves)
    if found:
        sentence = (
            f"the new one gives the old output, but NOT the old gradients: {found} (x {kind(x)}, on random variables)"
        )
        raise _Different(Proof(holds=False, sentence=sentence))
    return found is not None


def _together(names: Sequence[str]) -> list[list[str]]:
    """The leaves that are changed at a time."""
    size = -(-len(names) // MAX_CHANGES) or 1
    return [list(names[first : first + size]) for first in range(0, len(names), size)]


def _reads(given: Arrays, after: Arrays, leaves: Arrays) -> bool:
    """Whether a call gives something else since these leaves are others."""
    # A leaf that is handed on as it came has changed, but nothing was computed with it.
    handed_on = {name for name, leaf in leaves.items() if name in after and same(after[name], leaf)}
    return any(not same(given.get(path), array) for path, array in after.items() if path not in handed_on)


def _vacuous(error: _Different, blind: Sequence[str]) -> _Different:
    sentence = f"the output does not depend on {some(blind)} with the old variables, and {error.proof.sentence}"
    return _Different(Proof(holds=False, sentence=sentence, is_missing=True))


def _praise(trials: Sequence[_Trial], left_out: Sequence[str], *, has_gradients: bool) -> Proof:
    migration = trials[0].migration
    renamed = ", renamed so," if any(old != new for old, new in migration.leaves.items()) else ""
    variables = "random variables" if migration.stored is None else "the old variables"
    sentence = f"on {variables}{renamed} the new one gives the old output bit for bit (x {kind(trials[0].x)})"
    num_scales = min(trial.num_scales for trial in trials)
    scales = f"random ones at {num_scales} {'scale' if num_scales == 1 else 'scales'}"
    tried = [*([variables] if migration.stored is not None else []), scales]
    together = len(_together(migration.migrated)[0]) if migration.migrated else 0
    how = "each replaced leaf changed" if together == 1 else f"replaced leaves changed {together} at a time"
    tried += [how] if migration.migrated else []
    tried += ["updated collections"] if any(trial.updates for trial in trials) else []
    tried += ["gradients"] if has_gradients else []
    modes = " and ".join(trial.pair.mode.name for trial in trials if trial.pair.mode.name)
    tried += [f"{modes} mode"] if modes else []
    tried += [f"not {listed(left_out)} mode, which neither takes"] if left_out else []
    return Proof(holds=True, sentence=sentence, tried=", ".join(tried))


def _are_near(one: Arrays, two: Arrays) -> bool:
    """Whether two results may differ by rounding alone, which a deep net makes much of."""
    alike = one.keys() == two.keys() and all(leaf.shape == two[name].shape for name, leaf in one.items())
    return alike and closeness.apart(one, two) < MAX_ROUNDED
