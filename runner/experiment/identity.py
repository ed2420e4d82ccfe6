"""Ids of a run: SHA-256 of the settings that can change its result, its times, and its program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from runner.arrays import devices
from runner.bridge import targets
from runner.config.enums import InputKind
from runner.config.serialize import canonical_digest, to_data
from runner.config.settings.run import Run
from runner.experiment import inputs
from runner.experiment.sized import sized

# Timing settings that are no part of a run: they say how far to trust its times, or how long to go on.
UNTIMED = ("turns", "max_s")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The ids of a run, each a SHA-256 of settings.

    Attributes:
      run_id: The run in its sweep: its result, how it is timed, and on which device.
      result_id: Everything that can change the result, including the layer's source and the bytes of an input file.
      program_id: What is compiled: the result's settings without the seeds.
      device: The device that the config names, or this machine's CPU if the run is remote.
      remote: Whether the run is remote, so that its devices need not exist here.
    """

    run_id: str
    result_id: str
    program_id: str
    device: jax.Device
    remote: bool = False


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the ids of runs that differ in their seed alone are made of.

    Attributes:
      program_id: Theirs all.
      content: The other settings that can change the result, but for the seed.
      timing: The settings that can change the times.
      device_name: The device's name in ids.
      device: The device that the config names, or this machine's CPU if the runs are remote.
      remote: Whether the runs are remote.
    """

    program_id: str
    content: Mapping[str, Any]
    timing: Mapping[str, Any]
    device_name: str
    device: jax.Device
    remote: bool

    def identity(self, seed: int) -> Identity:
        """The ids of the member with this seed."""
        result_id = canonical_digest({"program": self.program_id, "seed": seed, **self.content})
        timed = {"result": result_id, "timing": self.timing, "device": self.device_name}
        return Identity(
            run_id=canonical_digest(timed),
            result_id=result_id,
            program_id=self.program_id,
            device=self.device,
            remote=self.remote,
        )


def identity_of(run: Run, variables_digest: str | None = None, *, remote_platform: str | None = None) -> Identity:
    """Computes the ids of `run`; see `family_of`."""
    return family_of(run, variables_digest, remote_platform=remote_platform).identity(run.seed)


def family_of(run: Run, variables_digest: str | None = None, *, remote_platform: str | None = None) -> Family:
    """Computes what the ids of `run` and of its likes with other seeds are made of.

    Args:
      run: The run.
      variables_digest: Digest of the variables that it starts from, if not init's.
      remote_platform: For a remote run, the platform that `device=auto` means there; the device need not exist here,
        and the run is traced on the CPU.

    Raises:
      LayerError: The layer or the host can't be imported.
      DeviceError: The device does not exist.
      ConfigError: The input's file can't be read.
    """
    run = sized(run)
    data = to_data(run)
    device = devices.find_device("cpu" if remote_platform else run.device)
    here = (device.platform, devices.device_name(device))
    platform, name = devices.named(run.device, remote_platform) if remote_platform else here
    program = {
        "layer": {key: data["layer"][key] for key in ("target", "kwargs", "call")},
        "source": targets.source_digest(str(run.layer.target)),
        "dtype": run.input.dtype,
        "input_shape": run.input_shape,
        "platform": platform,
    }
    program |= {"nnx_method": run.layer.nnx_method} if run.layer.nnx_method is not None else {}
    if run.input.name is not None or run.input.shapes:
        # The further arrays are constants of the program.
        program["inputs"] = {key: data["input"][key] for key in ("name", "shapes", "dtypes", "kind", "seed", "high")}
    program |= {"mesh": _mesh_data(data["mesh"])} if run.mesh.axes is not None else {}
    program |= {key: data["layer"][key] for key in ("rngs", "init_rngs", "mutable") if data["layer"][key] is not None}
    program |= _wrapping(run)
    program |= {"pipeline": run.pipeline.name} if run.pipeline.name else {}
    if run.host.target:
        host = {key: data["host"][key] for key in ("target", "kwargs", "layer_name")}
        host |= {"call": data["host"]["call"]} if run.host.call else {}
        program |= {"host": host | {"source": targets.source_digest(run.host.target, "host.target")}}
    program |= {"variables": variables_digest} if variables_digest else {}
    learning: dict[str, Any] = {}
    if run.train.steps:
        # Runs that train together are one program for every learning rate, with other bits than alone.
        num, train = run.train.num_together, data["train"]
        rate = {"learning_rate": train["learning_rate"]}
        compiled = {key: train[key] for key in ("optimizer", "collections")}
        program["train"] = compiled | ({"together": num} if num else rate)
        learning["train"] = {key: train[key] for key in ("steps", "teacher_seed")} | (rate if num else {})
        if run.train.eval_batches:
            learning["train"]["eval_batches"] = run.train.eval_batches
    program_id = canonical_digest(program)
    values = {"kind": data["input"]["kind"], "content": inputs.content_digest(run.input)}
    values |= {"seed": run.input.seed} if run.input.kind in inputs.RANDOM_KINDS else {}
    values |= {"high": run.input.high} if run.input.kind is InputKind.tokens else {}
    if run.mesh.axes is not None:
        name = name.partition(":")[0]
    return Family(
        program_id=program_id,
        content={"input": values} | learning,
        timing={key: value for key, value in data["timing"].items() if key not in UNTIMED},
        device_name=name,
        device=device,
        remote=remote_platform is not None,
    )


def _wrapping(run: Run) -> dict[str, Any]:
    """How the layer is wrapped, where that is not flax's own way: with the source of what is named."""
    found: dict[str, Any] = {}
    for key, default in (("wrapper", None), ("metadata_fn", "default")):
        value = getattr(run.layer, key)
        if value != default:
            source = targets.source_digest(value, f"layer.{key}") if targets.DOTTED.fullmatch(value) else None
            found[key] = {"name": value, "source": source}
    return found


def _mesh_data(mesh: Mapping[str, Any]) -> dict[str, Any]:
    # The order of the axes matters: it determines how devices are assigned.
    return {"axes": list(mesh["axes"].items()), "input": mesh["input"], "rules": mesh["rules"]}


def timing_id(run_id: str, machine_id: str, software_id: str) -> str:
    """The id shared by runs whose times may be compared: same result, timing settings, machine and software."""
    return canonical_digest({"run": run_id, "machine": machine_id, "software": software_id})
