"""Brax, as a layer inside meets it: one key for init, nothing for apply, an optimiser over all that init returns."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import optax
from flax import nnx
from flax.nnx import bridge

WIDTH = 8


class Policy(nn.Module):
    """Observations [batch, 3] to logits [batch, 2]; `layer` takes the place of hidden_1."""

    layer: Any = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        x = nn.swish(nn.Dense(WIDTH, name="hidden_0")(obs))
        middle = nn.Dense(WIDTH, name="hidden_1") if self.layer is None else self.layer(name="hidden_1")
        return nn.Dense(2, name="hidden_2")(nn.swish(middle(x)))


class Gated(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.linear, self.gate = (nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear(x) * nnx.sigmoid(self.gate(x))


class Dropped(Gated):
    """Asks init for a second key."""

    def __init__(self, *, rngs: nnx.Rngs):
        super().__init__(rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(super().__call__(x))


class Normed(Gated):
    """Statistics, which no update reaches and the optimiser trains."""

    def __init__(self, *, rngs: nnx.Rngs):
        super().__init__(rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(super().__call__(x))


class Noisy(Gated):
    """Noise at every call, from a key that no call is given."""

    def __init__(self, *, rngs: nnx.Rngs):
        super().__init__(rngs=rngs)
        self.rngs = rngs

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x) + 0.1 * jax.random.normal(self.rngs.params(), x.shape)


class Tagged(Gated):
    """Metadata, which puts a box around the array."""

    def __init__(self, *, rngs: nnx.Rngs):
        super().__init__(rngs=rngs)
        self.scale = nnx.Param(jax.numpy.ones(WIDTH), unit="rad")

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.scale * super().__call__(x)


class Listed(nnx.Module):
    """Numbers for keys."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.parts = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2)])

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.parts[1](nnx.relu(self.parts[0](x)))


def wrapped(kind: type[nnx.Module], **arguments: Any) -> Any:
    """What makes the wrapped layer, for `Policy(layer=...)`."""

    def make(name: str | None = None) -> nn.Module:
        return bridge.to_linen(kind, **arguments, name=name)

    return make


class Migrated(Policy):
    """The new policy, for `diff`: an nnx.Linear for hidden_1."""

    layer: Any = wrapped(nnx.Linear, in_features=WIDTH, out_features=WIDTH)


def update(policy: nn.Module, params: Any, state: Any, obs: jax.Array) -> tuple[Any, Any]:
    """One step of Adam over `params`, which are all that init gave; the optimiser sees only gradients."""
    grads = jax.grad(lambda params: ((policy.apply(params, obs) - 1.0) ** 2).mean())(params)
    updates, state = optax.adam(1e-2).update(grads, state)
    return optax.apply_updates(params, updates), state
