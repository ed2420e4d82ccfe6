"""How a named pipeline calls a module that Python gives: what `pipeline=NAME` sets in a config."""

from __future__ import annotations

import contextlib
from typing import Any

from flax import nnx

from runner.bridge import wrapper
from runner.config import pipelines
from runner.config.settings.pipeline import PipelineSettings

# What a preset sets, unless the caller did.
SET = ("rngs", "init_rngs", "mutable")


def as_called(
    model: Any,
    *,
    pipeline: str | None = None,
    wrapped_by: Any = None,
    metadata_fn: Any = wrapper.DEFAULT,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """`model` as the pipeline wraps it, and the options of `subject_of`; what is given wins over the preset.

    Raises:
      ConfigError: There is no such pipeline.
      UserError: The model can't be wrapped again.
      LayerError: As in `wrapper.model_of`.
    """
    if pipeline is not None:
        preset = pipelines.preset(pipeline)
        options |= {name: getattr(preset, name) for name in SET if options.get(name) is None}
        options["trained"] = preset.collections if options.get("trained") is None else options["trained"]
        options["rules"] = preset.rules if options.get("rules") is None else options["rules"]
        options["pipeline"] = preset.pipeline
        if metadata_fn == wrapper.DEFAULT and wrapped_by is None and hasattr(model, "nnx_class"):
            metadata_fn = preset.metadata_fn
    if wrapped_by is not None or metadata_fn != wrapper.DEFAULT:
        model = wrapper.rewrapped(model, wrapper=wrapped_by, metadata_fn=metadata_fn)
    return model, options


def context(pipeline: PipelineSettings | None) -> contextlib.AbstractContextManager[Any]:
    """What flax does with axis names in the pipeline."""
    placed = pipeline is None or pipeline.eager_sharding
    return contextlib.nullcontext() if placed else nnx.use_eager_sharding(False)
