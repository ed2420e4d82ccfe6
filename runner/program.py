"""A program: the compiled init and apply of one layer on one input shape and device, shared by all seeds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from runner import bridge, devices, hosts, inputs, targets, timing, training, trees
from runner.bridge import Bridged, Needs
from runner.records import Check, Phases
from runner.settings import InputKind, Run, canonical_digest, to_data
from runner.training import CompiledTraining, Training


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
    device: jax.Device
    construct_s: float

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
      device: The device that the config names.
    """

    run_id: str
    result_id: str
    program_id: str
    device: jax.Device


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
    how = {key: value for key, value in data["timing"].items() if key != "turns"}
    timed = {"result": result_id, "timing": how, "device": name}
    run_id = canonical_digest(timed)
    return Identity(run_id=run_id, result_id=result_id, program_id=program_id, device=device)


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
    layer, construct_s = timing.seconds(lambda: bridge.wrap(run.layer))
    model = hosts.put_around(layer, run.host)
    label = f"{run.layer.label} in host {run.host.label}" if run.host.target else run.layer.label
    needs = bridge.find_needs(model, x, label)
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
        device=identity.device,
        construct_s=construct_s,
    )
    if not run.train.steps:
        return drafted
    trained = training.make_training(
        model, run.train, drafted.variables, needs.output, rngs=rngs, mutable=mutable, label=label
    )
    if train_state is not None:
        training.require_saved(trained, drafted.variables, train_state, str(run.variables))
    return dataclasses.replace(drafted, training=trained, train_state=train_state)


def compile_program(drafted: Draft, *, contended: bool = False) -> Program:
    """`drafted`, compiled; may be called in any thread.

    Args:
      drafted: What to compile.
      contended: Whether other work of this program runs beside; said in the phases.
    """
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)

    def init(key: jax.Array, x: jax.Array) -> Any:
        return drafted.model.init(key, drafted.needs.streams, x)

    with jax.default_device(drafted.device):
        init_compiled, init_phases = timing.compile_phases(init, (key, drafted.x))
        arguments = (drafted.variables, key, drafted.x)
        apply_compiled, apply_phases = timing.compile_phases(_apply(drafted), arguments)
        compiled = None
        if drafted.training is not None:
            compiled = training.compile_training(
                drafted.training, drafted.variables, drafted.needs.variables, drafted.x
            )
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


def compile_apply(drafted: Draft) -> Any:
    """Apply alone, compiled as in `compile_program`: `(variables, key, x) -> (output, updated collections)`."""
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    with jax.default_device(drafted.device):
        compiled, _ = timing.compile_phases(_apply(drafted), (drafted.variables, key, drafted.x))
    return compiled


def _apply(drafted: Draft) -> Callable[..., Any]:
    def apply(variables: Any, key: jax.Array, x: jax.Array) -> Any:
        return drafted.model.apply(variables, bridge.apply_keys(key, drafted.rngs), drafted.mutable, x)

    return apply
