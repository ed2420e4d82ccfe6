"""An input and leaves, as the sentences of a proof name them."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from runner.errors import listed

MAX_NAMED = 4


def kind(x: np.ndarray) -> str:
    """Dtype and shape of an input: `float32[2,8]`."""
    x = np.asarray(jnp.asarray(x))
    return f"{x.dtype.name}[{','.join(map(str, x.shape))}]"


def some(names: Sequence[str]) -> str:
    """Leaves without their collection, those of one module together: `mlp/* (4 leaves)`."""
    shorter = [name.partition("/")[2] or name for name in names]
    if len(shorter) <= MAX_NAMED:
        return listed(shorter, MAX_NAMED)
    heads = [name.split("/")[0] for name in shorter]
    return listed([f"{head}/* ({heads.count(head)} leaves)" for head in dict.fromkeys(heads)], MAX_NAMED)
