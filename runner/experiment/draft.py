"""A program before compilation: the wrapped layer with its host, shapes and placement, found by tracing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from runner.arrays import readings, trees
from runner.arrays.mesh import Placement, make_mesh, on_device, on_mesh, on_one_device
from runner.bridge import hosts
from runner.bridge import needs as bridge_needs
from runner.bridge.needs import Needs
from runner.bridge.rules import sources
from runner.bridge.rules.sources import PathRules
from runner.bridge.wrap import Bridged
from runner.checks.user_code import first_traces
from runner.checks.user_code.first_traces import FirstTraces
from runner.config.enums import ChecksMode
from runner.config.settings.run import Run
from runner.errors import ConfigError, MissingArgumentsError
from runner.experiment import inputs, missing_arguments
from runner.experiment.identity import Identity
from runner.experiment.sized import wrapped
from runner.experiment.train import training as experiment_training
from runner.experiment.train.training import Training
from runner.timing import clock


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A program that is traced but not yet compiled: enough to know that a config can run.

    Attributes:
      program_id: The id of the program.
      model: The module to run: the wrapped layer, or a host that contains it.
      layer: The wrapped layer alone.
      needs: What `model` requires.
      rngs: Streams passed to apply.
      init_rngs: Streams passed to init; None for all that it needs.
      mutable: Collections that apply may change.
      given: Variables to start from, NumPy leaves; None starts from init's.
      training: How it is trained; None if it isn't.
      train_state: The train state that a trained run left to resume from; None starts at step 0.
      rules: What the pipeline does by path; None if it is not given.
      x: Shape and dtype of the input.
      placement: The placement of its arrays.
      construct_s: Seconds to import and wrap the class.
      first_traces: Digests of the traces that it was found by, for the checks; None if they can't use them.
      together: How many of its runs train as one; 0 if each trains alone.
    """

    program_id: str
    model: Bridged
    layer: Bridged
    needs: Needs
    rngs: tuple[str, ...]
    init_rngs: tuple[str, ...] | None = None
    mutable: tuple[str, ...]
    given: Any
    training: Training | None = None
    train_state: Any = None
    rules: PathRules | None = None
    x: jax.ShapeDtypeStruct
    placement: Placement
    construct_s: float
    first_traces: FirstTraces | None = None
    together: int = 0

    @property
    def device(self) -> jax.Device:
        """The device, or the first one of the mesh."""
        return self.placement.device

    @property
    def init_streams(self) -> tuple[str, ...]:
        """The streams that init gets."""
        return self.needs.streams if self.init_rngs is None else self.init_rngs

    @property
    def variables(self) -> Any:
        """Shapes and dtypes of the variables passed to apply."""
        return self.needs.variables if self.given is None else trees.shapes(self.given)

    @functools.cached_property
    def variables_bytes(self) -> int:
        """Bytes of the variables."""
        return _num_bytes(self.variables)

    @functools.cached_property
    def output_bytes(self) -> int:
        """Bytes of the output."""
        return _num_bytes(self.needs.output)

    @functools.cached_property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state; 0 if nothing is trained."""
        if self.training is None:
            return 0
        return _num_bytes(jax.eval_shape(self.training.start, self.variables).opt_state)


def make_draft(run: Run, identity: Identity, given: Any = None, *, train_state: Any = None) -> Draft:
    """Traces the program of `run`.

    Args:
      run: The run.
      identity: Its ids.
      given: Variables that it starts from, as saved; None for init's.
      train_state: The train state saved with them, if they come from a trained run.

    Raises:
      LayerError: The layer or its host can't be built, or can't take the input.
      ConfigError: A value that the layer, the host or the input does not accept.
    """
    x = jax.ShapeDtypeStruct(tuple(run.input_shape), inputs.input_dtype(run.input))
    rules = sources.path_rules(run.rules)
    try:
        layer, construct_s = clock.seconds(lambda: wrapped(run))
        model = hosts.put_around(layer, run.host)
    except MissingArgumentsError as error:
        raise missing_arguments.explained(run, error) from error
    label = f"{run.layer.label} in host {run.host.label}" if run.host.target else run.layer.label
    find_needs = bridge_needs.find_needs if run.checks.mode is ChecksMode.off else first_traces.find_needs
    place = _placement(run, identity, x, functools.partial(bridge_needs.find_needs, model, x, label))
    with place.context():
        needs = find_needs(model, x, label)
    if given is not None:
        given = trees.with_keys_of(readings.as_variables(given, needs.variables), needs.variables)
        given = jax.tree.map(_read_only, given)
    rngs = needs.streams if run.layer.rngs is None else tuple(run.layer.rngs)
    mutable = needs.mutable if run.layer.mutable is None else tuple(run.layer.mutable)
    init_rngs = None if run.layer.init_rngs is None else tuple(run.layer.init_rngs)
    traced = None
    if run.checks.mode is not ChecksMode.off and given is None and place.mesh is None:
        traced = first_traces.digested(needs, rngs=rngs, init_rngs=init_rngs, mutable=mutable)
    needs = needs.without_traces()
    drafted = Draft(
        program_id=identity.program_id,
        model=model,
        layer=layer,
        needs=needs,
        rngs=rngs,
        init_rngs=init_rngs,
        mutable=mutable,
        given=given,
        rules=rules,
        x=x,
        placement=place,
        construct_s=construct_s,
        first_traces=traced,
    )
    if not run.train.steps:
        return drafted
    trained = experiment_training.make_training(
        model, run.train, drafted.variables, needs.output, rngs=rngs, mutable=mutable, label=label
    )
    if train_state is not None:
        experiment_training.require_saved(trained, drafted.variables, train_state, str(run.variables))
    drafted = dataclasses.replace(drafted, training=trained, train_state=train_state, together=run.train.num_together)
    if drafted.together and (reason := why_alone(drafted)):
        raise ConfigError("train.together", run.train.together, reason, "train.together=off")
    return drafted


def _read_only(leaf: Any) -> Any:
    """A leaf that can't be written to: NNX writes into NumPy's arrays in place, and all runs start from these."""
    if not isinstance(leaf, np.ndarray):
        return leaf
    leaf = leaf.view()
    leaf.flags.writeable = False
    return leaf


def why_alone(drafted: Draft) -> str | None:
    """Why runs of `drafted` can't train as one; None if they can, as far as shapes and dtypes tell."""
    if drafted.placement.mesh is not None:
        return "a run over a mesh trains alone"
    generator = jax.config.values["jax_default_prng_impl"]
    if generator != "threefry2x32":
        return f"in one program, keys of {generator} draw the same numbers for several runs"
    state = jax.eval_shape(drafted.training.start, drafted.variables) if drafted.training else None
    for path, leaf in trees.flatten(trees.unbox((state, drafted.needs.variables))):
        if trees.is_key(leaf) or trees.is_packed(leaf):
            return f"{trees.spell(path)} is {leaf.dtype}, of which JAX makes no larger array"
    return None


def _placement(run: Run, identity: Identity, x: jax.ShapeDtypeStruct, find_needs: Callable[[], Needs]) -> Placement:
    mesh = make_mesh(on_one_device(run) if identity.remote else run)
    if mesh is None:
        return on_device(identity.device, eager_sharding=run.pipeline.eager_sharding)
    # Axis names are read before flax places anything by them, so that the error for a wrong one says what to type.
    with nnx.use_eager_sharding(False):
        return on_mesh(run, mesh, x, find_needs().variables)


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
