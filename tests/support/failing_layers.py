"""Layers that fail on demand, as the text of a user's module."""

LAYERS = '''
import os
import signal
import time
import jax
from flax import nnx


class Fails(nnx.Module):
    """Fails while it runs where `when` says so."""

    def __init__(self, when: str, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.when = when

    def __call__(self, x):
        def look(y):
            if os.path.exists(self.when):
                raise RuntimeError("the cable is out")
            return y

        y = self.linear(x)
        return jax.pure_callback(look, jax.ShapeDtypeStruct(y.shape, y.dtype), y)


class Waits(nnx.Module):
    """At its call waits while the file `until` says `wait`, and dies with its process where it says `die`."""

    def __init__(self, until: str, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.until = until

    def __call__(self, x):
        def look(y):
            while (text := open(self.until).read()) == "wait":
                time.sleep(0.05)
            if text == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            return y

        y = self.linear(x)
        return jax.pure_callback(look, jax.ShapeDtypeStruct(y.shape, y.dtype), y)


class Divides(nnx.Module):
    def __init__(self, by: float, *, rngs: nnx.Rngs) -> None:
        self.by = by

    def __call__(self, x):
        return x / self.by
'''
