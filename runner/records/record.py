"""What a run leaves: the record, both ways to JSON, versioned.

A record is plain data and the only thing that tables, reports and W&B are made from. Units are in the names: `_s` are
seconds, `_bytes` bytes; counts start with `num_`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from runner.errors import StorageError

SCHEMA_VERSION = 2

# The last line of a record: the SHA-256 of all that stands before it. A bit that flips in a record is thereby seen.
SEAL = re.compile(rb',\n "digest": "([0-9a-f]{64})"\n}\s*$')
REDO = "run the same sweep again: what is damaged is done anew"


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

    yes = "yes"
    no = "no"
    caution = "caution"
    skipped = "skipped"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Raw times of one quantity.

    Attributes:
      durations_s: Seconds a call, one entry a sample, outliers included.
      num_calls: Calls inside one sample (the inner loop).
      num_discarded: Samples thrown out because something was compiled during them.
    """

    durations_s: list[float]
    num_calls: int = 1
    num_discarded: int = 0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Samples as numbers; see `runner.stats.summarize`.

    Attributes:
      median_low_s: Lower end of the 99 % nonparametric interval of the median; None where there are too few samples.
      median_high_s: Its upper end.
      flags: Why the number is to be read with care, e.g. `short` or `spread`.
    """

    num_samples: int
    median_s: float
    min_s: float
    max_s: float
    mean_s: float
    std_s: float
    quartile1_s: float
    quartile3_s: float
    mad_s: float
    median_low_s: float | None
    median_high_s: float | None
    num_outliers: int
    flags: list[str]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Samples and what they sum up to."""

    samples: Samples
    summary: Summary


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as long one quantity takes as another, from samples taken side by side.

    Attributes:
      median: Of the ratios, one a round.
      low: Lower end of the 99 % nonparametric interval of the median; None where there are too few rounds.
      high: Its upper end.
      flags: Flags of either quantity: why the ratio is to be read with care.
    """

    median: float
    low: float | None
    high: float | None
    flags: list[str]


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """One quantity over several runs, a number a run; see `runner.stats.aggregate`.

    Attributes:
      num: Runs that have it.
      median: Of their numbers.
      low: Lower end of the 99 % nonparametric interval of the median; None under 8 runs.
      high: Its upper end.
    """

    num: int
    median: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Seconds from a function to its first result, each phase by itself.

    Attributes:
      trace_s: `jit(f).trace(…)`.
      lower_s: `.lower()`.
      compile_s: `.compile()`, with the label of the persistent compilation cache beside it.
      cache: off, cold (compiled and put in) or warm (taken out).
      contended: True if trace, lower and compile shared the machine with other work of this program.
      first_call_s: The first call of this run; None where it was not reached.
    """

    trace_s: float
    lower_s: float
    compile_s: float
    cache: str
    contended: bool = False
    first_call_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU as `nvidia-smi` saw it when the samples were taken; None is what it does not say.

    Attributes:
      index: Its number there.
      name: Its model.
      clock_mhz: Clock of its multiprocessors.
      max_clock_mhz: The highest that it may have.
      memory_clock_mhz: Clock of its memory.
      temperature_c: In degrees Celsius.
      num_other_processes: Processes that compute on it beside this one.
    """

    index: int | None
    name: str | None
    clock_mhz: int | None
    max_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    num_other_processes: int | None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of one run, a device's caches warm from the same call before. The steady ones are None with `timing=off`.

    Attributes:
      construct_s: Importing and wrapping the class.
      init: Phases of `model.init`.
      apply: Phases of `model.apply`.
      compiled_here: False where another run of the sweep compiled the program: trace, lower and compile are then its.
      init_latency: One blocking call of init.
      apply_dispatch: Until the call returns, before the device is done.
      apply_latency: One blocking call of apply: the headline.
      apply_throughput: Seconds a call with many in flight and one block at the end.
      apply_device: Kernels of one apply by the GPU's own clock, without the gaps between them; None elsewhere.
      checkpoint_s: Saving the variables.
      tracker_s: Making the W&B run.
      load_average: One-minute load average when the samples were taken.
      contended: True if work of this program ran beside the samples.
      cards: The GPUs of the machine, where one was used and `nvidia-smi` is there.
    """

    construct_s: float
    init: Phases
    apply: Phases
    compiled_here: bool
    init_latency: Measurement | None = None
    apply_dispatch: Measurement | None = None
    apply_latency: Measurement | None = None
    apply_throughput: Measurement | None = None
    apply_device: Measurement | None = None
    checkpoint_s: float | None = None
    tracker_s: float | None = None
    load_average: float | None = None
    contended: bool = False
    cards: list[Card] = field(default_factory=list)


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
    """A claim tested about a run.

    Attributes:
      name: The claim, e.g. `finite`.
      verdict: yes, no, caution or skipped.
      detail: One sentence: what was seen, or why it was skipped.
      evidence: The numbers behind it.
      mend: What to type or write to make a no a yes, one line or several; None where there is nothing to mend.
    """

    name: str
    verdict: Verdict
    detail: str
    evidence: dict[str, Any] = field(default_factory=dict)
    mend: str | None = None


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
      digest: SHA-256 over all leaves; see `runner.trees.tree_digest`.
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
      fingerprint: Machine and software, see `runner.environment`.
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


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run in one line of a table: what the journal keeps, so that a list of runs needs no record.

    Attributes:
      settings: The whole config; not in the journal, which has it once in the plan.
      apply_s: Median of one blocking call of apply; `apply_flags` are to be shown with it.
      noes: Checks that say no.
      loss_first: The loss of a trained run before its first step.
      loss_last: The loss before its last step.
      error: Kind and message of the failure.
      trial: The first trial of a search that the run answered, and `objective` what it was told.
    """

    num: int
    run_id: str
    status: str
    layer: str
    device: str
    output_norm: float | None = None
    apply_s: float | None = None
    apply_flags: list[str] = field(default_factory=list)
    num_params: int = 0
    checkpoint_bytes: int | None = None
    noes: list[str] = field(default_factory=list)
    loss_first: float | None = None
    loss_last: float | None = None
    error: str | None = None
    trial: int | None = None
    objective: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What the run is called: its folder's name."""
        return f"{self.num}-{self.run_id[:8]}"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a search asked for, and what came of it.

    Attributes:
      number: From 0.
      overrides: What it asked for, one override for each key that the search goes over.
      value: Of the objective; None where it failed.
      run_id: The run that answered it, which may have answered an earlier one; None where its config could not run.
      error: Why it failed.
    """

    number: int
    overrides: list[str]
    value: float | None = None
    run_id: str | None = None
    error: str | None = None


def best_trial(trials: Iterable[Trial], *, greatest: bool) -> Trial | None:
    """The trial with the least value, or with the greatest; of equal ones the first; None where none has a value."""
    valued = [(trial.value, trial) for trial in trials if trial.value is not None]
    if not valued:
        return None
    return (max if greatest else min)(valued, key=lambda pair: pair[0])[1]


def row_of(record: Record) -> Row:
    """`record` in one line."""
    latency = record.timing.apply_latency if record.timing else None
    error = record.error
    return Row(
        num=record.num,
        run_id=record.run_id,
        status=record.status.value,
        layer=record.layer,
        device=record.device,
        output_norm=record.output_norm,
        apply_s=latency.summary.median_s if latency else None,
        apply_flags=latency.summary.flags if latency else [],
        num_params=record.num_params,
        checkpoint_bytes=record.saved.num_bytes if record.saved else None,
        noes=[check.name for check in record.checks if check.verdict is Verdict.no],
        loss_first=record.train.losses[0] if record.train else None,
        loss_last=record.train.losses[-1] if record.train else None,
        error=f"{error.kind.value}: {error.message or error.type}" if error else None,
        settings=record.settings,
    )


def to_json(record: Record) -> bytes:
    """`record` as indented JSON; infinities and NaN as `Infinity`, `-Infinity`, `NaN`, as Python's json reads them."""
    return seal(data_to_json(record))


