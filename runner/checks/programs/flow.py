"""What flows where: which inputs of a traced function its outputs depend on, and what a collection holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import nnx

from runner.bridge.tracing import jaxprs


def read(jaxpr: Any, outputs: Sequence[bool]) -> list[bool]:
    """Whether each input of a closed jaxpr is read for the outputs that are chosen, one truth value an output."""
    return jaxprs.is_read(jaxpr, outputs)


def variable_type(collection: str) -> type | None:
    """The type that the bridge names `collection` after.

    An `nnx.Variable`, or another class for attributes that are raw arrays; None where no NNX layer has such a one.
    """
    try:
        return nnx.variable_type_from_name(collection)
    except ValueError:
        return None


def is_sown(collection: str) -> bool:
    """Whether `collection` holds what calls sow."""
    kind = variable_type(collection)
    return kind is not None and issubclass(kind, nnx.Intermediate)
