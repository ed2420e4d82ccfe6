"""Finds collections that init gives and apply can do without: what was sown in init is often not saved."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax

from runner.arrays import trees
from runner.bridge.migration.modes import in_mode
from runner.bridge.migration.module_names import ModuleNames
from runner.bridge.needs import Needs, find_needs
from runner.bridge.rngs import apply_keys, key_shape
from runner.bridge.wrap import Bridged
from runner.errors import LayerError


def without(needs: Needs, collections: Collection[str]) -> Needs:
    """`needs` without the variables of some collections."""
    return replace(needs, variables={key: tree for key, tree in needs.variables.items() if key not in collections})


def unneeded(
    layer: Bridged, calls: Iterable[Mapping[str, Any]], x: Any, names: ModuleNames, collections: Iterable[str]
) -> set[str]:
    """Those of `collections` without which `layer` can be applied in every mode that it takes, as in eval.

    Linen makes a variable that apply reads and that is not there only where its collection may change: here it must
    not. A wrapped NNX layer takes what its constructor made for what is not there, so only what it sows counts.

    Args:
      layer: The model.
      calls: The arguments of its call in each mode.
      x: The input.
      names: The model's modules.
      collections: Names of collections.
    """
    found = set(collections)
    for call in calls if found else ():
        model = in_mode(layer, call)
        try:
            needs = find_needs(model, x, "")
        except LayerError:
            continue
        found = {
            one
            for one in found
            if one not in needs.variables or (_is_linens(needs, names, one) and _applies(model, needs, one, x))
        }
    return found


def _is_linens(needs: Needs, names: ModuleNames, collection: str) -> bool:
    """Whether nothing in a collection is state of a wrapped NNX layer."""
    tree = needs.variables[collection]
    return trees.is_sown(tree) or not any(names.is_wrapped(path) for path, _ in trees.flatten(tree))


def _applies(layer: Bridged, needs: Needs, collection: str, x: Any) -> bool:
    others = tuple(one for one in needs.mutable if one != collection)

    def apply(variables: Any, key: jax.Array, x: Any) -> Any:
        return layer.apply(variables, apply_keys(key, needs.streams), others, x)

    try:
        jax.eval_shape(apply, without(needs, {collection}).variables, key_shape(), x)
    except Exception:  # noqa: BLE001 - whatever Linen or the model raises for what is not there
        return False
    return True
