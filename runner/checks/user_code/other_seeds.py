"""Other seeds for the generators of NumPy, Python and JAX that a constructor makes with a seed of its own.

What is drawn from them is then another array: a table or a basis stays as it is, however irregular its numbers are.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from runner.checks.user_code import swapped

_OF_BITS = ("SeedSequence", "PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def given() -> contextlib.AbstractContextManager[list[str]]:
    """Gives each generator that the user's code seeds another seed; gives the calls that were answered so."""
    return swapped.functions(
        [
            (np.random, "default_rng", "np.random.default_rng", _other),
            (np.random, "RandomState", "np.random.RandomState", _other),
            (np.random, "seed", "np.random.seed", _other),
            *((np.random, name, f"np.random.{name}", _other) for name in _OF_BITS),
            *((jax.random, name, f"jax.random.{name}", _other) for name in ("key", "PRNGKey")),
            (random, "Random", "random.Random", _other),
            (random, "seed", "random.seed", _other),
        ]
    )


def _other(real: Callable[..., Any], seed: Any = None, **more: Any) -> Any:
    if isinstance(seed, (list, tuple)) and all(isinstance(one, (int, np.integer)) for one in seed) and seed:
        return real([*seed[:-1], seed[-1] + 1], **more)
    return real(seed + 1, **more) if isinstance(seed, (int, np.integer)) else swapped.AS_EVER
