"""The loss after training, on batches that no step was made of: the same for every run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from runner.arrays import trees


def mean_loss(apply: Callable[[Any, Any], Any], variables: Any, teacher: Any, batches: Iterable[Any]) -> float:
    """Mean over `batches` of the mean squared difference from the teacher's output.

    It is taken on the host, so that only `apply` is compiled, as it is for the run itself.

    Args:
      apply: `(variables, x) -> output`.
      variables: Those that training has come to.
      teacher: Variables whose output is the target.
      batches: The inputs, at least one.
    """
    losses = [
        _mean_squared_difference(*(trees.named_arrays(apply(each, x)) for each in (variables, teacher)))
        for x in batches
    ]
    return float(np.mean(losses))


def _mean_squared_difference(output: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray]) -> float:
    total, count = 0.0, 0
    for name, array in output.items():
        if array.dtype.kind in "biu":
            continue
        kind = np.complex128 if array.dtype.kind == "c" else np.float64
        difference = array.astype(kind) - target[name].astype(kind)
        total, count = total + float(np.sum(np.abs(difference) ** 2)), count + array.size
    return total / count
