"""Which leaf went where."""

from __future__ import annotations

import jax
import numpy as np

from runner.arrays import tree_moves

KERNEL, BIAS = (jax.ShapeDtypeStruct(shape, np.dtype("float32")) for shape in ((4, 4), (4,)))


def test_leaves_move_in_natural_order():
    missing = {"params/a_0/kernel": KERNEL, "params/a_1/kernel": KERNEL}
    # With a bias more they are no equal modules: each leaf is paired by itself.
    leaves = {"kernel": KERNEL, "bias": BIAS}
    extra = {f"params/Dense_{num}/{name}": leaf for num in (10, 2) for name, leaf in leaves.items()}
    assert tree_moves.likely(missing, extra) == {
        "params/a_0/kernel": "params/Dense_2/kernel",
        "params/a_1/kernel": "params/Dense_10/kernel",
    }
