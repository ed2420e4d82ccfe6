"""Refuses a program that can't fit into memory: XLA does not raise where it can't allocate on a CPU, it aborts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from runner.arrays import devices
from runner.errors import UserError
from runner.experiment.draft import Draft
from runner.experiment.program import Program
from runner.records.paths import RunFolder, shown
from runner.timing import memory


class TooLarge(MemoryError):
    """A program needs more memory than there is."""


class NoRoomError(UserError):
    """A saved run asks for more memory than there is.

    Args:
      folder: The run's folder.
      what: How much, and how much there is.
    """

    def __init__(self, folder: RunFolder, what: str) -> None:
        super().__init__(f"{shown(folder.path)} is not built again: {what}", f"bridge-runner show {shown(folder.path)}")


def require_room(draft: Draft) -> None:
    """Checks that the arrays of one run fit, before anything is compiled.

    Raises:
      TooLarge: They do not; the message has both numbers.
    """
    x_bytes = draft.x.size * draft.x.dtype.itemsize
    held = {"variables": draft.variables_bytes, "output": draft.output_bytes, "optimizer": draft.optimizer_bytes}
    _require(draft, held | {"x": x_bytes})


def require_room_again(folder: RunFolder, draft: Draft) -> None:
    """Checks that the arrays of a call of a saved run fit, before any of them is made.

    Raises:
      NoRoomError: They do not; the message has both numbers.
    """
    x_bytes = draft.x.size * draft.x.dtype.itemsize
    try:
        _require(draft, {"variables": draft.variables_bytes, "output": draft.output_bytes, "x": x_bytes})
    except TooLarge as error:
        raise NoRoomError(folder, str(error)) from error


def require_room_without_jit(draft: Draft) -> None:
    """Checks that the largest array fits that the layer makes where it is called without `jit`: nothing is fused.

    Raises:
      TooLarge: It does not; the message has both numbers.
    """
    _require(draft, {"the largest array that it makes without jit": draft.needs.largest_bytes})


def require_room_to_run(program: Program) -> None:
    """Checks that what the compiled program allocates fits, with everything between its input and its output.

    Raises:
      TooLarge: It does not; the message has both numbers.
    """
    steps = {"init": program.init, "apply": program.apply}
    if program.training is not None:
        steps["a training step"] = program.training.step
    if program.population is not None:
        steps[f"{program.population.size} runs that train as one (train.together=off: one by one)"] = (
            program.population.steps
        )
    for name, compiled in steps.items():
        stats = compiled.memory_analysis()
        if stats is not None:
            place = program.draft.placement
            num_here = 1 if place.mesh is None or _on_gpu(place.device) else len(place.mesh.local_devices)
            arrays = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
            held = {f"the arrays of {name}": arrays, "those between them": stats.temp_size_in_bytes}
            _require(program.draft, {part: num_here * num_bytes for part, num_bytes in held.items()}, shares=1)


def _require(draft: Draft, held: Mapping[str, int], *, shares: int | None = None) -> None:
    place = draft.placement
    if shares is None:  # of a mesh each process, or GPU, holds a part
        others = [] if place.mesh is None else list(place.mesh.devices.flat)
        shares = max(1, len(others) if _on_gpu(place.device) else len({one.process_index for one in others}))
    wanted, free = sum(held.values()) // shares, _free_bytes(place.device)
    if free is not None and wanted > free:
        most = {name: num_bytes for name, num_bytes in held.items() if num_bytes > wanted / 100}
        parts = ", ".join(f"{name} {_size(num_bytes)}" for name, num_bytes in most.items())
        where = "on the GPU" if _on_gpu(place.device) else "here"
        raise TooLarge(f"it takes at least {_size(wanted)} of memory ({parts}), and {_size(free)} are free {where}")


def _free_bytes(device: Any) -> int | None:
    """Bytes of the GPU, or those that this machine has left."""
    if _on_gpu(device):
        return (device.memory_stats() or {}).get("bytes_limit")
    return memory.free_bytes()


def _on_gpu(device: jax.Device) -> bool:
    return devices.platform_name(device) != "cpu"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes < 1e12 else f"{num_bytes / 1e12:,.4g} TB"
