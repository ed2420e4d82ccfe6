"""A script with a layer in it, whose arguments are parsed wherever it is imported."""

from __future__ import annotations

import argparse

from flax import nnx


class Layer(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None: ...


argparse.ArgumentParser().parse_args(["--no-such-flag"])
