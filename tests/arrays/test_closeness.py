"""What counts as rounding: by how many resolutions of the dtype, with NaN, and in both parts of complex numbers."""

from __future__ import annotations

import numpy as np
import pytest

from runner.arrays.closeness import BLOCK_ELEMENTS, MAX_ROUNDING, are_close, differences, largest_finite

ONES = np.ones(4, np.float32)
EPS = float(np.finfo(np.float32).eps)


def close(one, two):
    return are_close({"y": np.asarray(one)}, {"y": np.asarray(two)})


@pytest.mark.parametrize(("num_eps", "is_close"), [(16, True), (MAX_ROUNDING, True), (100, False)])
def test_rounding_is_sixty_four_resolutions(num_eps, is_close):
    assert MAX_ROUNDING == 64
    assert close(ONES + np.float32(num_eps * EPS), ONES) is is_close


def test_nan_is_close_to_nan_alone():
    nan = np.asarray([np.nan, 1, 1, 1], np.float32)
    rounded = nan * np.float32(1 + 2 * EPS)
    assert close(rounded, nan) and rounded[1] != nan[1]
    assert not close(ONES, nan)


def test_imaginary_parts_count():
    assert not close(ONES + 0.1j * ONES, ONES + 0j * ONES)
    assert close(ONES + 2j * EPS * ONES, ONES + 0j * ONES)


def test_an_array_too_many_is_seen():
    assert not are_close({"y": ONES, "z": ONES}, {"y": ONES})
    assert not are_close({"y": ONES}, {"y": ONES, "z": ONES})


def test_large_arrays_are_compared_to_the_end():
    one = np.ones((2, BLOCK_ELEMENTS + 3), np.float32)
    two = one.copy()
    two[-1, -1], two[0, 0] = np.nextafter(np.float32(1), np.float32(2)), -0.0
    one[0, 0] = 0.0
    assert differences({"y": one}, {"y": two}) == {"y": {"ulp": 1, "num_elements": 1}}
    assert differences({"y": one.T}, {"y": one.T.copy()}) == {}
    assert close(one, two) and not close(one * 2, two)
    two[-1, -1] = -7
    assert largest_finite(two) == 7 and not close(one, two)
    assert differences({"y": one[:0]}, {"y": two[:0]}) == {}
