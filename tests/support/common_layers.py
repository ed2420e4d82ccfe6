"""Names of conf/layer that the tests of the checks go through; the matrix (`-m slow`) goes through all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

COMMON = (
    "batch_norm",
    "conv",
    "dropout",
    "embed",
    "gru",
    "layer_norm",
    "linear",
    "lora",
    "lstm",
    "mlp",
    "multi_head_attention",
    "rms_norm",
    "rnn",
    "sequential",
    "transformer_block",
)

# Those that compile soon, one of each kind: for checks that compile a dozen functions a layer.
QUICK = ("batch_norm", "dropout", "embed", "linear", "lora", "multi_head_attention", "rnn", "sequential")

# One with statistics, one with masks, one of plain weights: where each layer takes seconds.
FEW = ("batch_norm", "dropout", "linear")


def cases(names: Iterable[str], default: Iterable[str]) -> list[Any]:
    """The `names` as parameters of a test; those that are not in `default` are slow."""
    chosen = set(default)
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]
