"""The worked example: one NNX layer inside Linen, run eagerly, as in the flax guides."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge

from runner.config.settings.train import MAX_SEED
from runner.errors import ConfigError


def nnx_inside_linen(seed: float, x: jax.Array, features: float) -> jax.Array:
    """Runs an NNX layer inside Linen and returns its output: the worked example, eager, as in the flax guides.

    Args:
      seed: Non-negative integer; the init key is `jax.random.PRNGKey(int(seed))`.
      x: Input, shape [in_features].
      features: Positive integer.

    Returns:
      Output, shape [features].

    Raises:
      ConfigError: `seed` or `features` is not an integer or too small, or `x` has no axis.
    """
    num_features = _whole("features", features, least=1)
    root = _whole("seed", seed, least=0, most=MAX_SEED)
    x = jnp.asarray(x)
    if x.ndim < 1:
        raise ConfigError("input_shape", list(x.shape), "x needs at least one axis", "'input_shape=[4]'")
    if x.size == 0:
        raise ConfigError("input_shape", list(x.shape), "every axis needs at least one element", "'input_shape=[4]'")

    class Layer(nnx.Module):
        def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
            self.linear = nnx.Linear(in_features=in_features, out_features=out_features, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.linear(x)

    model = bridge.to_linen(Layer, in_features=x.shape[-1], out_features=num_features)
    variables = model.init(jax.random.PRNGKey(root), x)
    output = model.apply(variables, x)
    assert isinstance(output, jax.Array)
    return output


def _whole(key: str, value: float, *, least: int, most: int = MAX_SEED) -> int:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(key, value, "a whole number is needed", f"{key}={least}") from None
    if not math.isfinite(number) or number != int(number):
        whole = round(min(abs(number), 1e9)) if number == number else least
        raise ConfigError(key, value, "a whole number is needed", f"{key}={max(whole, least)}")
    if number < least:
        raise ConfigError(key, value, f"at least {least} is needed", f"{key}={least}")
    if number > most:
        raise ConfigError(key, value, f"at most {most} is possible", f"{key}={least}")
    return int(value)
