"""Tries to tell a new model from an old one on the same variables: on the old ones, on random ones, leaf by leaf.

What is compared is all that a call gives: the output and every collection that it updates, in train and in eval mode.
Draws are the same on both sides (see `fixed_draws`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.arrays import closeness, trees
from runner.bridge.fixed_draws import fixed_keys
from runner.bridge.modes import Mode, in_mode, modes_of
from runner.bridge.needs import Needs, find_needs
from runner.bridge.trial_values import Arrays, changed, is_finite, random_input, random_variables, same
from runner.bridge.wrap import Bridged
from runner.errors import LayerError, listed

OUTPUT = "output"

# Random variables at two scales of x: an activation that is clipped, say at 6, looks like one that is not near zero.
SCALES = (1.0, 10.0)

MAX_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Whether two models do the same.

    Attributes:
      holds: None if it could not be tried.
      sentence: What was compared, or where they differ, or why it could not be tried.
    """

    holds: bool | None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Migration:
    """Two models and how their leaves correspond.

    Attributes:
      old: The old model.
      new: The new one.
      leaves: Paths of the old leaves, and the path of each in the new tree.
      migrated: The old leaves whose module was replaced: the output must depend on them.
      x: The input.
      stored: The old variables by path; None if there are only shapes.
      recorded: The output that a run saved, by path; None if there is none.
    """

    old: Bridged
    new: Bridged
    leaves: Mapping[str, str]
    migrated: Sequence[str]
    x: Any
    stored: Arrays | None
    recorded: Arrays | None = None


class _Different(Exception):
    """The two models differ, or can't be compared."""

    def __init__(self, proof: Proof) -> None:
        self.proof = proof
        super().__init__(proof.sentence)


def prove(migration: Migration) -> Proof:
    """Whether the new model gives what the old one does, bit for bit, wherever that was tried."""
    try:
        pairs, left_out = _pairs(migration)
        with np.errstate(all="ignore"):
            _compare_recorded(migration)
            for pair in pairs:
                if migration.stored is not None:
                    pair.compare(migration.stored, np.asarray(migration.x), "on the old variables")
            blind = _blind(pairs, migration, migration.stored) if migration.stored is not None else []
            try:
                samples = [pair.compare_random() for pair in pairs]
                # In train mode statistics are not read, in eval mode they are: dependence in one of the two will do.
                unread = _unread(pairs, migration, samples)
            except _Different as error:
                raise _vacuous(error, blind) if blind else error from None
    except _Different as error:
        return error.proof
    except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Proof(holds=None, sentence=f"could not be tried: a model raises {reason}")
    if unread:
        return Proof(holds=None, sentence=f"the output does not depend on {_some(unread)}")
    return Proof(holds=True, sentence=_praise(migration, pairs, left_out))


class _Pair:
    """The two models in one mode, compiled."""

    def __init__(self, migration: Migration, mode: Mode, needs: tuple[Needs, Needs]) -> None:
        self.migration, self.mode = migration, mode
        self.shapes = {trees.spell(path): leaf for path, leaf in trees.flatten(trees.unbox(needs[0].variables))}
        self.old = _Program(in_mode(migration.old, mode.calls[0]), needs[0])
        self.new = _Program(in_mode(migration.new, mode.calls[1]), needs[1])
        self.updates = bool(set(needs[0].mutable) | set(needs[1].mutable))

    def compare(self, variables: Arrays, x: np.ndarray, where: str) -> Arrays:
        """What both give for the same variables.

        Raises:
          _Different: They give something else.
        """
        leaves = self.migration.leaves
        renamed = {leaves[name]: leaf for name, leaf in variables.items() if name in leaves}
        before, after = self.old.run(variables, x), self.new.run(renamed, x)
        expected = _renamed(before, leaves)
        if closeness.differences(expected, after):
            # Compiled, two programs may round differently: operation by operation, equal ones do not.
            eager = _renamed(self.old.run(variables, x, eager=True), leaves)
            if found := closeness.differences(eager, self.new.run(renamed, x, eager=True)):
                raise _Different(Proof(holds=False, sentence=self._difference(found, where)))
        return before

    def compare_random(self) -> tuple[Arrays, np.ndarray, Arrays]:
        """Compares on random variables; those, the input, and what both gave.

        Raises:
          _Different: They give something else, or nothing finite.
        """
        first = None
        for seed, scale in enumerate(SCALES):
            for positive in (False, True):  # a variance, or what a logarithm is taken of
                variables = random_variables(self.shapes, self.migration.stored, seed, positive=positive)
                x = random_input(self.migration.x, seed, scale)
                if is_finite(self.old.run(variables, x)):
                    given = self.compare(variables, x, "on random variables")
                    first = first or (variables, x, given)
                    break
        if first is None:
            raise _Different(Proof(holds=None, sentence="on random variables the old one gives NaN or infinities"))
        return first

    def _difference(self, found: Mapping[str, Any], where: str) -> str:
        lines = {path.removeprefix(OUTPUT).strip("/"): item for path, item in found.items()}
        what = "output" if any(path.split("/")[0] == OUTPUT for path in found) else "updates"
        places = closeness.largest_differences(lines)
        mode = f", {self.mode.name} mode" if self.mode.name else ""
        return f"{where} the new one does NOT give the old {what}: it differs in {places} (x {_kind(self)}{mode})"


