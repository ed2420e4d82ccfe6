"""Layers whose constructors need sizes, and rngs under other names."""

from __future__ import annotations

import jax
from flax import nnx


class InOut(nnx.Module):
    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(din, dout, rngs=rngs)

    def __call__(self, x):
        return self.lin(x)


class Width(InOut):
    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        super().__init__(dim, dim, rngs=rngs)


class Cell(InOut):
    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        super().__init__(input_size, hidden_size, rngs=rngs)


class Defaults(InOut):
    def __init__(self, in_features: int, out_features: int = 3, *, rngs: nnx.Rngs):
        super().__init__(in_features, out_features, rngs=rngs)


class Between(InOut):
    """`hidden_size` is between the two: nothing says what it is."""

    def __init__(self, input_dim: int, hidden_size: int, output_dim: int, *, rngs: nnx.Rngs):
        super().__init__(input_dim, output_dim, rngs=rngs)


class Heads(InOut):
    def __init__(self, dim: int, num_heads: int, *, rngs: nnx.Rngs):
        super().__init__(dim, dim, rngs=rngs)


class Rng(InOut):
    def __init__(self, din: int, dout: int, rng):
        super().__init__(din, dout, rngs=rng)


class Annotated(InOut):
    def __init__(self, din: int, dout: int, streams: nnx.Rngs | None = None):
        super().__init__(din, dout, rngs=streams)


class Keyed(nnx.Module):
    def __init__(self, din: int, dout: int, *, key: jax.Array):
        self.kernel = nnx.Param(jax.random.normal(key, (din, dout)))

    def __call__(self, x):
        return x @ self.kernel[...]


class RngIsKey(Keyed):
    def __init__(self, din: int, dout: int, rng):
        super().__init__(din, dout, key=jax.random.split(rng)[0])


class KeyIsText(InOut):
    def __init__(self, din: int, dout: int, key: str = "query", *, rngs: nnx.Rngs):
        super().__init__(din, dout, rngs=rngs)
        self.key = key


def keyed(din: int, dout: int, key):
    return Keyed(din, dout, key=key)


class Divided(InOut):
    """Its width must be a multiple of the heads."""

    def __init__(self, dim: int, num_heads: int, rate: float, *, rngs: nnx.Rngs):
        super().__init__(dim, dim, rngs=rngs)
        if dim % num_heads or not 0 <= rate < 1:
            raise ValueError("heads or rate")


class Unguessed(InOut):
    """No number is what it needs."""

    def __init__(self, dim: int, table, *, rngs: nnx.Rngs):
        super().__init__(len(table), dim, rngs=rngs)
