"""Optax optimisers by name, and gradients as they expect them."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from runner.errors import ConfigError, nearest

# Excluded: they need the loss as a function or a PRNG key of their own, or have been superseded.
OTHER_OPTIMIZERS = frozenset({"lbfgs", "noisy_sgd", "optimistic_adam"})


@functools.cache
def make_optimizer(name: str, learning_rate: float) -> optax.GradientTransformation:
    """Makes the optax optimiser `name`.

    Raises:
      ConfigError: There is no such optimiser that takes only a learning rate.
    """
    known = optimizer_names()
    if name not in known:
        close = nearest(name, known) or "adam"
        reason = "no such function in optax that takes a learning rate and gradients alone"
        raise ConfigError("train.optimizer", name, reason, f"train.optimizer={close}")
    return rated(name, learning_rate)


def rated(name: str, learning_rate: Any) -> optax.GradientTransformation:
    """The optax optimiser `name`; a traced learning rate is an argument of what is compiled."""
    optimizer = getattr(optax, name)(learning_rate=learning_rate)
    assert isinstance(optimizer, optax.GradientTransformation)
    return optimizer


def optimizer_names() -> list[str]:
    """Optax optimisers that need only a learning rate and are called with gradients."""
    functions = {name: item for name, item in vars(optax).items() if inspect.isfunction(item)}
    return sorted(
        name
        for name, function in functions.items()
        if "learning_rate" in inspect.signature(function).parameters
        and not name.startswith(("_", "scale_by_"))
        and name not in OTHER_OPTIMIZERS
    )


def descending(gradients: Any) -> Any:
    """`gradients` as optax expects them: conjugated where they are complex.

    For a real loss of a complex weight, JAX's gradient is the conjugate of the direction of steepest ascent
    (https://docs.jax.dev/en/latest/notebooks/autodiff_cookbook.html#complex-numbers-and-differentiation).
    """
    return jax.tree.map(lambda leaf: jnp.conj(leaf) if jnp.iscomplexobj(leaf) else leaf, gradients)
