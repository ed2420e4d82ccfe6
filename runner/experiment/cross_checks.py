"""What a run is compared with, made in this process: the eager path, one device of its mesh, its twin's loss curve."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from runner.arrays import shards, trees
from runner.bridge import hosts, twins, wrap
from runner.checks import rounding, verdicts
from runner.config.enums import ChecksMode, EagerCheck
from runner.config.settings import Run
from runner.experiment import inputs
from runner.experiment.program import Draft, compile_program, compile_training
from runner.experiment.training import CompiledTraining
from runner.records.record import Check

# A run over a mesh is compared with one device, unless its variables are more: they may not fit there.
MAX_ALONE_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a run made.

    Attributes:
      initial: Its variables before training.
      variables: Those that apply was given.
      output: Arrays of the output by path.
    """

    initial: Any
    variables: Any
    output: Mapping[str, np.ndarray]


def rehearse_eager(run: Run, draft: Draft) -> None:
    """Goes the way that `eager` will go for `run`, so that it finds each operation compiled.

    For a sweep's threads, while they compile: half of the time of a first run is XLA compiling one operation at a time.
    """
    place = draft.placement
    if place.mesh is not None or run.checks.mode is ChecksMode.off:
        return
    with contextlib.suppress(Exception), place.context():  # the check says what is wrong
        x, key = place.put_x(inputs.make_input(run.input, run.input_shape)), place.put(wrap.root_key(run.seed))
        variables = draft.given if draft.given is not None else draft.model.init(key, draft.needs.streams, x)
        draft.model.apply(variables, wrap.apply_keys(key, draft.rngs), draft.mutable, x)


def eager(draft: Draft, made: Made, key: jax.Array, x: jax.Array) -> Check:
    """The eager path, as a plain pipeline goes it: the same bits?

    Args:
      draft: The program.
      made: What it made compiled.
      key: The run's key.
      x: Its input.
    """
    variables = draft.model.init(key, draft.needs.streams, x) if draft.given is None else made.initial
    output, _ = draft.model.apply(made.variables, wrap.apply_keys(key, draft.rngs), draft.mutable, x)
    both = trees.named_arrays(trees.unbox(made.initial)), trees.named_arrays(trees.unbox(variables))
    return verdicts.eager(both, (made.output, trees.named_arrays(output)))


def one_device(run: Run, draft: Draft, made: Made) -> Check:
    """The same program on one device of the mesh: the same bits?

    Args:
      run: What was run.
      draft: Its program.
      made: What it made on the mesh.
    """
    name = "one_device"
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(made.variables))
    if num_bytes > MAX_ALONE_BYTES and run.checks.eager is not EagerCheck.program:
        why = f"{num_bytes} bytes of variables may be more than one device holds: checks.eager=program compares them"
        return verdicts.skipped(name, why)
    place, given = draft.placement.alone(), jax.tree.map(shards.whole, made.variables)
    with place.context():
        alone = compile_program(dataclasses.replace(draft, placement=place, training=None))
        key, x = place.put(wrap.root_key(run.seed)), place.put_x(inputs.make_input(run.input, run.input_shape))
        variables = alone.init(key, x) if draft.given is None else place.put(draft.given)
        output, _ = alone.apply(place.put(given), key, x)
    both = trees.unbox(made.initial), trees.unbox(variables)
    found = {
        "init": rounding.difference(*map(trees.named_arrays, both)),
        "apply": rounding.difference(made.output, trees.named_arrays(output)),
    }
    if not any(found.values()):
        return verdicts.yes(name, "init and apply give the bits of one device")
    verdict = verdicts.no if any(map(rounding.is_wrong, found.values())) else verdicts.caution
    parts = [f"{part} {rounding.as_words(text)}" for part, text in found.items()]
    return verdict(name, f"against one device {'; '.join(parts)}", **found)


def twin_curve(
    run: Run, draft: Draft, losses: Sequence[float] | None, *, train: Callable[[CompiledTraining], Sequence[float]]
) -> Check:
    """The same pipeline with the Linen twin in the layer's place, from the same weights: the same loss curve?

    Args:
      run: What was run.
      draft: Its program.
      losses: Its loss curve; None where nothing was trained.
      train: The loss curve of another program from the same weights, on the same batches.
    """
    name = "twin_curve"
    twin = twins.twin_of(draft.layer.model.nnx_class, draft.layer.model.kwargs, draft.layer.call)
    if twin.layer is None or losses is None or draft.training is None:
        return verdicts.skipped(name, twin.why or "nothing was trained")
    model = hosts.with_linen(draft.model, twin.layer.model) if run.host.target is not None else twin.layer
    training_of_twin = dataclasses.replace(draft.training, model=model)
    compiled = compile_training(draft, training_of_twin)
    mine, other = np.array(losses), np.array(train(compiled))
    if (mine == other).all():
        return verdicts.yes(
            name, f"the pipeline with {twin.name} ends on the same loss curve bit for bit ({mine[-1]:.6g})"
        )
    step = int(np.argmax(mine != other))
    detail = (
        f"the loss of the pipeline with {twin.name} differs from step {step} on: {other[-1]:.9g}, not {mine[-1]:.9g}"
    )
    return verdicts.caution(name, detail, losses=other.tolist())