class _Program:
    """A model in one mode, compiled: from leaves by path to all that a call gives, by path."""

    def __init__(self, layer: Bridged, needs: Needs) -> None:
        self.layer, self.needs = layer, needs
        self.keys = {trees.spell(path): path for path, _ in trees.flatten(trees.unbox(needs.variables))}
        self.compiled = jax.jit(self._apply)

    def _apply(self, leaves: Mapping[str, Any], x: Any) -> Any:
        variables = trees.nest((self.keys[name], leaf) for name, leaf in leaves.items())
        output, updates = self.layer.apply(variables, fixed_keys(self.needs.streams), self.needs.mutable, x)
        return {OUTPUT: output, **trees.unbox(updates)}

    def run(self, leaves: Arrays, x: np.ndarray, *, eager: bool = False) -> Arrays:
        """Output below `output`, and updated collections below their names."""
        given = (self._apply if eager else self.compiled)(dict(leaves), jnp.asarray(x))
        return trees.named_arrays(given)


def _pairs(migration: Migration) -> tuple[list[_Pair], list[str]]:
    """The two models in every mode that both have, and the modes that neither takes."""
    found, left_out = [], []
    for mode in modes_of(migration.old, migration.new):
        needs, refusals = [], []
        for side, layer, call in zip(("old", "new"), (migration.old, migration.new), mode.calls, strict=True):
            try:
                needs.append(find_needs(in_mode(layer, call), migration.x, side))
            except LayerError as error:
                refusals.append(error.what)
        if len(refusals) == 1:
            raise _Different(Proof(holds=None, sentence=f"could not be tried in {mode.name} mode: {refusals[0]}"))
        if refusals:
            left_out.append(mode.name)
        else:
            found.append(_Pair(migration, mode, (needs[0], needs[1])))
    if not found:
        raise _Different(Proof(holds=None, sentence="could not be tried: neither model takes the input"))
    return found, left_out


def _compare_recorded(migration: Migration) -> None:
    """The run's code may be another by now: what it saved is what counts, where no draw is in it."""
    needs = find_needs(migration.new, migration.x, "new")
    if migration.recorded is None or migration.stored is None or len(needs.streams) > 1:
        return
    renamed = {migration.leaves[name]: leaf for name, leaf in migration.stored.items() if name in migration.leaves}
    given = _Program(migration.new, needs).run(renamed, np.asarray(migration.x))
    output = {path.removeprefix(OUTPUT).strip("/"): leaf for path, leaf in given.items() if path.split("/")[0] == OUTPUT}
    if found := closeness.differences(migration.recorded, output):
        where = closeness.largest_differences(found)
        sentence = f"on the old variables the new one does NOT give the recorded output: it differs in {where}"
        raise _Different(Proof(holds=False, sentence=sentence))


