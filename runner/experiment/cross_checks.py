"""Checks that compare a run with another in-process computation: eager, a single device, its twin's loss curve."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from runner.arrays import shards, trees, untimed
from runner.bridge import hosts, rngs, twins
from runner.checks.programs import flow
from runner.checks.results import rounding, verdicts
from runner.config.enums import ChecksMode, EagerCheck
from runner.config.settings.run import Run
from runner.errors import listed
from runner.experiment import inputs, memory
from runner.experiment.draft import Draft
from runner.experiment.program import compile_program
from runner.experiment.train.training import Training
from runner.records.record import ArraySummary, Check, Verdict

# A run on a mesh is compared with one device, unless its variables exceed this size: they may not fit there.
MAX_ALONE_BYTES = 2**28

# Larger variables take longer to draw than XLA takes to compile the operations that draw them, and than Python to look
# for garbage.
REHEARSED_BYTES = 2**25


# The bridge names the collection of raw arrays after how init was called; here it has one name.
RAW = "raw arrays"


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a run produced.

    Attributes:
      initial: Its variables before training.
      variables: The variables passed to apply.
      output: Arrays of the output by path.
    """

    initial: Any
    variables: Any
    output: Mapping[str, np.ndarray]


def rehearse_eager(run: Run, draft: Draft) -> None:
    """Follows the path that `eager` will take for `run`, so that it finds every operation already compiled.

    Runs on a sweep's compiling threads: half of a first run's time is XLA compiling one operation at a time.
    """
    place = draft.placement
    if place.mesh is not None or run.checks.mode is ChecksMode.off or draft.variables_bytes > REHEARSED_BYTES:
        return
    with contextlib.suppress(Exception), place.context(), untimed.section():  # the check reports what is wrong
        memory.require_room(draft)
        memory.require_room_without_jit(draft)
        x, key = _uncommitted(inputs.make_input(run.input, run.input_shape)), rngs.root_key(run.seed)
        given = draft.given is not None
        variables = _as_jax(draft.given) if given else draft.model.init(key, draft.init_streams, x)
        draft.model.apply(variables, rngs.apply_keys(key, draft.rngs), draft.mutable, x)


def eager(draft: Draft, made: Made, key: jax.Array, x: jax.Array) -> Check:
    """Checks that the eager path, as in a plain pipeline, gives the same bits.

    Args:
      draft: The program.
      made: What it produced when compiled.
      key: The run's key.
      x: Its input.
    """
    memory.require_room_without_jit(draft)
    key, x = _uncommitted(key), _uncommitted(x)
    given = _as_jax(made.variables)
    # Apply draws the weights again, to throw them away: before init, so that no more is held meanwhile than must be.
    output, _ = draft.model.apply(given, rngs.apply_keys(key, draft.rngs), draft.mutable, x)
    # A compiled call makes arrays of Python's numbers too.
    output = jax.block_until_ready(jax.tree.map(jnp.asarray, output))
    _let_go(draft)
    variables = draft.model.init(key, draft.init_streams, x) if draft.given is None else made.initial
    compiled, without = _by_path(made.initial), _by_path(variables)
    # Of raw arrays, NNX returns those that are made of tracers or are not, so that one init has what the other has not.
    raw = [path for path in compiled.keys() ^ without.keys() if path.partition("/")[0] == RAW]
    kept = [{path: leaf for path, leaf in one.items() if path not in raw} for one in (compiled, without)]
    check = verdicts.eager((kept[0], kept[1]), (made.output, trees.named_arrays(output)))
    del variables, compiled, without, kept
    _let_go(draft)
    if not raw or check.verdict is Verdict.fail:
        return check
    names = listed(sorted(path.partition("/")[2] for path in raw))
    detail = f"{check.detail}; {names}, of no nnx.Variable, is in the variables of one init and not of the other"
    return verdicts.warn(check.name, detail, **{**check.evidence, "raw": sorted(raw)})


