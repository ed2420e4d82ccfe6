"""Explains a failing init, if the cause is one of the bridge's known traps."""

from __future__ import annotations

import re
import traceback
from typing import Any

from flax import errors, nnx

from runner.checks.probes import as_code
from runner.checks.results import verdicts
from runner.errors import LayerError
from runner.records.record import Check

NAME = "traps"


def why_it_fails(error: BaseException, model: Any = None) -> Check | None:
    """The fail for a constructor without `rngs` or with module instances as arguments; None for any other error.

    Args:
      error: What `init` or `apply` raised, or the `LayerError` around it.
      model: The wrapped layer, if known: the fix is then written with its arguments.
    """
    cause = error.__cause__ if isinstance(error, LayerError) and error.__cause__ is not None else error
    text = " ".join(str(cause).split())
    refused = re.search(r"(\S+)\(\) got an unexpected keyword argument 'rngs'", text)
    if isinstance(cause, TypeError) and refused is not None and _is_raised_for_the_wrapper(cause):
        return _without_rngs(refused[1].removesuffix(".__init__").split(".")[-1], model)
    if isinstance(cause, errors.TraceContextError) or "from different trace level" in text:
        return _made_outside(verdicts.words(cause), model)
    return None


def _is_raised_for_the_wrapper(error: BaseException) -> bool:
    """Whether the wrapper itself passed the argument, rather than the constructor to one of its submodules."""
    files = [frame.filename.replace("\\", "/") for frame in traceback.extract_tb(error.__traceback__)]
    while files and files[-1].endswith("flax/nnx/pytreelib.py"):  # the metaclass, between caller and constructor
        files.pop()
    return bool(files) and files[-1].endswith("flax/nnx/bridge/wrappers.py")


def _without_rngs(name: str, model: Any) -> Check:
    detail = f"the constructor of {name} takes no rngs, which the wrapper passes"
    if _instances(model):
        return verdicts.fail(NAME, detail, _factory(model, rngs=False), constructor=name)
    call = f"{name}, " if model is None else _arguments(model)
    return verdicts.fail(NAME, detail, f"model = bridge.to_linen({call}skip_rng=True)", constructor=name)


def _made_outside(raised: str, model: Any) -> Check:
    instances = _instances(model)
    what = ", ".join(f"{key}={kind}" for key, kind in instances.items())
    detail = f"a module that was made outside was passed in{f' ({what})' if what else ''}, and jit traces it: {raised}"
    return verdicts.fail(NAME, detail, _factory(model), raised=raised, instances=instances)


def _factory(model: Any, *, rngs: bool | None = None) -> str:
    call = "MyLayer(nnx.Linear(4, 4, rngs=rngs), rngs=rngs)" if model is None else as_code.call_of(model, rngs=rngs)
    return (
        "def make_layer(*, rngs):  # every module is made inside\n"
        f"    return {call}\n"
        "model = bridge.to_linen(make_layer)"
    )


def _arguments(model: Any) -> str:
    return as_code.call_of(model, rngs=False).replace("(", ", ", 1)[:-1].rstrip(", ") + ", "


def _instances(model: Any) -> dict[str, str]:
    """Arguments of a wrapped layer that are modules, with their classes."""
    if model is None:
        return {}
    given = {f"args[{index}]": value for index, value in enumerate(model.args)} | dict(model.kwargs)
    return {key: type(value).__name__ for key, value in given.items() if isinstance(value, nnx.Module)}
