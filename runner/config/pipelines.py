"""The presets of conf/pipeline, for Python: `runner.check(model, x, pipeline="brax")`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.config import conf_folder, serialize
from runner.config.settings.layer import LayerSettings
from runner.config.settings.pipeline import PipelineSettings
from runner.config.settings.rules import RulesSettings
from runner.config.settings.train import TrainSettings
from runner.errors import ConfigError, nearest

KEY = "pipeline"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How a pipeline calls a layer.

    Attributes:
      pipeline: What it asks of its variables.
      rngs: Streams that apply gets; None for all that it needs.
      init_rngs: Streams that init gets; None for all that it needs.
      mutable: Collections that apply may change; None for all that it changes.
      metadata_fn: What boxes the variables.
      collections: Collections that the optimiser gets.
      rules: What it does by path.
    """

    pipeline: PipelineSettings
    rngs: list[str] | None
    init_rngs: list[str] | None
    mutable: list[str] | None
    metadata_fn: str
    collections: list[str]
    rules: RulesSettings


def names() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in (conf_folder.config_dir() / KEY).glob("*.yaml") if path.stem != "none")


def preset(name: str) -> Preset:
    """The preset `name`, read from its file in conf/pipeline.

    Raises:
      ConfigError: There is none.
    """
    from omegaconf import OmegaConf

    known = names()
    if name not in known:
        close = nearest(name, known) or known[0]
        raise ConfigError(KEY, name, f"no such pipeline; there are {', '.join(known)}", f"{KEY}={close}")
    data: Any = OmegaConf.to_container(OmegaConf.load(conf_folder.config_dir() / KEY / f"{name}.yaml"))
    # A layer needs a target, which a preset has not.
    data["layer"] = {"target": KEY, **data.get("layer", {})}
    run = serialize.from_data(data)
    layer: LayerSettings = run.layer
    train: TrainSettings = run.train
    return Preset(
        pipeline=run.pipeline,
        rngs=layer.rngs,
        init_rngs=layer.init_rngs,
        mutable=layer.mutable,
        metadata_fn=layer.metadata_fn,
        collections=train.collections,
        rules=run.rules,
    )
