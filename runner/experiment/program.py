"""A program: the compiled init and apply of one layer on one input shape and device or mesh, shared by all seeds."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from runner.arrays import devices, trees
from runner.arrays.mesh import Placement, make_mesh, on_device, on_mesh, on_one_device
from runner.bridge import hosts, targets, wrap
from runner.bridge.wrap import Bridged, Needs
from runner.config.enums import InputKind
from runner.config.serialize import canonical_digest, to_data
from runner.config.settings import Run
from runner.experiment import inputs
from runner.experiment import training as experiment_training
from runner.experiment.training import CompiledTraining, Training
from runner.records.record import Check
from runner.records.timing import Phases
from runner.timing import clock


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A program that was traced and not yet compiled: enough to know that a config can run.

    Attributes:
      program_id: Names what is compiled.
      model: What is run: the wrapped layer, or a host with it.
      layer: The wrapped layer alone.
      needs: What `model` wants.
      rngs: Streams that apply is given.
      mutable: Collections that apply may change.
      given: Variables to start from, NumPy leaves; None starts from init's.
      training: How it is trained; None where it isn't.
      train_state: What a run that was trained left for others to go on from; None starts at step 0.
      x: Shape and dtype of the input.
      placement: Where its arrays lie.
      construct_s: Seconds to import and wrap the class.
    """

    program_id: str
    model: Bridged
    layer: Bridged
    needs: Needs
    rngs: tuple[str, ...]
    mutable: tuple[str, ...]
    given: Any
    training: Training | None = None
    train_state: Any = None
    x: jax.ShapeDtypeStruct
    placement: Placement
    construct_s: float

    @property
    def device(self) -> jax.Device:
        """The device, or the first one of the mesh."""
        return self.placement.device

    @property
    def variables(self) -> Any:
        """Shapes and dtypes of the variables that apply gets."""
        return self.needs.variables if self.given is None else trees.shapes(self.given)


