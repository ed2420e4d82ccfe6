"""Settings of training and of checkpoint retention."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from runner.config.enums import CheckpointWriter, Keep, Mode
from runner.errors import ConfigError

# Without x64, PRNGKey accepts at most 32 bits.
MAX_SEED = 2**32 - 1


# What stands for every collection.
ALL = "all"

# What `together` is besides a number.
AUTO, OFF = "auto", "off"


def expanded(collections: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """`collections`, or all that are `known` where they are `all`."""
    named = tuple(collections)
    return tuple(known) if named == (ALL,) else named


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A few steps of training after init.

    Attributes:
      steps: Optimiser steps; 0 trains nothing.
      optimizer: Name of an optax function: adam, sgd, adamw, …
      learning_rate: The optimiser's learning rate.
      collections: Collections passed to the optimiser; `[all]` for all that init returns.
      teacher_seed: Seed of the teacher's weights, whose output is the target.
      save_every: Steps between saves to disk, from which a killed run resumes; 0 saves none.
      keep_steps: How many of the saved steps are kept, the last ones.
      eval_batches: Batches on which the loss is taken after training (`loss_eval`), the same for every run; 0 for none.
      together: How many runs that differ in seeds and learning rate train as one program, always that many: a number,
        off, or auto, which in a sweep of several such runs becomes a number where the layer is small.
    """

    steps: int = 0
    optimizer: str = "adam"
    learning_rate: float = 0.01
    collections: list[str] = field(default_factory=lambda: ["params"])
    teacher_seed: int = 1
    save_every: int = 0
    keep_steps: int = 2
    eval_batches: int = 0
    together: str = AUTO

    def __post_init__(self) -> None:
        if self.save_every < 0:
            reason = "steps are kept after this number of them, or none at 0"
            raise ConfigError("train.save_every", self.save_every, reason, "train.save_every=100")
        if self.keep_steps < 1:
            reason = "at least the last step that was kept stays"
            raise ConfigError("train.keep_steps", self.keep_steps, reason, "train.keep_steps=2")
        if self.eval_batches < 0:
            reason = "the loss is taken on this number of batches after training, or not at 0"
            raise ConfigError("train.eval_batches", self.eval_batches, reason, "train.eval_batches=16")
        if self.steps < 0:
            raise ConfigError("train.steps", self.steps, "steps are a whole number from 0", "train.steps=10")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(
                "train.learning_rate", self.learning_rate, "a positive number", "train.learning_rate=0.01"
            )
        if not 0 <= self.teacher_seed <= MAX_SEED:
            wanted = f"a whole number from 0 to {MAX_SEED}"
            raise ConfigError("train.teacher_seed", self.teacher_seed, wanted, "train.teacher_seed=1")
        if not re.fullmatch(rf"{AUTO}|{OFF}|[1-9]\d{{0,2}}", str(self.together)):
            reason = "how many runs train as one program: auto, off, or a number from 1 to 999"
            raise ConfigError("train.together", self.together, reason, "train.together=16")
        if not self.collections:
            raise ConfigError("train.collections", [], "the optimiser needs one", "'train.collections=[params]'")

    def trained(self, known: Iterable[str]) -> tuple[str, ...]:
        """The collections passed to the optimiser, of those that are `known`."""
        return expanded(self.collections, known)

    @property
    def num_together(self) -> int:
        """How many runs train as one program; 0 if this one trains alone, or not at all."""
        return int(self.together) if self.steps and str(self.together).isdecimal() else 0

    @property
    def keeps_steps(self) -> bool:
        """Whether steps are saved during training."""
        return self.steps > 0 and self.save_every > 0


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """What writes the Linen variables, and which checkpoints of a sweep are kept.

    Attributes:
      writer: orbax or none.
      keep: all, none, `last:N` (the last runs of the sweep), or `best:N` (by `metric`).
      metric: The number that `best` ranks by: a column of results.parquet, or a path in record.json.
      mode: min or max: whether lower or higher values are better.
    """

    writer: CheckpointWriter = CheckpointWriter.orbax
    keep: str = "all"
    metric: str | None = None
    mode: Mode = Mode.min

    def __post_init__(self) -> None:
        if not re.fullmatch(r"all|none|(last|best):[1-9]\d{0,8}", self.keep):
            reason = "a sweep keeps all, none, last:N or best:N, N being at least 1"
            raise ConfigError("checkpoint.keep", self.keep, reason, "checkpoint.keep=last:3")
        if self.rule is Keep.best and self.metric is None:
            reason = "the number that best goes by is not named"
            raise ConfigError(
                "checkpoint.keep", self.keep, reason, f"checkpoint.keep={self.keep} checkpoint.metric=loss_last"
            )

    @property
    def rule(self) -> Keep:
        """Which checkpoints are kept."""
        return Keep(self.keep.partition(":")[0])

    @property
    def num_kept(self) -> int | None:
        """How many of the written checkpoints are kept; None for all."""
        number = self.keep.partition(":")[2]
        return int(number) if number else None

    @property
    def writes(self) -> bool:
        """Whether runs are saved at all."""
        return self.writer is not CheckpointWriter.none and self.rule is not Keep.none

    @property
    def sentence(self) -> str:
        """The setting as typed, for the record."""
        by = f" checkpoint.metric={self.metric} checkpoint.mode={self.mode.value}"
        return f"checkpoint.keep={self.keep}" + (by if self.rule is Keep.best else "")
