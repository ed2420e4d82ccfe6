"""Kauldron, as a layer inside meets it: the mode is a property that only Linen modules see."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
import jax

_MODE: ContextVar[bool | None] = ContextVar("_MODE", default=None)


@contextlib.contextmanager
def training(value: bool) -> Iterator[None]:
    """Sets what `is_training` says below."""
    token = _MODE.set(value)
    try:
        yield
    finally:
        _MODE.reset(token)


def is_training() -> bool:
    """The mode of the surrounding `training`.

    Raises:
      ValueError: No `training` is around.
    """
    mode = _MODE.get()
    if mode is None:
        raise ValueError("is_training was asked, and not set at init or apply")
    return mode


class Model(nn.Module):
    """The layer between two others: [batch, 8] to [batch, 2].

    Attributes:
      layer: Creates the layer.
      told: Whether the layer is told the mode, as `deterministic`.
    """

    layer: Any
    told: bool = True

    @property
    def is_training(self) -> bool:
        """See `is_training`."""
        return is_training()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        """`train=False` is its evaluation."""
        with training(train):
            how = {"deterministic": not self.is_training} if self.told else {}
            return nn.Dense(2, name="head")(self.layer(name="mlp")(x, **how))
