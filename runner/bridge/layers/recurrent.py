"""Recurrent layers: flax's cells as layers of one array, over a sequence or for one step.

Factories and a module that take `rngs`, as in `layers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

CELLS: dict[str, Callable[..., Any]] = {
    "lstm": nnx.LSTMCell,
    "optimized_lstm": nnx.OptimizedLSTMCell,
    "gru": nnx.GRUCell,
    "simple": nnx.SimpleCell,
}


def rnn(cell: str, in_features: int, hidden_features: int, *, rngs: nnx.Rngs, **cell_kwargs: Any) -> nnx.RNN:
    """An `nnx.RNN` over a sequence, from a zero carry: [..., length, in_features] to [..., length, hidden_features].

    Args:
      cell: lstm, optimized_lstm, gru, or simple.
      in_features: Last axis of x.
      hidden_features: Width of the hidden state, which is the output.
      rngs: Streams `params` and `carry`.
      **cell_kwargs: For the cell: dtype, param_dtype, kernel_init, recurrent_kernel_init, activation_fn, …

    Raises:
      ValueError: An unknown cell.
    """
    return nnx.RNN(_cell(cell)(in_features, hidden_features, rngs=rngs, **cell_kwargs), rngs=rngs)


def bidirectional(
    cell: str, in_features: int, hidden_features: int, *, rngs: nnx.Rngs, **cell_kwargs: Any
) -> nnx.Bidirectional:
    """An `nnx.Bidirectional` of two RNNs: [..., length, in_features] to [..., length, 2 hidden_features].

    Args:
      cell: lstm, optimized_lstm, gru, or simple.
      in_features: Last axis of x.
      hidden_features: Width of each hidden state; the output is both, forward first.
      rngs: Streams `params` and `carry`.
      **cell_kwargs: For both cells.

    Raises:
      ValueError: An unknown cell.
    """
    forward, backward = (rnn(cell, in_features, hidden_features, rngs=rngs, **cell_kwargs) for _ in range(2))
    return nnx.Bidirectional(forward, backward, rngs=rngs)


class Step(nnx.Module):
    """One step of a cell from a zero carry: [..., in_features] to [..., hidden_features].

    Args:
      cell: lstm, optimized_lstm, gru, or simple.
      in_features: Last axis of x.
      hidden_features: Width of the hidden state, which is the output.
      rngs: Streams `params` and `carry`.
      **cell_kwargs: For the cell.

    Raises:
      ValueError: An unknown cell.
    """

    def __init__(
        self, cell: str, in_features: int, hidden_features: int, *, rngs: nnx.Rngs, **cell_kwargs: Any
    ) -> None:
        self.cell = _cell(cell)(in_features, hidden_features, rngs=rngs, **cell_kwargs)
        self.carry_rngs = rngs.carry.fork()

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., in_features]. Returns [..., hidden_features]."""
        carry = self.cell.initialize_carry(x.shape, self.carry_rngs)
        return self.cell(carry, x)[1]


def _cell(name: str) -> Callable[..., Any]:
    if name not in CELLS:
        raise ValueError(f"cell={name}: no such cell, there are {', '.join(CELLS)}")
    return CELLS[name]
