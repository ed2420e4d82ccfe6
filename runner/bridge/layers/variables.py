"""Layers whose Variables are more than params: sown, perturbed, counted, shared, or drawn at every call.

Each takes `rngs` and is called with one array, as in `layers`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class Calls(nnx.Variable[jax.Array]):
    """A count of calls. The bridge keeps it in a collection of the class's name."""


class Counting(nnx.Module):
    """A linear layer that counts its calls in a Variable of its own type: [..., in_features] to [..., out_features].

    Args:
      in_features: Last axis of x.
      out_features: Last axis of the output.
      rngs: Stream `params`.
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(in_features, out_features, rngs=rngs)
        self.calls = Calls(jnp.zeros((), jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., in_features]. Returns [..., out_features]."""
        self.calls[...] += 1
        return self.linear(x)


class Sowing(nnx.Module):
    """A linear layer and tanh that sows what is between them: [..., in_features] to [..., out_features].

    Args:
      in_features: Last axis of x.
      out_features: Last axis of the output.
      rngs: Stream `params`.
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(in_features, out_features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., in_features]. Returns [..., out_features]."""
        y = self.linear(x)
        self.sow(nnx.Intermediate, "before_tanh", y)
        return nnx.tanh(y)


class Tied(nnx.Module):
    """Tokens to vectors and back to logits with one table, as in a language model: [...] to [..., num_embeddings].

    After Press and Wolf, "Using the Output Embedding to Improve Language Models" (https://arxiv.org/abs/1608.05859).

    Args:
      num_embeddings: Tokens that there are.
      features: Width of a vector.
      rngs: Stream `params`.
    """

    def __init__(self, num_embeddings: int, features: int, *, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(num_embeddings, features, rngs=rngs)
        # The same Variable under a second name: one leaf in the variables, not two.
        self.head = self.embed

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """tokens: integers [...]. Returns [..., num_embeddings]."""
        return self.head.attend(nnx.tanh(self.embed(tokens)))


class Noisy(nnx.Module):
    """x plus normal noise that is drawn at every call from the stream `noise`: any shape to the same. No params.

    Args:
      scale: Standard deviation of the noise.
      rngs: Stream `noise`.
    """

    def __init__(self, *, scale: float = 0.1, rngs: nnx.Rngs) -> None:
        self.scale = scale
        self.rngs = rngs.noise.fork()

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: any shape. Returns the same."""
        return x + self.scale * jax.random.normal(self.rngs(), x.shape, x.dtype)
