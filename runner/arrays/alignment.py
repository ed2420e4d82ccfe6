"""Which modules of an old tree are which of a new one, from the order in which Linen named them. Pure.

Linen numbers a module without a name by its class, in the order of creation: a replaced layer renumbers its
neighbours. Where both models were traced, modules match by position among their siblings; where only the new one was,
by the numbers in the old names, if they fit in exactly one way. An explicit name that both have matches itself.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runner.arrays import trees
from runner.arrays.tree_moves import kind

AUTO_NAME = re.compile(r"(\w+)_(\d+)")
WRAPPED = "ToLinen"

# Ways of sharing out replaced layers among the old classes that are kept apart: beyond it, none is taken.
MAX_STATES = 10_000

# Orders of modules with the same leaves that are tried.
MAX_ORDERS = 120

# A module's path, without the collection.
Path = tuple[str, ...]

# Dtype and shape of the leaves in a module, by their collection and the rest of their path.
Contents = Mapping[tuple[str, Path], str]


class Child(NamedTuple):
    """A name in a Linen module: the class that has it, and whether Linen chose it."""

    name: str
    cls: str
    auto: bool


# The names in every module, in the order in which Linen gave them.
Creation = Mapping[Path, Sequence[Child]]


@dataclass(frozen=True, kw_only=True)
class Move:
    """A module's leaves, all of which are under another path in the new tree: `params/old/*` is `params/new/*` now."""

    old: Path
    new: Path


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How the modules of two trees correspond.

    Attributes:
      moves: Every matched module with leaves; those that are at the same path too.
      names: New paths of modules that Linen named otherwise, and their old names.
    """

    moves: Sequence[Move] = ()
    names: Mapping[Path, str] = field(default_factory=dict)

    def renames(self, old: Any, new: Any) -> dict[str, str]:
        """Old paths of leaves to new ones, where they differ."""
        there, wanted = _contents(old), _contents(new)
        found = {}
        for move in self.moves:
            after = wanted.get(move.new, {})
            for (collection, rest), _ in there.get(move.old, {}).items():
                if (collection, rest) in after:
                    found[_spell(collection, move.old, rest)] = _spell(collection, move.new, rest)
        return {before: name for before, name in found.items() if before != name}


def align(old: Any, new: Any, before: Creation | None, after: Creation | None, *, by_position: bool) -> Alignment:
    """Matches the modules of two trees.

    Args:
      old: The existing tree.
      new: The expected tree.
      before: Names in the modules of the old model, as they were created; None for a bare checkpoint.
      after: The same of the new model.
      by_position: Whether explicit names count no more than Linen's: what two swapped names need. Takes both models.
    """
    work = _Work(_contents(old), _contents(new), before, after, by_position)
    work.modules((), ())
    return Alignment(moves=work.moves, names=work.names)


def by_order(old: Any, new: Any, before: Creation | None, after: Creation | None) -> Iterator[dict[str, str]]:
    """Ways to match all that hold leaves, at whatever depth, each as old paths of leaves to new ones.

    Modules with the same leaves match in the order of their creation first, then in every other: inside an NNX module
    the order is not known. Only a proof can tell which of them is right. No way fits if the leaves differ.
    """
    there, wanted = _contents(old), _contents(new)
    first, second = _holders(there, before), _holders(wanted, after)
    kept = {path for path in first if second.get(path) == first[path] and not any(map(AUTO_NAME.fullmatch, path))}
    one, two = (_alike({path: own for path, own in side.items() if path not in kept}) for side in (first, second))
    if {key: len(paths) for key, paths in one.items()} != {key: len(paths) for key, paths in two.items()}:
        return
    keys = list(one)
    for chosen in itertools.islice(itertools.product(*(itertools.permutations(two[key]) for key in keys)), MAX_ORDERS):
        found: dict[str, str] = {}
        for key, places in zip(keys, chosen, strict=True):
            for path, place in zip(one[key], places, strict=True):
                found |= {_spell(kind, path, rest): _spell(kind, place, rest) for (kind, rest), _ in key}
        yield {name: other for name, other in found.items() if name != other}


Own = frozenset[tuple[tuple[str, Path], str]]


def _holders(modules: Mapping[Path, Contents], creation: Creation | None) -> dict[Path, Own]:
    """The leaves that each module holds itself, in the order of creation from the outside in."""
    found: dict[Path, Own] = {}

    def visit(path: Path) -> None:
        if own := frozenset(item for item in modules.get(path, {}).items() if len(item[0][1]) == 1):
            found[path] = own
        names = sorted(_children(modules, path), key=lambda name: (_class(name), _number(name)))
        made = _ordered(names, creation, path)
        for name in names if made is None else [child.name for child in made]:
            visit((*path, name))

    visit(())
    return found


def _alike(holders: Mapping[Path, Own]) -> dict[Own, list[Path]]:
    found: dict[Own, list[Path]] = defaultdict(list)
    for path, own in holders.items():
        found[own].append(path)
    return found


class _Work:
    def __init__(
        self,
        there: Mapping[Path, Contents],
        wanted: Mapping[Path, Contents],
        before: Creation | None,
        after: Creation | None,
        by_position: bool,
    ) -> None:
        self.there, self.wanted = there, wanted
        self.before, self.after, self.by_position = before, after, by_position
        self.moves: list[Move] = []
        self.names: dict[Path, str] = {}

    def modules(self, old: Path, new: Path) -> None:
        """Matches what is in two modules that correspond."""
        one, two = self.there.get(old, {}), self.wanted.get(new, {})
        if not self.by_position and one == two:
            self.moves.append(Move(old=old, new=new))
            return
        if one != two and (shift := _shift(one, two)) is not None:
            self.moves.append(Move(old=(*old, *shift[0]), new=(*new, *shift[1])))
            return
        inner, outer = _children(self.there, old), _children(self.wanted, new)
        pairs = self._pairs(old, new, inner, outer)
        if not pairs:
            if one != two and self._deeper(old, new, one, two):
                return
            self.moves.append(Move(old=old, new=new))
            return
        for name, other in pairs.items():
            if name != other:
                self.names[*new, other] = name
            self.modules((*old, name), (*new, other))
        if any(len(rest) == 1 for _, rest in one):  # variables of the module itself
            self.moves.insert(0, Move(old=old, new=new))

    def _deeper(self, old: Path, new: Path, one: Contents, two: Contents) -> bool:
        """Whether one module is, with its children named otherwise, the only thing in the other."""
        if (inside := _only_child(two)) and sorted(one.values()) == sorted(two.values()):
            self.modules(old, (*new, inside))
        elif (inside := _only_child(one)) and sorted(one.values()) == sorted(two.values()):
            self.modules((*old, inside), new)
        else:
            return False
        return True

    def _pairs(self, old: Path, new: Path, inner: Sequence[str], outer: Sequence[str]) -> dict[str, str]:
        """Old names of the children of two modules, with their new names."""
        after = _ordered(outer, self.after, new)
        if after is None or not inner:
            return {}
        before = _ordered(inner, self.before, old)
        if self.by_position:
            whole = {one.name: two.name for one, two in zip(before or (), after, strict=False)}
            return whole if len(before or ()) == len(after) and self._all_fit(old, new, whole) else {}
        given = {child.name for child in after if not child.auto}
        given |= {child.name for child in before or () if not child.auto}
        kept = {name: name for name in inner if name in outer and (name in given or not AUTO_NAME.fullmatch(name))}
        rest = [child for child in after if child.name not in kept]
        known = None if before is None else [child for child in before if child.name not in kept]
        if known is not None and len(known) == len(rest):
            paired = {one.name: two.name for one, two in zip(known, rest, strict=True)}
            if self._all_fit(old, new, paired):
                return kept | paired
        numbered = self._by_number(old, new, [name for name in inner if name not in kept], rest)
        left = {name: name for name in inner if name in outer and name not in kept}
        return kept | (left if numbered is None else numbered)

    def _by_number(self, old: Path, new: Path, names: Sequence[str], rest: Sequence[Child]) -> dict[str, str] | None:
        """Shares out the new modules among the old classes in the only way that fits; None if there is no such way."""
        classes: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names, key=_number):
            classes[_class(name)].append(name)
        if len(names) != len(rest):
            return None
        order = list(classes)
        # How many of each class are taken: the number of ways to get there (at most 2), and one of them.
        states: dict[tuple[int, ...], tuple[int, tuple[Any, ...] | None]] = {(0,) * len(order): (1, None)}
        for child in rest:
            following: dict[tuple[int, ...], tuple[int, tuple[Any, ...] | None]] = {}
            for taken, (num, way) in states.items():
                for index, cls in enumerate(order):
                    if taken[index] == len(classes[cls]) or (child.cls in classes and child.cls not in (cls, WRAPPED)):
                        continue
                    name = classes[cls][taken[index]]
                    if not self._fits((*old, name), (*new, child.name)):
                        continue
                    then = (*taken[:index], taken[index] + 1, *taken[index + 1 :])
                    others, _ = following.get(then, (0, None))
                    following[then] = (min(num + others, 2), ((name, child.name), way))
            states = following
            if len(states) > MAX_STATES:
                return None
        num, way = states.get(tuple(len(classes[cls]) for cls in order), (0, None))
        return dict(_unrolled(way)) if num == 1 else None

    def _all_fit(self, old: Path, new: Path, pairs: Mapping[str, str]) -> bool:
        return all(self._fits((*old, one), (*new, two)) for one, two in pairs.items())

    def _fits(self, old: Path, new: Path) -> bool:
        one, two = self.there.get(old, {}), self.wanted.get(new, {})
        if one == two or _shift(one, two) is not None:
            return True
        # Renumbered inside: the same arrays, and some module in there was replaced too.
        nested = any(len(rest) > 1 for _, rest in [*one, *two])
        return nested and sorted(one.values()) == sorted(two.values())


def _contents(tree: Any) -> dict[Path, dict[tuple[str, Path], str]]:
    """The leaves in every module, by its path; the root is `()`."""
    found: dict[Path, dict[tuple[str, Path], str]] = defaultdict(dict)
    for path, leaf in trees.flatten(tree):
        collection, *parts = map(str, path)
        for cut in range(len(parts)):
            found[tuple(parts[:cut])][collection, tuple(parts[cut:])] = kind(leaf)
    return found


def _children(modules: Mapping[Path, Contents], parent: Path) -> list[str]:
    return list(dict.fromkeys(rest[0] for _, rest in modules.get(parent, {}) if len(rest) > 1))


def _only_child(contents: Contents) -> str | None:
    names = {rest[0] for _, rest in contents}
    return names.pop() if len(names) == 1 and all(len(rest) > 1 for _, rest in contents) else None


def _ordered(names: Sequence[str], creation: Creation | None, parent: Path) -> list[Child] | None:
    """The children with leaves, in the order of their creation; None where that is not known."""
    made = [child for child in (creation or {}).get(parent, ()) if child.name in names]
    return made if len(made) == len(names) else None


def _shift(one: Contents, two: Contents) -> tuple[Path, Path] | None:
    """The names that precede everything in the old contents, and in the new: at most one of them has any."""
    if len(one) != len(two):
        return None
    for depth in range(1, _common(two) + 1):
        if {(collection, rest[depth:]): leaf for (collection, rest), leaf in two.items()} == one:
            return (), next(iter(two))[1][:depth]
    for depth in range(1, _common(one) + 1):
        if {(collection, rest[depth:]): leaf for (collection, rest), leaf in one.items()} == two:
            return next(iter(one))[1][:depth], ()
    return None


def _common(contents: Contents) -> int:
    """How many names all paths begin with; the last name of a path does not count."""
    paths = [rest for _, rest in contents]
    most = min((len(path) for path in paths), default=1) - 1
    return next((depth for depth in range(most) if len({path[depth] for path in paths}) > 1), most)


def _class(name: str) -> str:
    match = AUTO_NAME.fullmatch(name)
    return match[1] if match else name


def _number(name: str) -> int:
    match = AUTO_NAME.fullmatch(name)
    return int(match[2]) if match else 0


def _unrolled(way: tuple[Any, ...] | None) -> list[tuple[str, str]]:
    found = []
    while way is not None:
        pair, way = way
        found.append(pair)
    return found[::-1]


def _spell(collection: str, module: Path, rest: Path) -> str:
    return "/".join([collection, *module, *rest])
