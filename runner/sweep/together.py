"""Decides which runs of a sweep train together where `train.together=auto`, and types it into their configs.

What is decided is a part of each run: its id, its record and its overrides have the number, and `rerun`, `resume` and
workers elsewhere follow it. Whether runs are done already, or how many there are beyond one, decides nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from runner.config.composing.composed import Config
from runner.config.enums import DistributedMode, TimingMode
from runner.config.serialize import canonical_digest, to_data
from runner.config.settings.run import Run
from runner.config.settings.train import AUTO, TrainSettings
from runner.errors import UserError
from runner.experiment import draft
from runner.experiment.draft import Draft
from runner.experiment.identity import Identity, identity_of
from runner.sweep.validate import ProgramKey

# How many runs train as one. Measured on 2 cores, nnx.Linear, 500 steps: 1.6 ms with 8 places, 2.5 with 16, 4.5 with
# 64; so 64 runs take 13, 10 and 4.5 ms, and two runs 1.6, 2.5 and 4.5.
NUM_TOGETHER = 16

# Above this many bytes of all of them, one run keeps the cores busy, and a place without a run costs as much as one.
MAX_BYTES = 64 * 2**20

KEY = "train.together"

# What may differ between runs of one program, with the seed.
FREE = (("input", "seed"), ("train", "teacher_seed"), ("train", "learning_rate"))


def resolved(
    configs: Sequence[Config], *, remote_platform: str | None = None
) -> tuple[Sequence[Config], dict[ProgramKey, Draft]]:
    """`configs` with a number in place of `auto` where several of them are the same but for seeds and learning rate.

    Args:
      configs: The configs of one sweep.
      remote_platform: See `runner.sweep.plan.make_plan`.

    Returns:
      The configs, and the drafts that were traced for them.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    known: dict[tuple[Any, ...], tuple[str, str]] = {}
    for index, config in enumerate(configs):
        if _may(config.run):
            # Runs that were derived from one share its groups of settings: these are read once.
            parts = tuple(id(part) for name, part in vars(config.run).items() if name != "seed")
            if parts not in known:
                known[parts] = _split(config.run)
            alike, own = known[parts]
            groups.setdefault(alike, {}).setdefault(f"{config.run.seed} {own}", []).append(index)
    found, drafts = list(configs), {}
    for members in groups.values():
        if len(members) < 2:
            continue
        indices = [index for same in members.values() for index in same]
        first = configs[indices[0]].run
        run = dataclasses.replace(first, train=_with_number(first.train))
        traced = _draft(run, remote_platform)
        if traced is None or _num_bytes(traced[1]) > MAX_BYTES:
            continue
        if run.variables is None:
            drafts[traced[0].program_id, run.device] = traced[1]
        trains: dict[int, TrainSettings] = {}
        for index in indices:
            found[index] = _typed(configs[index], trains)
    return found, drafts


def _may(run: Run) -> bool:
    """Whether `run` may train with others, as far as its settings tell."""
    if run.mesh.axes is not None or run.distributed.mode is not DistributedMode.none:
        return False
    # Careful times are those of a run's own steps too.
    return run.train.steps > 0 and run.train.together == AUTO and run.timing.mode is not TimingMode.careful


def _split(run: Run) -> tuple[str, str]:
    """Digests of what `run` has in common with runs that it may train with, and of its own but for the seed."""
    data = to_data(run)
    del data["seed"]
    own: list[Any] = []
    for *groups, name in FREE:
        node: dict[str, Any] = data
        for group in groups:
            node = node[group]
        own.append(node.pop(name))
    return canonical_digest(data), canonical_digest(own)


def _draft(run: Run, remote_platform: str | None) -> tuple[Identity, Draft] | None:
    """The program of `run`; None if it has none, or its runs can't train together: then each is validated as it is."""
    try:
        identity = identity_of(run, remote_platform=remote_platform)
        return identity, draft.make_draft(run, identity)
    except UserError:
        return None


def _num_bytes(traced: Draft) -> int:
    """Bytes of all that train together: variables, those of the teacher, the optimiser's state, input and output."""
    x_bytes = traced.x.size * traced.x.dtype.itemsize
    return traced.together * (2 * traced.variables_bytes + traced.optimizer_bytes + traced.output_bytes + x_bytes)


def _with_number(train: TrainSettings) -> TrainSettings:
    return dataclasses.replace(train, together=str(NUM_TOGETHER))


def _typed(config: Config, trains: dict[int, TrainSettings]) -> Config:
    """`config` with the number; runs that share settings go on sharing them, by `trains`."""
    train = trains.setdefault(id(config.run.train), _with_number(config.run.train))
    others = [text for text in config.overrides if text.lstrip("+").partition("=")[0] != KEY]
    overrides = (*others, f"{KEY}={NUM_TOGETHER}")
    files = config.files_of(overrides) if config.files_of is not None else config.hydra_files
    run = dataclasses.replace(config.run, train=train)
    return dataclasses.replace(config, run=run, overrides=overrides, hydra_files=files)
