"""Check 1, complete: the variables passed to apply match init's in path, shape, dtype and collection.

Linen raises on a missing or misshapen variable; a wrapped NNX layer silently uses whatever fits. A Param that is in no
tree, but in a plain object or a function, is in no variables. Where the type of a Variable has a `get_value` of its
own, the bridge stores what that gives as what is held.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from runner.arrays import tree_diff, tree_moves
from runner.arrays.tree_diff import Kind, LeafDiff
from runner.arrays.tree_moves import Parts
from runner.bridge import needs, rngs
from runner.checks.parts import own_storage, stray, unkept
from runner.checks.probes.subject import Subject
from runner.checks.results import verdicts
from runner.checks.user_code.python_state import placed
from runner.errors import listed
from runner.records.record import Check

NAME = "complete"
MAX_NAMED = 5

# A module's content: each leaf's place in it, with its collection, and what it is.
Content = Mapping[tuple[str, Parts], str]


def check(subject: Subject, *, full: bool) -> Check:
    """Whether the variables passed are those that init makes; with `full`, also those that a compiled init makes."""
    if lost := unkept.of_host(subject):
        return unkept.found(NAME, lost, subject)
    if unread := own_storage.unread(subject, NAME):
        return unread
    num_leaves = len(tree_diff.leaf_kinds(subject.needs.variables))
    differences = subject.differences
    if full and subject.given is None:
        differences = _differences(subject.init_variables, subject)
    if not differences:
        if weights := stray.find(subject):
            return stray.fail(NAME, weights)
        if transformed := _transformed(subject):
            return transformed
        held = f"all {num_leaves} leaves are as init makes them" if num_leaves > 1 else "the leaf is as init makes it"
        return verdicts.passed(NAME, held if num_leaves else "the layer has no variables", num_leaves=num_leaves)
    detail, names = _detail(differences, num_leaves), {}
    if _is_params_alone(subject):
        detail += "; these are the params without their collection"
    if any(one.kind in (Kind.missing, Kind.moved) for one in differences):
        names = new_names(subject)
    if names:
        detail += "; Linen names the layers of this host again: " + listed(
            [f"what was {'/'.join(old)} is {'/'.join(new)}" for new, old in names.items()], MAX_NAMED
        )
    evidence = {
        kind.value: [one.path for one in differences if one.kind is kind] for kind in Kind if kind is not Kind.same
    }
    named = {"/".join(new): "/".join(old) for new, old in names.items()}
    found = {kind: paths for kind, paths in evidence.items() if paths}
    return verdicts.fail(
        NAME, detail, fix(subject), num_leaves=num_leaves, **found, **({"names": named} if named else {})
    )


def _differences(given: Any, subject: Subject) -> list[LeafDiff]:
    return tree_diff.diff_trees(given, subject.needs.variables, moves=tree_moves.likely).changed


def _transformed(subject: Subject) -> Check | None:
    """The fail for Variables whose own `get_value` gives another value than they hold."""
    names = [placed(path, name) for path, native in subject.natives.items() for name in native.transformed]
    if not names:
        return None
    gives, has = ("gives", "its type has") if len(names) == 1 else ("give", "their types have")
    detail = (
        f"{listed(names, MAX_NAMED)} {gives} another value than what is held, since {has} a get_value: the bridge "
        "stores what is given, apply holds that, and so it is transformed once more at every call"
    )
    last = names[0].rpartition(".")[2]
    fix = f"y = jnp.exp(self.{last}[...])  # for example: in the call, and no get_value in the type"
    return verdicts.fail(NAME, detail, fix, transformed=names)


def _is_params_alone(subject: Subject) -> bool:
    """Whether the variables passed would be complete as the collection `params`."""
    wrapped = None if subject.given is None else {rngs.PARAMS: subject.given}
    return wrapped is not None and not _differences(wrapped, subject)


def fix(subject: Subject) -> str:
    """The code that makes the variables complete; explicit names in the host if renaming is the cause."""
    if _is_params_alone(subject):
        return "variables = {'params': variables}"
    if names := new_names(subject):
        return _naming(subject, names)
    differences = subject.differences
    moves = _moves([one for one in differences if one.kind is Kind.moved])
    lines = ["from flax.traverse_util import flatten_dict, unflatten_dict", "given = flatten_dict(variables)"]
    if moves:
        lines += [
            f"for old, new in {moves}.items():",
            "    given = {new + p[len(old):] if p[: len(old)] == old else p: leaf for p, leaf in given.items()}",
        ]
    if any(one.kind is not Kind.moved for one in differences):
        streams = ", ".join(f"'{stream}': k{num}" for num, stream in enumerate(subject.needs.streams, start=1))
        lines += [
            f"fresh = flatten_dict(model.init({{{streams}}}, x))",
            "fits = [p for p, leaf in fresh.items() if p in given and given[p].shape == leaf.shape]",
            "kept = {p: given[p].astype(fresh[p].dtype) for p in fits}",
            "variables = unflatten_dict({**fresh, **kept})  # what is not kept is init's, and still to be trained",
        ]
    else:
        lines.append("variables = unflatten_dict(given)")
    return "\n".join(lines)


def new_names(subject: Subject) -> dict[Parts, Parts]:
    """Modules of the host that Linen's automatic naming renamed, by new path; empty if renaming is not the cause.

    A wrapped layer that replaces `Dense_1` is named `ToLinen_0`, and the former `Dense_2` becomes `Dense_1`. The layers
    are walked in the order in which the host creates them and assigned the names that they would have had; the result
    counts only if every old module is found exactly once, with the same leaves.
    """
    if subject.given is None:
        return {}
    wanted = tree_diff.leaf_kinds(subject.needs.variables)
    order = needs.names_in_order(subject.model, subject.needs.streams, subject.x)
    given = tree_diff.leaf_kinds(subject.given)
    parents = {tuple(one.path.split("/")[1:-2]) for one in subject.differences if one.path.count("/") > 1}
    found: dict[Parts, Parts] = {}
    for parent in sorted(parents):
        made, old = _modules(wanted, parent), _modules(given, parent)
        new = {name: made[name] for name in order.get(parent, ()) if name in made}
        for name, was in _matched(new, old).items():
            if name != was:
                found[*parent, name] = (*parent, was)
    return found


def _modules(kinds: Mapping[Parts, str], parent: Parts) -> dict[str, Content]:
    """The direct children of `parent` with their content."""
    found: dict[str, dict[tuple[str, Parts], str]] = defaultdict(dict)
    level = len(parent) + 1
    for path, kind in kinds.items():
        if path[1:level] == parent and len(path) > level + 1:
            found[path[level]][path[0], path[level + 1 :]] = kind
    return dict(found)


def _matched(new: Mapping[str, Content], old: Mapping[str, Content]) -> dict[str, str]:
    """The old name of every new module, or nothing if they don't match one to one."""
    counts: dict[str, int] = defaultdict(int)
    matched: dict[str, str] = {}
    for name, content in new.items():
        kind = _class_of(name)
        own = [kind] if kind and f"{kind}_0" in old else []
        others = sorted({_class_of(one) for one in old} - {"", kind}) if kind and not own else []
        automatic = [f"{one}_{counts[one]}" for one in [*own, *others]]
        candidates = [one for one in ([name] if not kind else automatic) if old.get(one) == content]
        if not candidates:
            return {}
        matched[name] = candidates[0]
        counts[_class_of(candidates[0])] += 1
    return matched if sorted(matched.values()) == sorted(old) else {}