def _as_jax(variables: Any) -> Any:
    """Variables without NumPy's arrays: NNX would write into those, and XLA compiles each operation for them again."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, variables)


def finite(summaries: Sequence[ArraySummary], output: Mapping[str, np.ndarray], other: Callable[[], Any]) -> Check:
    """Every element of the output is a number, or masked: -inf at places where it is whatever x is, a warning.

    Args:
      summaries: Of the output's arrays.
      output: The arrays by path.
      other: Returns the output for another x; None where x is always the same.
    """
    check = verdicts.finite(summaries)
    masks = _masks(output)
    if check.verdict is not Verdict.fail or masks is None:
        return check
    found = other()
    if found is None or _masks(trees.named_arrays(found)) != masks:
        return check
    num = sum(one.num_non_finite for one in summaries)
    detail = (
        f"{num} of {sum(one.num_elements for one in summaries)} elements are -inf, at the same places for another x"
    )
    return verdicts.warn("finite", f"{detail}: right for a mask", **check.evidence)


def _masks(output: Mapping[str, np.ndarray]) -> dict[str, bytes] | None:
    """Where -inf is, by path; None if an element is NaN or inf, or an array has no number at all."""
    found = {}
    for path, array in output.items():
        if not np.issubdtype(array.dtype, np.complexfloating):
            values = trees.as_float64(array)
            masked = np.isneginf(values)
            if not (masked | np.isfinite(values)).all() or masked.all():
                return None
            found[path] = masked.tobytes()
        elif not np.isfinite(array).all():
            return None
    return found


def _let_go(draft: Draft) -> None:
    """Frees large arrays that flax's scopes of a call that is over still hold, in cycles."""
    if draft.variables_bytes > REHEARSED_BYTES:
        gc.collect()


def _uncommitted(array: Any) -> jax.Array:
    """The array on the default device without being committed to it, as in a plain pipeline.

    Flax's apply draws a layer's weights once more, from a key of its own that isn't committed: with an init that was
    given a key like it, XLA compiles each operation once instead of twice.
    """
    return jax.device_put(np.asarray(array))


def _by_path(variables: Any) -> dict[str, np.ndarray]:
    """The arrays of variables by path."""
    found = trees.flatten(trees.unbox(variables))
    return trees.named_arrays(trees.nest(((_collection(path[0]), *path[1:]), leaf) for path, leaf in found))


def _collection(name: Any) -> Any:
    kind = flow.variable_type(str(name))
    return RAW if kind is not None and not issubclass(kind, nnx.Variable) else name


def one_device(run: Run, draft: Draft, made: Made) -> Check:
    """Checks that the same program on one device of the mesh gives the same bits.

    Args:
      run: The run.
      draft: Its program.
      made: What it produced on the mesh.
    """
    name = "one_device"
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(made.variables))
    if num_bytes > MAX_ALONE_BYTES and run.checks.eager is not EagerCheck.program:
        why = f"{num_bytes} bytes of variables may be more than one device holds: checks.eager=program compares them"
        return verdicts.skipped(name, why)
    place, given = draft.placement.alone(), jax.tree.map(shards.on_host, made.variables)
    with place.context():
        alone = compile_program(dataclasses.replace(draft, placement=place, training=None))
        key, x = place.put(rngs.root_key(run.seed)), place.put_x(inputs.make_input(run.input, run.input_shape))
        variables = alone.init(key, x) if draft.given is None else place.put(draft.given)
        output, _ = alone.apply(place.put(given), key, x)
    both = trees.unbox(made.initial), trees.unbox(variables)
    found = {
        "init": rounding.difference(*map(trees.named_arrays, both)),
        "apply": rounding.difference(made.output, trees.named_arrays(output)),
    }
    if not any(found.values()):
        return verdicts.passed(name, "init and apply give the bits of one device")
    verdict = verdicts.fail if any(map(rounding.is_wrong, found.values())) else verdicts.warn
    parts = [f"{part} {rounding.as_words(text)}" for part, text in found.items()]
    return verdict(name, f"against one device {'; '.join(parts)}", **found)


def twin_curve(
    run: Run, draft: Draft, losses: Sequence[float] | None, *, train: Callable[[Training], Sequence[float]]
) -> Check:
    """Checks that the pipeline with the Linen twin in place of the layer, same weights, has the same loss curve.

    Args:
      run: The run.
      draft: Its program.
      losses: Its loss curve; None if nothing was trained.
      train: Returns the loss curve of another training from the same weights, on the same batches.
    """
    name = "twin_curve"
    twin = twins.twin_of(draft.layer.model.nnx_class, draft.layer.model.kwargs, draft.layer.call)
    if twin.layer is None or losses is None or draft.training is None:
        return verdicts.passed(name, f"nothing to compare: {twin.why or 'nothing was trained'}")
    model = hosts.with_linen(draft.model, twin.layer.model) if run.host.target is not None else twin.layer
    training_of_twin = dataclasses.replace(draft.training, model=model)
    mine, other = np.array(losses), np.array(train(training_of_twin))
    if (mine == other).all():
        return verdicts.passed(
            name, f"the pipeline with {twin.name} ends on the same loss curve bit for bit ({mine[-1]:.6g})"
        )
    step = int(np.argmax(mine != other))
    detail = (
        f"the loss of the pipeline with {twin.name} differs from step {step} on: {other[-1]:.9g}, not {mine[-1]:.9g}"
    )
    return verdicts.warn(name, detail, losses=other.tolist())
