"""EasyLM, as a layer inside meets it: `deterministic` by position, a scan over chunks, a state over all of init."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.nnx import bridge
from flax.training.train_state import TrainState

WIDTH, HIDDEN, VOCABULARY = 8, 16, 16
RULES = (
    ("wte/embedding", ("mp", "fsdp")),
    ("feed_forward/(w1|w3)/kernel", ("fsdp", "mp")),
    ("feed_forward/w2/kernel", ("mp", "fsdp")),
    ("lm_head/kernel", ("fsdp", "mp")),
    (".*", (None,)),
)
STREAMS = ("params", "dropout", "fcm")


class FeedForward(nn.Module):
    """The Linen one: w2(silu(w1(x)) * w3(x))."""

    def setup(self) -> None:
        self.w1, self.w3 = (nn.Dense(HIDDEN, use_bias=False) for _ in range(2))
        self.w2 = nn.Dense(WIDTH, use_bias=False)

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.w2(nn.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """[batch, length, 8] to the same; with `chunks`, the layer runs in a scan that lists `params` alone."""

    layer: Any
    chunks: int = 0

    def setup(self) -> None:
        self.feed_forward = self.layer()

    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        if not self.chunks:
            return x + self.feed_forward(x, deterministic)
        parts = x.reshape(x.shape[0], self.chunks, -1, WIDTH)
        scan = nn.scan(
            lambda layer, carry, part: (carry, layer(part, deterministic=deterministic)),
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=1,
            out_axes=1,
        )
        return x + scan(self.feed_forward, None, parts)[1].reshape(x.shape)


class Model(nn.Module):
    """Tokens int32 [batch, length] to logits [batch, length, 16], one block under remat."""

    layer: Any = FeedForward
    chunks: int = 0

    def setup(self) -> None:
        self.wte = nn.Embed(VOCABULARY, WIDTH)
        self.h = nn.remat(Block, static_argnums=(2,))(self.layer, self.chunks)
        self.lm_head = nn.Dense(VOCABULARY, use_bias=False)

    def __call__(self, input_ids: jax.Array, deterministic: bool = False) -> jax.Array:
        """As its train step calls it; `deterministic=True` is its evaluation."""
        return self.lm_head(self.h(self.wte(input_ids), deterministic))


class SwiGLU(nnx.Module):
    """The NNX one, under the same names."""

    def __init__(self, drop: float = 0.0, *, rngs: nnx.Rngs):
        self.w1, self.w3 = (nnx.Linear(WIDTH, HIDDEN, use_bias=False, rngs=rngs) for _ in range(2))
        self.w2 = nnx.Linear(HIDDEN, WIDTH, use_bias=False, rngs=rngs)
        self.dropout = nnx.Dropout(drop, rngs=rngs)

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.dropout(self.w2(nnx.silu(self.w1(x)) * self.w3(x)), deterministic=deterministic)


class Normed(SwiGLU):
    """With statistics besides params."""

    def __init__(self, *, rngs: nnx.Rngs):
        super().__init__(rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return super().__call__(self.norm(x, use_running_average=deterministic), deterministic)


class Gated(nnx.Module):
    """Under names that only the last rule meets."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.gate, self.up = (nnx.Linear(WIDTH, HIDDEN, use_bias=False, rngs=rngs) for _ in range(2))
        self.down = nnx.Linear(HIDDEN, WIDTH, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class Stuck(SwiGLU):
    """Takes `deterministic` and drops all the same."""

    def __init__(self, *, rngs: nnx.Rngs):
        super().__init__(0.5, rngs=rngs)

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return super().__call__(x, deterministic=False)


@dataclass(frozen=True)
class Made:
    """What makes the wrapped layer, for `Model(layer=...)`."""

    kind: type[nnx.Module]

    def __call__(self) -> nn.Module:
        return bridge.to_linen(self.kind)


class Migrated(Model):
    """The new model, for `diff`."""

    layer: Any = Made(SwiGLU)


def train_state(variables: Any) -> TrainState:
    """A state whose `params` are all that init gave."""
    return TrainState.create(params=variables, tx=optax.adamw(1e-2), apply_fn=None)


def step(model: nn.Module, state: TrainState, tokens: jax.Array, key: jax.Array) -> TrainState:
    """One update, without `mutable`."""
    rngs = dict(zip(STREAMS, jax.random.split(key, 3), strict=True))

    def loss(params: Any) -> jax.Array:
        logits = model.apply(params, tokens, deterministic=False, rngs=rngs)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, tokens))

    return state.apply_gradients(grads=jax.grad(loss)(state.params))