@dataclass(frozen=True, kw_only=True)
class Program:
    """A compiled program.

    Attributes:
      init: Compiled `(key, x) -> variables`.
      apply: Compiled `(variables, key, x) -> (output, updated collections)`.
      init_phases: What compiling init cost.
      apply_phases: What compiling apply cost.
      training: Compiled training; None where nothing is trained.
      checks: What the claims about the program say, the same for all its runs.
    """

    draft: Draft
    init: Any
    apply: Any
    init_phases: Phases
    apply_phases: Phases
    training: CompiledTraining | None = None
    checks: tuple[Check, ...] = ()

    @functools.cached_property
    def result_bytes(self) -> int:
        """Bytes of what one run leaves: the variables, the output, and the optimiser's state where it is trained."""
        draft = self.draft
        state = jax.eval_shape(draft.training.start, draft.variables).opt_state if draft.training else ()
        leaves = jax.tree.leaves((draft.variables, draft.needs.output, state))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Names of a run, each a SHA-256 of settings.

    Attributes:
      run_id: The run in its sweep: its result, how it is timed, and on which device.
      result_id: All that can change the result, the layer's source and the bytes of an input file among it.
      program_id: What is compiled: the result's settings without the seeds.
      device: The device that the config names, or this machine's CPU where another one makes the run.
      elsewhere: Whether another machine makes the run, so that its devices need not be here.
    """

    run_id: str
    result_id: str
    program_id: str
    device: jax.Device
    elsewhere: bool = False


def identify(run: Run, variables_digest: str | None = None, *, elsewhere: str | None = None) -> Identity:
    """The names of `run`.

    Args:
      run: What is run.
      variables_digest: Digest of the variables that it starts from, where those are not init's.
      elsewhere: For a run that another machine makes, the platform that `device=auto` means there; the device need not
        be here then, and the run is traced on the CPU.

    Raises:
      LayerError: The layer or the host can't be imported.
      DeviceError: The device is not there.
      ConfigError: The input's file can't be read.
    """
    data = to_data(run)
    device = devices.find_device("cpu" if elsewhere else run.device)
    platform, name = (
        devices.named(run.device, elsewhere) if elsewhere else (device.platform, devices.device_name(device))
    )
    program = {
        "layer": {key: data["layer"][key] for key in ("target", "kwargs", "call")},
        "source": targets.source_digest(str(run.layer.target)),
        "dtype": run.input.dtype,
        "input_shape": run.input_shape,
        "platform": platform,
    }
    program |= {"mesh": _mesh_data(data)} if run.mesh is not None else {}
    program |= {key: data["layer"][key] for key in ("rngs", "mutable") if data["layer"][key] is not None}
    if run.host.target:
        host = {key: data["host"][key] for key in ("target", "kwargs", "layer_name")}
        program |= {"host": host | {"source": targets.source_digest(run.host.target, "host.target")}}
    program |= {"variables": variables_digest} if variables_digest else {}
    learning: dict[str, Any] = {}
    if run.train.steps:
        program["train"] = {key: data["train"][key] for key in ("optimizer", "learning_rate", "collections")}
        learning["train"] = {key: data["train"][key] for key in ("steps", "teacher_seed")}
    program_id = canonical_digest(program)
    values = {"kind": data["input"]["kind"], "content": inputs.content_digest(run.input)}
    values |= {"seed": run.input.seed} if run.input.kind in inputs.RANDOM_KINDS else {}
    values |= {"high": run.input.high} if run.input.kind is InputKind.tokens else {}
    result_id = canonical_digest({"program": program_id, "input": values, "seed": run.seed} | learning)
    if run.mesh is not None:
        name = name.partition(":")[0]
    how = {key: value for key, value in data["timing"].items() if key != "turns"}
    timed = {"result": result_id, "timing": how, "device": name}
    run_id = canonical_digest(timed)
    return Identity(
        run_id=run_id,
        result_id=result_id,
        program_id=program_id,
        device=device,
        elsewhere=elsewhere is not None,
    )


def _mesh_data(data: Mapping[str, Any]) -> dict[str, Any]:
    # The order of the axes counts: by it the devices are dealt out.
    return {"axes": list(data["mesh"].items()), "input": data["mesh_input"], "rules": data["mesh_rules"]}


def timing_id(run_id: str, machine_id: str, software_id: str) -> str:
    """Names runs whose times may be compared: one result, timing settings, machine and software."""
    return canonical_digest({"run": run_id, "machine": machine_id, "software": software_id})


def draft(run: Run, identity: Identity, given: Any = None, *, train_state: Any = None) -> Draft:
    """The traced program of `run`.

    Args:
      run: What is run.
      identity: Its names.
      given: Variables that it starts from; None for init's.
      train_state: What the run that left them kept to go on from, if it was trained.

    Raises:
      LayerError: The layer or its host can't be built, or can't take the input.
      ConfigError: A value that the layer, the host or the input can't have.
    """
    x = jax.ShapeDtypeStruct(tuple(run.input_shape), inputs.input_dtype(run.input))
    layer, construct_s = clock.seconds(lambda: wrap.wrap(run.layer))
    model = hosts.put_around(layer, run.host)
    label = f"{run.layer.label} in host {run.host.label}" if run.host.target else run.layer.label
    place = _placement(run, identity, x, functools.partial(wrap.find_needs, model, x, label))
    with place.context():
        needs = wrap.find_needs(model, x, label)
    if given is not None:
        given = trees.with_keys_of(given, needs.variables)
    rngs = needs.streams if run.layer.rngs is None else tuple(run.layer.rngs)
    mutable = needs.mutable if run.layer.mutable is None else tuple(run.layer.mutable)
    drafted = Draft(
        program_id=identity.program_id,
        model=model,
        layer=layer,
        needs=needs,
        rngs=rngs,
        mutable=mutable,
        given=given,
        x=x,
        placement=place,
        construct_s=construct_s,
    )
    if not run.train.steps:
        return drafted
    trained = experiment_training.make_training(
        model, run.train, drafted.variables, needs.output, rngs=rngs, mutable=mutable, label=label
    )
    if train_state is not None:
        experiment_training.require_saved(trained, drafted.variables, train_state, str(run.variables))
    return dataclasses.replace(drafted, training=trained, train_state=train_state)


def _placement(run: Run, identity: Identity, x: jax.ShapeDtypeStruct, find_needs: Callable[[], Needs]) -> Placement:
    mesh = make_mesh(on_one_device(run) if identity.elsewhere else run)
    if mesh is None:
        return on_device(identity.device)
    # The names are read before flax places anything by them, to refuse a wrong one in words that say what to type.
    with nnx.use_eager_sharding(False):
        return on_mesh(run, mesh, x, find_needs().variables)


def compile_program(drafted: Draft, *, contended: bool = False) -> Program:
    """`drafted`, compiled; may be called in any thread.

    Args:
      drafted: What to compile.
      contended: Whether other work of this program runs beside; said in the phases.
    """
    place, needs = drafted.placement, drafted.needs
    key, x = _arguments(drafted)

    def init(key: jax.Array, x: jax.Array) -> Any:
        return drafted.model.init(key, needs.streams, x)

    with place.context():
        placed = place.shardings(needs.variables)
        init_compiled, init_phases = clock.compile_phases(init, (key, x), out_shardings=placed)
        arguments = (place.shapes(drafted.variables), key, x)
        apply_compiled, apply_phases = clock.compile_phases(_apply(drafted), arguments)
        compiled = None
        if drafted.training is not None:
            compiled = compile_training(drafted, drafted.training)
            phases = dataclasses.replace(compiled.phases, contended=contended)
            compiled = dataclasses.replace(compiled, phases=phases)
    return Program(
        draft=drafted,
        init=init_compiled,
        apply=apply_compiled,
        init_phases=dataclasses.replace(init_phases, contended=contended),
        apply_phases=dataclasses.replace(apply_phases, contended=contended),
        training=compiled,
    )


def compile_training(drafted: Draft, how: Training) -> CompiledTraining:
    """`how`, compiled for the variables and the input of `drafted`, where they lie."""
    place = drafted.placement
    variables, teacher = place.shapes(drafted.variables), place.shapes(drafted.needs.variables)
    with place.context():
        return experiment_training.compile_training(how, variables, teacher, _arguments(drafted))


def compile_apply(drafted: Draft, *, precision: str | None = None) -> Any:
    """Apply alone, compiled as in `compile_program`: `(variables, key, x) -> (output, updated collections)`.

    Its variables come without boxes of metadata, as a checkpoint keeps them.

    Args:
      drafted: What to compile.
      precision: Of matrix products, as `jax.default_matmul_precision` takes it; None leaves JAX's setting.
    """
    variables = drafted.placement.shapes(trees.unbox(drafted.variables))
    precise = contextlib.nullcontext() if precision is None else jax.default_matmul_precision(precision)
    with drafted.placement.context(), precise:
        compiled, _ = clock.compile_phases(_apply(drafted), (variables, *_arguments(drafted)))
    return compiled


def _arguments(drafted: Draft) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """The root key and x, as init and apply get them."""
    place = drafted.placement
    return place.shape(jax.ShapeDtypeStruct((2,), jnp.uint32)), place.shape(drafted.x, x=True)


def _apply(drafted: Draft) -> Callable[..., Any]:
    def apply(variables: Any, key: jax.Array, x: jax.Array) -> Any:
        return drafted.model.apply(variables, wrap.apply_keys(key, drafted.rngs), drafted.mutable, x)

    return apply