def _blind(pairs: Sequence[_Pair], migration: Migration, variables: Arrays) -> list[str]:
    """Migrated leaves that what the old model gives on the old variables does not depend on."""
    x = np.asarray(migration.x)
    given = [pair.old.run(variables, x) for pair in pairs]
    found = []
    for name in migration.migrated:
        other = {**variables, name: changed(variables[name])}
        after = [pair.old.run(other, x) for pair in pairs]
        if not any(_reads(one, two, name, other[name]) for one, two in zip(given, after, strict=True)):
            found.append(name)
    return found


def _unread(
    pairs: Sequence[_Pair], migration: Migration, samples: Sequence[tuple[Arrays, np.ndarray, Arrays]]
) -> list[str]:
    """Migrated leaves that nothing depends on; the new model is compared with each of them changed."""
    found = []
    for name in migration.migrated:
        is_read = False
        for pair, (variables, x, given) in zip(pairs, samples, strict=True):
            other = {**variables, name: changed(variables[name])}
            after = pair.compare(other, x, f"with {name} changed")
            is_read = is_read or _reads(given, after, name, other[name])
        found += [] if is_read else [name]
    return found


def _reads(given: Arrays, after: Arrays, name: str, leaf: np.ndarray) -> bool:
    """Whether a call gives something else since the leaf `name` is `leaf`."""
    # A leaf that is handed on as it came has changed, but nothing was computed with it.
    handed_on = {name} if name in after and same(after[name], leaf) else set()
    return any(not same(given.get(path), array) for path, array in after.items() if path not in handed_on)


def _vacuous(error: _Different, blind: Sequence[str]) -> _Different:
    sentence = f"the output does not depend on {_some(blind)} with the old variables, and {error.proof.sentence}"
    return _Different(Proof(holds=False, sentence=sentence))


def _praise(migration: Migration, pairs: Sequence[_Pair], left_out: Sequence[str]) -> str:
    moved = any(old != new for old, new in migration.leaves.items())
    where = ("on the old variables, renamed so," if moved else "on the old variables") if migration.stored else ""
    tried = f"{where} and on random ones" if where else "on random variables" + (", renamed so," if moved else "")
    updates = " and updates" if any(pair.updates for pair in pairs) else ""
    modes = " and ".join(pair.mode.name for pair in pairs if pair.mode.name)
    how = f"x {_kind(pairs[0])}" + (f", {modes} mode" if modes else "")
    refused = f"; neither takes {listed(left_out)} mode" if left_out else ""
    return f"{tried} the new one gives the old output{updates} bit for bit ({how}{refused})"


def _kind(pair: _Pair) -> str:
    x = jnp.asarray(pair.migration.x)
    return f"{x.dtype.name}[{','.join(map(str, x.shape))}]"


def _some(names: Sequence[str]) -> str:
    """Leaves without their collection, those of one module together: `mlp/* (4 leaves)`."""
    shorter = [name.partition("/")[2] or name for name in names]
    if len(shorter) <= MAX_NAMED:
        return listed(shorter, MAX_NAMED)
    heads = [name.split("/")[0] for name in shorter]
    return listed([f"{head}/* ({heads.count(head)} leaves)" for head in dict.fromkeys(heads)], MAX_NAMED)


def _renamed(given: Arrays, leaves: Mapping[str, str]) -> dict[str, np.ndarray]:
    """What the old model gave, by the paths of the new one."""
    prefixes = sorted(_modules(leaves).items(), key=lambda pair: -len(pair[0]))

    def name(path: str) -> str:
        if path in leaves or path.split("/")[0] == OUTPUT:
            return leaves.get(path, path)
        # What was sown has no leaf of its own: it is where its module is.
        collection, _, rest = path.partition("/")
        for old, new in prefixes:
            if rest.startswith(f"{old}/"):
                return f"{collection}/{new}{rest[len(old) :]}"
        return path

    return {name(path): array for path, array in given.items()}


def _modules(leaves: Mapping[str, str]) -> dict[str, str]:
    """Old and new path of every module that holds leaves itself, without the collection."""
    pairs = ((old.split("/")[1:-1], new.split("/")[1:-1]) for old, new in leaves.items())
    return {"/".join(old): "/".join(new) for old, new in pairs if old and old != new}
