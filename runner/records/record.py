"""What a run leaves: the record, versioned.

A record is plain data and the only thing that tables, reports and W&B are made from. Units are in the names: `_s` are
seconds, `_bytes` bytes; counts start with `num_`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from runner.records.timing import Phases, Timing

SCHEMA_VERSION = 2


class Status(enum.Enum):
    """How a run ended."""

    done = "done"
    failed = "failed"


class FailureKind(enum.Enum):
    """What made a run fail."""

    config = "config"
    out_of_memory = "out of memory"
    compile = "compile"
    non_finite = "non-finite output"
    check = "check"
    checkpoint = "checkpoint"
    interrupted = "interrupted"
    died = "died"
    other = "other"


class Verdict(enum.StrEnum):
    """What a check says: it holds, it does not, it holds within limits that are named, or it was not tested.

    Each equals its string, so that `check.verdict == check.verdict.value` in a caller's test.
    """

    passed = "pass"
    warn = "warn"
    fail = "fail"
    skipped = "skipped"


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One array of the variables.

    Attributes:
      path: Collection first, e.g. `["params", "kernel"]`; integer keys stay integers.
      shape: Shape of the unboxed array.
      dtype: Its element type.
      num_bytes: Its size.
      digest: SHA-256 over dtype, shape and bytes.
      box: Class name of the metadata box that it came in (`NNXMeta`, `Partitioned`), or None.
      names: Axis names in the box, if it has any.
      spec: On a mesh, the mesh axis (one, several, or None) along which each of its axes is cut.
    """

    path: list[str | int]
    shape: list[int]
    dtype: str
    num_bytes: int
    digest: str
    box: str | None = None
    names: list[Any] | None = None
    spec: list[Any] | None = None

    @property
    def name(self) -> str:
        """The path as one string: `params/kernel`."""
        return "/".join(str(part) for part in self.path)


@dataclass(frozen=True, kw_only=True)
class ArraySummary:
    """One array of the output: what it is and how its values lie (over finite values; None where there are none)."""

    path: str
    shape: list[int]
    dtype: str
    digest: str
    num_elements: int
    num_non_finite: int
    norm: float | None
    mean: float | None
    std: float | None
    min: float | None
    max: float | None


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check tested about a run.

    Attributes:
      name: The check, e.g. `finite`.
      verdict: yes, no, warn or skipped.
      detail: One sentence: what was seen, or why it was skipped.
      evidence: The numbers behind it.
      fix: What to type or write to make a fail a yes, one line or several; None where there is nothing to fix.
    """

    name: str
    verdict: Verdict
    detail: str
    evidence: dict[str, Any] = field(default_factory=dict)
    fix: str | None = None


@dataclass(frozen=True, kw_only=True)
class MeshInfo:
    """The devices that a run was spread over.

    Attributes:
      axes: Name and size of every axis, in order.
      devices: Their names, the last axis fastest.
      x: The mesh axis (one, several, or None) along which each axis of x was cut.
      num_processes: How many processes they belonged to.
    """

    axes: dict[str, int]
    devices: list[str]
    x: list[Any]
    num_processes: int = 1


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a run failed."""

    kind: FailureKind
    type: str
    message: str
    traceback: str


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """Where the variables are and what they are worth.

    Attributes:
      path: Folder, relative to the run's folder.
      digest: SHA-256 over all leaves; see `runner.arrays.trees.tree_digest`.
      num_bytes: Size of all files of the folder.
      writer: What wrote it.
      removed: The setting that removed it when the sweep had enough others; None where it is there.
    """

    path: str
    digest: str
    num_bytes: int
    writer: str
    removed: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainInfo:
    """What training did.

    Attributes:
      first_step: Number of its first step: above 0 where it went on from a run that was trained.
      losses: The loss before each step.
      step: Phases of a step.
      steps_s: Seconds a step, until its result is ready; the first one is the first call.
      not_moved: Paths of floating leaves that training left as they were, collections that apply updates left out.
      resumed_at: Steps at which it went on after an attempt that was stopped; the curve is of all attempts.
      remarks: What is to be known of that: damaged steps, other software.
      state: Where the step and the optimiser's state are, to go on from; None where no checkpoint is written.
    """

    first_step: int
    losses: list[float]
    step: Phases
    steps_s: list[float]
    not_moved: list[str]
    resumed_at: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    state: CheckpointInfo | None = None


@dataclass(frozen=True, kw_only=True)
class Head:
    """A run that has not ended: what its record will say of where it belongs, under the same names."""

    run_id: str
    num: int
    overrides: list[str]
    settings: dict[str, Any]
    layer: str
    host: str | None
    platform: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run, start to end.

    Attributes:
      run_id: Names the run in its sweep: settings that change its result, and how it is timed.
      result_id: Settings that change the result.
      timing_id: `result_id`, timing settings, machine and software.
      program_id: What is compiled: all that changes the result but the seeds.
      num: Position in the sweep.
      overrides: As typed, task overrides only.
      settings: The whole config, resolved.
      host: Name of the Linen module around the layer; None where there is none.
      mesh: The mesh that it ran on; None where that was one device.
      streams: rng streams that the model needs, `params` first.
      mutable: Collections that apply updates.
      init_mode: `jit`: init ran compiled.
      variables: Leaves that the checkpoint holds, in order.
      updated: Leaves of the mutable collections after apply.
      output: Arrays of the output.
      files: Every file of the run's folder but this one, by relative path: `sha256:…`, or of a large one its size only,
        since the digests of the leaves cover it.
      train: What training did; None where nothing was trained. The variables and the output are then the trained ones.
      fingerprint: Machine and software, see `runner.timing.machine`.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    result_id: str
    timing_id: str
    program_id: str
    sweep: str
    num: int
    status: Status
    started_at: str
    wall_s: float
    overrides: list[str]
    settings: dict[str, Any]
    layer: str
    host: str | None = None
    device: str
    platform: str
    mesh: MeshInfo | None = None
    streams: list[str] = field(default_factory=list)
    mutable: list[str] = field(default_factory=list)
    init_mode: str = "jit"
    variables: list[Leaf] = field(default_factory=list)
    updated: list[Leaf] = field(default_factory=list)
    output: list[ArraySummary] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    timing: Timing | None = None
    train: TrainInfo | None = None
    checkpoint: CheckpointInfo | None = None
    files: dict[str, str] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    error: Failure | None = None

    @property
    def saved(self) -> CheckpointInfo | None:
        """The checkpoint that is there; None where none was written, or it was removed."""
        return self.checkpoint if self.checkpoint and self.checkpoint.removed is None else None

    @property
    def num_params(self) -> int:
        """Elements of all leaves of `params`."""
        total = 0
        for leaf in self.variables:
            if leaf.path[0] == "params":
                size = 1
                for axis in leaf.shape:
                    size *= axis
                total += size
        return total

    @property
    def variables_bytes(self) -> int:
        """Bytes of all leaves."""
        return sum(leaf.num_bytes for leaf in self.variables)

    @property
    def output_norm(self) -> float | None:
        """Euclidean norm over all arrays of the output; None where one has no finite value."""
        norms = [array.norm for array in self.output]
        if not norms or any(norm is None for norm in norms):
            return None
        return float(sum(norm * norm for norm in norms if norm is not None) ** 0.5)
