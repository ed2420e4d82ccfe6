"""Layers that exit, at each moment when a layer's code runs, and one that only prints."""

from __future__ import annotations

import argparse
import os
import sys

import jax
import jax.numpy as jnp
from flax import nnx


class Scale(nnx.Module):
    """Healthy."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.scale = nnx.Param(jax.random.normal(rngs.params(), (4,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.scale[...]


class Prints(Scale):
    """Prints, itself and through a process that it starts."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        super().__init__(rngs=rngs)
        print("made")
        os.system("echo made in a shell")

    def __call__(self, x: jax.Array) -> jax.Array:
        print("called")
        return super().__call__(x)


class ExitsInConstructor(Scale):
    def __init__(self, code: object = 0, *, rngs: nnx.Rngs) -> None:
        super().__init__(rngs=rngs)
        sys.exit(code)  # type: ignore[arg-type]


class ParsesInCall(Scale):
    def __call__(self, x: jax.Array) -> jax.Array:
        argparse.ArgumentParser().parse_args(["--no-such-flag"])
        return super().__call__(x)


class InterruptsInCall(Scale):
    def __call__(self, x: jax.Array) -> jax.Array:
        raise KeyboardInterrupt


class WordlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Stop(BaseException):
    """No Exception."""


class WordlessInConstructor(Scale):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        raise WordlessError


class WordlessInCall(Scale):
    def __call__(self, x: jax.Array) -> jax.Array:
        raise WordlessError


class ClosesInCall(Scale):
    def __call__(self, x: jax.Array) -> jax.Array:
        raise GeneratorExit


class StopsInConstructor(Scale):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        raise Stop("enough")


class EndsProcessInCall(Scale):
    def __call__(self, x: jax.Array) -> jax.Array:
        os._exit(0)


class EndsProcessWhenExecuted(Scale):
    def __call__(self, x: jax.Array) -> jax.Array:
        def stop(_: jax.Array) -> None:
            os._exit(0)

        return super().__call__(jax.pure_callback(stop, jax.ShapeDtypeStruct(x.shape, x.dtype), x))


class ExitsWhenExecuted(Scale):
    """Exits in a callback, which XLA turns into an error of its own."""

    def __call__(self, x: jax.Array) -> jax.Array:
        def stop(_: jax.Array) -> None:
            sys.exit(0)

        return super().__call__(jax.pure_callback(stop, jax.ShapeDtypeStruct(x.shape, x.dtype), x))


class ExitsForWideInput(Scale):
    """Exits for one shape of a sweep only."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[-1] > 4:
            sys.exit(3)
        return x * self.scale[...]
