"""The record of a run: a versioned schema.

A record is plain data, and the single source for tables, reports and W&B. Names carry units: `_s` are seconds,
`_bytes` bytes; counts start with `num_`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from runner.records.timing import Phases, Timing

SCHEMA_VERSION = 3


class Status(enum.Enum):
    """How a run ended."""

    done = "done"
    failed = "failed"


class FailureKind(enum.Enum):
    """Why a run failed."""

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
    """The result of a check: it passed, failed, passed within stated limits, or was not tested.

    Members equal their strings, so that `check.verdict == check.verdict.value` in a caller's test.
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
      dtype: Its dtype.
      num_bytes: Its size in bytes.
      digest: SHA-256 over dtype, shape and bytes.
      box: Class name of its metadata box (`NNXMeta`, `Partitioned`), or None.
      names: Axis names in the box, if it has any.
      spec: On a mesh, the mesh axis (one, several, or None) that each of its axes is sharded over.
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
    """One output array: its type and value statistics (over finite values; None where there are none)."""

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
    """One check of a run and its result.

    Attributes:
      name: The check, e.g. `finite`.
      verdict: pass, fail, warn or skipped.
      detail: One sentence: what was observed, or why it was skipped.
      evidence: The numbers behind it.
      fix: What to type or write so that a failed check passes, one line or several; None if there is nothing to fix.
      untested: Whether the check could not be made, though there was something to check: a warn that is no pass.
    """

    name: str
    verdict: Verdict
    detail: str
    evidence: dict[str, Any] = field(default_factory=dict)
    fix: str | None = None
    untested: bool = False


@dataclass(frozen=True, kw_only=True)
class MeshInfo:
    """The mesh of devices that a run was sharded over.

    Attributes:
      axes: Name and size of every axis, in order.
      devices: Device names, the last axis varying fastest.
      x: The mesh axis (one, several, or None) that each axis of x was sharded over.
      num_processes: How many processes the devices belonged to.
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
    """Location, digest and size of a run's checkpoint.

    Attributes:
      path: Folder, relative to the run's folder.
      digest: SHA-256 over all leaves; see `runner.arrays.trees.tree_digest`.
      num_bytes: Total size of the folder's files.
      writer: What wrote it.
      removed: The setting that removed it once the sweep had enough others; None if it still exists.
    """

    path: str
    digest: str
    num_bytes: int
    writer: str
    removed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Together:
    """How a run was trained as one program with others (`train.together`).

    A run's bits depend on `num`, and not on which runs the others are. They are not those of the same run trained
    alone: how far they are from them was measured on one run of the program.

    Attributes:
      num: How many runs the program trains; places without a run are filled with copies of the last.
      runs: Numbers of the runs that this process trained with it, itself included.
      measured_on: The seed of the run that was measured.
      num_steps: For how many steps it was trained both ways.
      loss_ulp: The largest distance of its losses, in representable numbers.
      loss_abs: The largest distance of its losses; None where one was not finite.
      params_ulp: The largest distance of its trained variables after these steps.
      params_abs: The same as a number; None where one was not finite.
      alone: Why the run was trained alone after all; None if it was not.
    """

    num: int
    runs: list[int] = field(default_factory=list)
    measured_on: int | None = None
    num_steps: int = 0
    loss_ulp: int | None = None
    loss_abs: float | None = None
    params_ulp: int | None = None
    params_abs: float | None = None
    alone: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainInfo:
    """Results of training.

    Attributes:
      first_step: Number of its first step: above 0 if it continued from a trained run.
      losses: The loss before each step.
      step: Compilation phases and first call of a step.
      steps_s: Seconds per step, until its result is ready; the first one is the first call.
      not_moved: Paths of floating-point leaves that training left unchanged, except in collections that apply updates.
      resumed_at: Steps at which it resumed after an interrupted attempt; the curve covers all attempts.
      remarks: Notes on resuming: damaged steps, different software.
      state: Location of the step and optimizer state, to continue from; None if no checkpoint is written.
      loss_eval: The loss after training on `train.eval_batches` batches; None if there are none.
      together: How it was trained together with other runs, where a step takes as long as one of all of them; None if
        it was to train alone.
    """

    first_step: int
    losses: list[float]
    step: Phases
    steps_s: list[float]
    not_moved: list[str]
    resumed_at: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    state: CheckpointInfo | None = None
    loss_eval: float | None = None
    together: Together | None = None


@dataclass(frozen=True, kw_only=True)
class Head:
    """A run that has not ended: the identifying fields of its future record, under the same names."""

    run_id: str
    num: int
    overrides: list[str]
    settings: dict[str, Any]
    layer: str
    host: str | None
    platform: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run from start to end.

    Attributes:
      run_id: Identifies the run in its sweep: settings that change its result, and how it is timed.
      result_id: Settings that change the result.
      timing_id: `result_id`, timing settings, machine and software.
      program_id: What is compiled: everything that changes the result except the seeds.
      num: Position in the sweep.
      overrides: As typed, task overrides only.
      settings: The full resolved config.
      filled: Keys of it that were filled in: sizes that the layer's constructor needs, by name.
      takes_rngs: How the layer's constructor takes `{rngs}`, as code; empty if it takes none.
      nnx_class: The NNX class as code, where `layer.target` is a Linen class that wraps it; else empty.
      sources: SHA-256 of each of the user's modules that the layer, the host and what they name come from.
      linen: The Linen module as code, where it is not flax's own `ToLinen` with its defaults; else empty.
      host: Name of the Linen module around the layer; None where there is none.
      mesh: The mesh that it ran on; None for a single device.
      streams: rng streams that the model needs, `params` first.
      mutable: Collections that apply updates.
      init_mode: `jit` if init ran compiled.
      variables: Leaves that the checkpoint holds, in order.
      updated: Leaves of the mutable collections after apply.
      output: Arrays of the output.
      files: All files in the run's folder except this one, by relative path: `sha256:…`, or only the size of a large
        one, which the digests of the leaves cover.
      train: Results of training, in which case variables and output are the trained ones; None if nothing was trained.
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
    filled: list[str] = field(default_factory=list)
    takes_rngs: str = "rngs={rngs}"
    nnx_class: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    linen: str = ""
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
        """The checkpoint, if it exists; None if none was written or it was removed."""
        return self.checkpoint if self.checkpoint and self.checkpoint.removed is None else None

    @property
    def num_params(self) -> int:
        """Number of elements in `params`."""
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
        """Total bytes of all leaves."""
        return sum(leaf.num_bytes for leaf in self.variables)

    @property
    def output_norm(self) -> float | None:
        """Euclidean norm over all output arrays; None if any has no finite value."""
        norms = [array.norm for array in self.output]
        if not norms or any(norm is None for norm in norms):
            return None
        return float(sum(norm * norm for norm in norms if norm is not None) ** 0.5)
