"""Functions of Python and NumPy that give a traced layer's code other values, to see what comes from them."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_LIBRARIES = {"jax", "jaxlib", "flax", "numpy", "optax", "orbax", "etils", "absl", "psutil", "wandb", "runner"}
_NOT_THE_LAYERS = frozenset({*_LIBRARIES, *sys.stdlib_module_names})

# What owns it, its name there, how it is written, and what it gives: (the function, its arguments) -> another value.
Swap = tuple[Any, str, str, Callable[..., Any]]

# A call that is answered as ever.
AS_EVER = object()


@contextlib.contextmanager
def functions(swaps: Sequence[Swap]) -> Iterator[list[str]]:
    """Swaps functions for calls by the user's code in this thread; yields what was answered: `hash('key')`."""
    asked: list[str] = []
    here = threading.get_ident()
    real = [getattr(owner, name) for owner, name, _, _ in swaps]

    def put(values: Sequence[Any]) -> None:
        for (owner, name, _, _), value in zip(swaps, values, strict=True):
            setattr(owner, name, value)

    def swapped(num: int) -> Callable[..., Any]:
        _, _, spelled, other = swaps[num]

        def answer(*args: Any, **kwargs: Any) -> Any:
            # Meanwhile other threads write checkpoints and records.
            if threading.get_ident() != here or not is_user(sys._getframe(1).f_globals.get("__name__", "")):
                return real[num](*args, **kwargs)
            put(real)  # NumPy's functions ask for each other
            try:
                value = other(real[num], *args, **kwargs)
                if value is AS_EVER:
                    return real[num](*args, **kwargs)
            finally:
                put(others)
            given = [*map(repr, args), *(f"{name}={item!r}" for name, item in kwargs.items())]
            called = f"{spelled}({', '.join(given)})"
            asked.extend([called] if called not in asked else [])
            return value

        return answer

    others = [swapped(num) for num in range(len(swaps))]
    put(others)
    try:
        yield asked
    finally:
        put(real)


@functools.lru_cache(4096)
def is_user(module: str) -> bool:
    """Whether a module, by its name, is none of JAX, Flax, NumPy, W&B, Orbax, Python or ours."""
    return module.split(".")[0] not in _NOT_THE_LAYERS
