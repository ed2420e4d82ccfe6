"""Which leaf went where."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from runner.arrays import tree_moves

KERNEL, BIAS = (jax.ShapeDtypeStruct(shape, np.dtype("float32")) for shape in ((4, 4), (4,)))


# With a bias more they are no equal modules: each leaf is paired by itself.
@pytest.mark.parametrize("leaves", [{"kernel": KERNEL}, {"kernel": KERNEL, "bias": BIAS}])
@pytest.mark.parametrize(
    ("wanted", "there"), [((0, 1), (2, 10)), ((0, 1), (10, 2)), ((2, 10), (0, 1)), ((10, 2), (1, 0))]
)
def test_leaves_move_in_natural_order(wanted, there, leaves):
    missing = {f"params/a_{num}/kernel": KERNEL for num in wanted}
    extra = {f"params/Dense_{num}/{name}": leaf for num in there for name, leaf in leaves.items()}
    assert tree_moves.likely(missing, extra) == {
        f"params/a_{one}/kernel": f"params/Dense_{two}/kernel"
        for one, two in zip(sorted(wanted), sorted(there), strict=True)
    }
