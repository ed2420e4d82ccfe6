"""Settings of a pipeline of others: what it asks of a layer's variables, and how it calls, in words."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """What a pipeline does with a layer; how it calls is in `layer`, `train` and `rules`. Set by `pipeline=NAME`.

    Attributes:
      name: Its name in messages; null: no pipeline in particular.
      keeps: Collections that its lifts and its train state carry from init to apply; null: all.
      boxes: Classes of boxes around leaves that it can read, besides none; null: any.
      axes: The collection in which it wants the axis names of every param; null: none.
      text_keys: Whether it joins paths as text, so that a number in one is an error.
      eager_sharding: Whether flax places variables by their axis names when they are made, for which it needs a mesh.
      same_call: Whether it evaluates a layer by the call that it trains it with: its own switch reaches no NNX layer.
      does: What it does, by the check that it is the cause of: `{mutable: apply gets no mutable}`.
    """

    name: str | None = None
    keeps: list[str] | None = None
    boxes: list[str] | None = None
    axes: str | None = None
    text_keys: bool = False
    eager_sharding: bool = True
    same_call: bool = False
    does: dict[str, str] = field(default_factory=dict)
