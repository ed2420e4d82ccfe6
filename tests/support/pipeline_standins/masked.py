"""big_vision, as a layer inside meets it: only params exist, a scan that lists no more, masks by the end of a name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx import bridge

WIDTH, HIDDEN = 8, 16
DECAYED = ((".*/kernel$", 1.0),)


class MlpBlock(nn.Module):
    """The Linen one."""

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        x = nn.gelu(nn.Dense(HIDDEN)(x))
        return nn.Dense(WIDTH)(x)


class Block(nn.Module):
    layer: Any

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> tuple[jax.Array, None]:
        return x + self.layer(name="MlpBlock_0")(nn.LayerNorm()(x), deterministic), None


class Encoder(nn.Module):
    """Two blocks in a scan that lists `params` alone, under remat: [batch, length, 8] to the same."""

    layer: Any = MlpBlock

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        block = nn.remat(Block, prevent_cse=False, static_argnums=(2,))
        lift = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=2,
        )
        return lift(self.layer, name="encoderblock")(x, not train)[0]


class Mlp(nnx.Module):
    """The NNX one, under the same names."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.Dense_0, self.Dense_1 = nnx.Linear(WIDTH, HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.Dense_1(nnx.gelu(self.Dense_0(x)))


class Normed(Mlp):
    """With statistics, which the scan does not carry."""

    def __init__(self, *, rngs: nnx.Rngs):
        super().__init__(rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return super().__call__(self.norm(x, use_running_average=deterministic))


class Named(nnx.Module):
    """Matrices that are called something else than `kernel`."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.w_in = nnx.Param(jax.random.normal(rngs.params(), (WIDTH, HIDDEN)))
        self.w_out = nnx.Param(jax.random.normal(rngs.params(), (HIDDEN, WIDTH)))

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return nnx.gelu(x @ self.w_in[...]) @ self.w_out[...]


class Listed(nnx.Module):
    """With an nnx.List, whose keys are numbers."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2)])

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.layers[1](nnx.gelu(self.layers[0](x)))


def wrapped(kind: type[nnx.Module]) -> Any:
    """What makes the wrapped layer, for `Encoder(layer=...)`."""

    def make(name: str | None = None) -> nn.Module:
        return bridge.to_linen(kind, name=name)

    return make


class Migrated(Encoder):
    """The new encoder, for `diff`."""

    layer: Any = wrapped(Mlp)


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves by their names, joined with `/`.

    Raises:
      TypeError: A key is no string.
    """
    leaves: dict[str, Any] = {}
    for key, node in tree.items():
        if isinstance(node, Mapping):
            leaves |= {key + "/" + name: leaf for name, leaf in flat(node).items()}
        else:
            leaves[key] = node
    return leaves


def decayed(params: Mapping[str, Any], patterns: Sequence[tuple[str, float]] = DECAYED) -> set[str]:
    """Names of the leaves that get weight decay."""
    return {name for name in flat(params) if any(re.fullmatch(pattern, name) for pattern, _ in patterns)}


def save_npz(path: str, params: Mapping[str, Any]) -> None:
    np.savez(path, **{name: np.asarray(leaf) for name, leaf in flat(params).items()})


def load_npz(path: str, fresh: Mapping[str, Any]) -> Any:
    """The tree of `fresh` with the leaves at `path`.

    Raises:
      ValueError: The names differ.
    """
    with np.load(path) as read:
        saved = dict(read)
    if saved.keys() != flat(fresh).keys():
        raise ValueError(f"other names: {sorted(saved.keys() ^ flat(fresh).keys())}")

    def filled(tree: Mapping[str, Any], start: str) -> dict[str, Any]:
        return {
            key: filled(node, f"{start}{key}/") if isinstance(node, Mapping) else jnp.asarray(saved[start + key])
            for key, node in tree.items()
        }

    return filled(fresh, "")
