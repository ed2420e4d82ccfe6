"""Other seeds for the generators of NumPy and Python that a constructor makes with a seed of its own.

What is drawn from them is then another array: a table or a basis stays as it is, however irregular its numbers are.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from runner.checks.probes import swapped


def given() -> contextlib.AbstractContextManager[list[str]]:
    """Gives each generator that the user's code seeds another seed; gives the calls that were answered so."""
    return swapped.functions(
        [
            (np.random, "default_rng", "np.random.default_rng", _other),
            (np.random, "RandomState", "np.random.RandomState", _other),
            (np.random, "seed", "np.random.seed", _other),
            (random, "Random", "random.Random", _other),
            (random, "seed", "random.seed", _other),
        ]
    )


def _other(real: Callable[..., Any], seed: Any = None) -> Any:
    return real(seed + 1) if isinstance(seed, (int, np.integer)) else swapped.AS_EVER
