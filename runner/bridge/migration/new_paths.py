"""Old leaves, and what an old model gave, by the paths of the new one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runner.bridge.migration.program_in_mode import is_output
from runner.bridge.migration.trial_values import Arrays


def put(variables: Arrays, leaves: Mapping[str, str]) -> Arrays:
    """Old variables at their new paths."""
    return {leaves[name]: leaf for name, leaf in variables.items() if name in leaves}


def renamed(given: Arrays, leaves: Mapping[str, str]) -> dict[str, np.ndarray]:
    """What the old model gave, by the paths of the new one."""
    prefixes = sorted(_modules(leaves).items(), key=lambda pair: -len(pair[0]))

    def name(path: str) -> str:
        if path in leaves or is_output(path):
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