def _class_of(name: str) -> str:
    """The class in an automatic name, `Dense` of `Dense_0`; empty for an explicit name."""
    match = re.fullmatch(r"(.+)_\d+", name)
    return match[1] if match else ""


def _naming(subject: Subject, names: Mapping[Parts, Parts]) -> str:
    lines = ["# in the host; a name for the first alone would raise NameInUseError:"]
    for new, old in names.items():
        where = f" in {'/'.join(new[:-1])}" if len(new) > 1 else ""
        kind = _class_of(new[-1])
        maker = "bridge.to_linen" if kind == "ToLinen" else kind
        lines.append(f"{maker}(…, name='{old[-1]}')  # what is {new[-1]}{where}")
        if maker == "bridge.to_linen" and subject.layer is not None:
            lines.append(f"# here: host.layer_name={old[-1]}")
    return "\n".join(lines)


def _moves(misplaced: Sequence[LeafDiff]) -> dict[Parts, Parts]:
    """From where to where, without what the ends of both paths share."""
    found: dict[Parts, Parts] = {}
    for one in misplaced:
        old, new = str(one.old).split("/"), one.path.split("/")
        while old[-1] == new[-1]:
            old, new = old[:-1], new[:-1]
        found[tuple(old)] = tuple(new)
    return found


def _detail(differences: Sequence[LeafDiff], num_leaves: int) -> str:
    by_kind: dict[Kind, list[LeafDiff]] = defaultdict(list)
    for one in differences:
        by_kind[one.kind].append(one)
    parts = []
    for kind, is_what in _WORDS.items():
        if found := by_kind.get(kind):
            verb = "is" if len(found) == 1 else "are"
            parts.append(f"{len(found)} {verb} {is_what}: {listed([_describe(one) for one in found], MAX_NAMED)}")
    made = "leaf" if num_leaves == 1 else "leaves"
    detail = f"of the {num_leaves} {made} that init makes, " + ", ".join(parts) if parts else ""
    if extra := by_kind.get(Kind.extra):
        leaves = "1 leaf is" if len(extra) == 1 else f"{len(extra)} leaves are"
        more = f"{leaves} given that init does not make: {listed([_describe(one) for one in extra], MAX_NAMED)}"
        detail = f"{detail}; {more}" if detail else more
    return detail


_WORDS = {
    Kind.missing: "missing",
    Kind.moved: "misplaced",
    Kind.reshaped: "misshapen",
    Kind.cast: "of another dtype",
}


def _describe(one: LeafDiff) -> str:
    if one.kind is Kind.moved:
        return f"{one.path} (lies at {one.old})"
    if one.kind in (Kind.reshaped, Kind.cast):
        return f"{one.path} (got {one.was}, wanted {one.wanted})"
    near = "given" if one.kind is Kind.missing else "wanted"
    return f"{one.path} ({near}: {one.nearest})" if one.nearest else one.path