def data_to_json(data: Any) -> bytes:
    """JSON data, which may hold records, as indented JSON; a ninth of the time that Python's own encoder takes."""
    import pydantic_core

    try:
        return pydantic_core.to_json(data, indent=1, inf_nan_mode="constants")
    except pydantic_core.PydanticSerializationError:
        # Half a surrogate pair, as in an error about a file's name, is no UTF-8 and could not be read again.
        return json.dumps(data, indent=1, ensure_ascii=False, default=_plain).encode(errors="replace")


def _plain(item: Any) -> Any:
    return item.value if isinstance(item, enum.Enum) else dataclasses.asdict(item)


def seal(text: bytes) -> bytes:
    """JSON of an object, indented by one, with its SHA-256 as the last key."""
    digest = hashlib.sha256(text).hexdigest()
    return text.removesuffix(b"\n}") + f',\n "digest": "{digest}"\n}}\n'.encode()


def to_data(record: Record) -> dict[str, Any]:
    """`record` as JSON data: dicts, lists, strings, numbers."""
    data = json.loads(to_json(record))
    assert isinstance(data, dict)
    del data["digest"]
    return data


def is_whole(text: bytes) -> bool:
    """Whether `text` is a record as it was written, by version and digest alone: as `from_json` says, and sooner."""
    sealed = SEAL.search(text)
    return (
        sealed is not None
        and text.startswith(b'{\n "schema_version": %d,' % SCHEMA_VERSION)
        and hashlib.sha256(text[: sealed.start()] + b"\n}").hexdigest() == sealed[1].decode()
    )


def from_json(text: bytes | str, where: str = "record") -> Record:
    """The record that `to_json` wrote.

    Raises:
      StorageError: The text is no record, or one of a version that this program can't read.
    """
    import pydantic
    import pydantic_core

    try:
        data = pydantic_core.from_json(text)
    except ValueError as error:
        raise StorageError(f"{where} is damaged: {error}", REDO) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise StorageError(f"{where} has record version {version}, this program reads {SCHEMA_VERSION}")
    data.pop("digest", None)
    text = text.encode() if isinstance(text, str) else text
    sealed = SEAL.search(text)
    if sealed is None or hashlib.sha256(text[: sealed.start()] + b"\n}").hexdigest() != sealed[1].decode():
        raise StorageError(f"{where} is damaged: it is not what was written, by its digest", REDO)
    try:
        return _adapter().validate_python(data)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StorageError(f"{where} is no record: {place}: {first['msg']}") from error


@functools.cache
def _adapter() -> Any:
    import pydantic

    return pydantic.TypeAdapter(Record)
