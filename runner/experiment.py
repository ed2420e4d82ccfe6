"""One run, start to end. Read this file first.

A `Run` (settings) becomes a wrapped layer, variables (trained for some steps, if asked), an output, checks, samples and
a `Record`. Nothing here touches a file or the network: what is written is written by the caller.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from runner import (
    bridge,
    checks,
    claims,
    devices,
    environment,
    hosts,
    inputs,
    leases,
    shards,
    stats,
    timing,
    training,
    trees,
    twins,
)
from runner.checkpoint import CheckpointError
from runner.claims import rounding
from runner.errors import StorageError, UserError
from runner.program import Draft, Identity, Program, compile_program, compile_training, timing_id
from runner.records import (
    ArraySummary,
    Card,
    Check,
    Failure,
    FailureKind,
    Head,
    Measurement,
    Record,
    Status,
    Timing,
    TrainInfo,
    Verdict,
)
from runner.settings import ChecksDepth, ChecksMode, EagerCheck, Run, to_data
from runner.subject import Subject
from runner.training import CompiledTraining, Steps, Stopped, Trained, Watch

MAX_TRACEBACK_LINES = 60

# A run over a mesh is compared with one device, unless its variables are more: they may not fit there.
MAX_ALONE_BYTES = 2**28

# Asked of the system once a process: it reads files, and a run takes milliseconds.
_num_cores = functools.cache(leases.cores_to_share)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run with its place in a sweep.

    Attributes:
      run: What is run.
      identity: Its names.
      num: Its position.
      sweep: Name of the sweep.
      overrides: What was typed for it.
      compare_eager: Whether the jitted path is compared with the eager one here.
      compared_on: The run of the sweep on which it is; None where on none.
    """

    run: Run
    identity: Identity
    num: int = 0
    sweep: str = ""
    overrides: tuple[str, ...] = ()
    compare_eager: bool = True
    compared_on: int | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run leaves in memory.

    Attributes:
      record: The record, still without checkpoint and tracker.
      variables: The Linen variables as they are saved (`trees.to_save`); None where init failed.
      output: Arrays of the output by path.
      train_state: The step and the optimiser's state, as they are saved; None where nothing was trained.
    """

    record: Record
    variables: Any
    output: Mapping[str, np.ndarray]
    train_state: Any = None


@dataclass
class _Story:
    """How far a run has come; a failure keeps what was reached."""

    initial: Any = None
    variables: Any = None
    train_state: Any = None
    train: TrainInfo | None = None
    updated: Any = None
    output: Mapping[str, np.ndarray] = field(default_factory=dict)
    summaries: list[ArraySummary] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    init_first_s: float | None = None
    apply_first_s: float | None = None
    steady: dict[str, Measurement] = field(default_factory=dict)
    load_average: float | None = None
    cards: list[Card] = field(default_factory=list)
    failure: Failure | None = None
    steps: Steps | None = None


class WorkerDied(Exception):
    """The process that was at a run ended with it: a crash in native code, a kill, or no memory left."""


class CheckFailed(Exception):
    """A strict check said no.

    Args:
      check: The one that did.
      asked: All that had been asked till then.
    """

    def __init__(self, check: Check, asked: Sequence[Check] = ()) -> None:
        self.check = check
        self.asked = list(asked)
        # Of an output that is not finite the failure's kind already says it.
        super().__init__(check.detail if check.name == "finite" else f"{check.name}: {check.detail}")


class NotCompiled(Exception):
    """A program did not compile, for the error that caused this one.

    Args:
      asked: What the claims had said till then.
    """

    def __init__(self, asked: Sequence[Check]) -> None:
        self.asked = list(asked)
        super().__init__()


def prepare(draft: Draft, run: Run, *, contended: bool = False) -> Program:
    """The compiled program of `run`, with what the claims say of it; may be called in any thread.

    Args:
      draft: The traced program.
      run: A run of it: its settings of checks and input count, not its seed.
      contended: Whether other work of this program runs beside.

    Raises:
      CheckFailed: A strict claim said no.
      NotCompiled: The layer's own code raises when it is compiled.
    """
    # Variables from elsewhere may be such that nothing compiles with them: then the claim says it better.
    before = judge(draft, run) if draft.given is not None else []
    try:
        program = compile_program(draft, contended=contended)
    except Exception as error:
        raise NotCompiled(before) from error
    return dataclasses.replace(program, checks=tuple(before or judge(draft, run, program)))


def judge(draft: Draft, run: Run, program: Program | None = None) -> list[Check]:
    """What the claims say of `draft`, as the settings of `run` ask for it; nothing where those say off.

    Args:
      draft: The traced program.
      run: A run of it.
      program: The same, compiled, if it is.

    Raises:
      CheckFailed: A strict claim said no.
    """
    if run.checks.mode is ChecksMode.off:
        return []
    # Of a mesh they ask on one device: what several make of the layer is the claim `sharding`, and a check of each run.
    with draft.placement.alone().context():
        alone = program if draft.placement.mesh is None else None
        asked = claims.judge(subject(draft, run, alone), full=run.checks.depth is ChecksDepth.full)
    if run.checks.mode is ChecksMode.strict:
        for check in asked:
            _refuse(check, asked, run)
    return asked


def _refuse(check: Check, asked: Sequence[Check], run: Run) -> None:
    strict = checks.STRICT | ({"trained"} if run.train.steps else set())
    if check.verdict is Verdict.no and check.name in strict:
        raise CheckFailed(check, asked)


def subject(draft: Draft, run: Run, program: Program | None = None) -> Subject:
    """What the claims of a program are tested on: seed 0, so that the verdicts are those of all its runs."""
    place = draft.placement.alone()
    return Subject(
        label=run.layer.label,
        model=draft.model,
        layer=draft.layer,
        needs=draft.needs,
        x=place.put_x(inputs.make_input(run.input, run.input_shape)),
        given=draft.given,
        rngs=draft.rngs,
        mutable=draft.mutable,
        trained=tuple(run.train.collections),
        trains=run.train.steps > 0,
        key=place.put(bridge.root_key(0)),
        compiled_init=program.init if program else None,
        compiled_apply=program.apply if program else None,
        again=lambda: bridge.wrap(run.layer),
    )


def execute(
    job: Job,
    program: Program,
    *,
    compiled_here: bool = True,
    clock: timing.Clock = time.perf_counter_ns,
    watch: Watch | None = None,
    steps: Steps | None = None,
    beside: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Result:
    """The record, variables and output of one run.

    Whatever the layer raises ends this run only: the record then says `failed`, with the traceback.

    Args:
      job: What is run.
      program: Its compiled program.
      compiled_here: Whether this run is the one that the program was compiled for.
      clock: Nanoseconds from any fixed origin.
      watch: Told of the losses while the run trains, outside of all that is timed; see `training.train`.
      steps: Where the steps of its training are kept meanwhile.
      beside: Entered while the checks run, which may take seconds and are not timed.

    Raises:
      Stopped: Its training was asked to end.
      StorageError: A step of its training can't be written.
    """
    started_at = now()
    story = _Story(steps=steps)

    def tell() -> None:
        try:
            with program.draft.placement.context():
                _tell(story, job, program, clock=clock, watch=watch, beside=beside)
        except (Stopped, StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - the layer's own code may raise anything
            _end_if_meant(error)
            story.failure = describe_failure(error)

    _, wall_s = timing.seconds(tell, clock=clock)
    record = _record(job, program, story, started_at=started_at, wall_s=wall_s, compiled_here=compiled_here)
    variables = trees.to_save(story.variables)
    return Result(record=record, variables=variables, output=story.output, train_state=story.train_state)


def rehearse_eager(job: Job, draft: Draft) -> None:
    """Goes the eager way that a check of `job` will go, so that it finds each operation compiled.

    For a sweep's threads, while they compile: half of the time of a first run is XLA compiling one operation at a time.
    """
    run, place = job.run, draft.placement
    if not job.compare_eager or place.mesh is not None or run.checks.mode is ChecksMode.off:
        return
    with contextlib.suppress(Exception), place.context():  # the check says what is wrong
        x, key = place.put_x(inputs.make_input(run.input, run.input_shape)), place.put(bridge.root_key(run.seed))
        variables = draft.given if draft.given is not None else draft.model.init(key, draft.needs.streams, x)
        draft.model.apply(variables, bridge.apply_keys(key, draft.rngs), draft.mutable, x)


def contended(result: Result) -> Result:
    """`result`, its times flagged: another process of ours worked beside them."""
    timing = result.record.timing
    if timing is None:
        return result
    steady: dict[str, Any] = {
        item.name: _flagged(value)
        for item in dataclasses.fields(timing)
        if isinstance(value := getattr(timing, item.name), Measurement)
    }
    timing = dataclasses.replace(timing, contended=True, **steady)
    return dataclasses.replace(result, record=dataclasses.replace(result.record, timing=timing))


def _flagged(one: Measurement) -> Measurement:
    flags = [*one.summary.flags, "contended"]
    return dataclasses.replace(one, summary=dataclasses.replace(one.summary, flags=flags))


def head(job: Job) -> Head:
    """What the record of `job` will say of where it belongs."""
    return Head(
        run_id=job.identity.run_id,
        num=job.num,
        overrides=list(job.overrides),
        settings=to_data(job.run),
        layer=job.run.layer.label,
        host=job.run.host.label,
        platform=job.identity.device.platform,
    )


def attempt(job: Job, draft: Draft) -> Result:
    """The result of a run by itself, from its traced program on; a failure to compile is one too."""
    try:
        program = prepare(draft, job.run)
    except (CheckFailed, NotCompiled) as error:
        return failed(job, error)
    return execute(job, program)


def failed(job: Job, error: Exception) -> Result:
    """The result of a run that could not be compiled, or whose program a strict claim refused."""
    cause = error.__cause__ if isinstance(error, NotCompiled) and error.__cause__ else error
    story = _Story(failure=describe_failure(cause, kind=FailureKind.compile))
    story.checks = error.asked if isinstance(error, (CheckFailed, NotCompiled)) else []
    record = _record(job, None, story, started_at=now(), wall_s=0.0, compiled_here=True)
    return Result(record=record, variables=None, output={})


def describe_failure(error: BaseException, *, kind: FailureKind | None = None) -> Failure:
    """`error` with its kind (found out where None) and traceback."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    if len(lines) > MAX_TRACEBACK_LINES:
        lines = [*lines[:10], "…", *lines[-(MAX_TRACEBACK_LINES - 11) :]]
    message = " ".join(_last_words(error).split())
    return Failure(
        kind=_certain_kind(error) or kind or FailureKind.other,
        type=type(error).__name__,
        message=message[:2000],
        traceback="\n".join(lines),
    )


def _end_if_meant(error: Exception) -> None:
    """Ends the process where a signal's handler meant to: raised while a callback ran on the host, it is XLA's error.

    Raises:
      SystemExit: So does submitit's handler when Slurm preempts a job.
      KeyboardInterrupt: A second Ctrl-C.
    """
    word, _, text = _last_words(error).partition(":")
    if word == "SystemExit":
        raise SystemExit(text.strip()) from error
    if word == "KeyboardInterrupt":
        raise KeyboardInterrupt from error


def _last_words(error: BaseException) -> str:
    """The error's message; of one that holds a traceback (a callback on the host raised), its last line."""
    text = str(error).strip()
    return text.splitlines()[-1] if "Traceback (most recent call last)" in text else text


def now() -> str:
    """The time, as records spell it: ISO 8601, UTC, milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _tell(
    story: _Story,
    job: Job,
    program: Program,
    *,
    clock: timing.Clock,
    watch: Watch | None,
    beside: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    """Init, train, apply, check, time. The order matters: an output is checked before its time is taken."""
    run, place = job.run, program.draft.placement
    x = place.put_x(inputs.make_input(run.input, run.input_shape))
    key = jax.block_until_ready(place.put(bridge.root_key(run.seed)))

    story.variables, story.init_first_s = timing.first_call(lambda: program.init(key, x), clock=clock)
    if program.draft.given is not None:
        story.variables = place.put_variables(program.draft.given)
    story.initial = story.variables
    if program.training is not None:
        trained = _trained(
            job,
            program,
            program.training,
            story.initial,
            arguments=(key, x),
            clock=clock,
            watch=watch,
            steps=story.steps,
        )
        story.variables, story.train_state, story.train = trained.variables, trained.state, trained.info
    (output, story.updated), story.apply_first_s = timing.first_call(
        lambda: program.apply(story.variables, key, x), clock=clock
    )
    story.output = trees.named_arrays(output)
    story.summaries = [trees.summarize_array(path, array) for path, array in story.output.items()]
    story.checks.extend(program.checks)
    if run.checks.mode is not ChecksMode.off:
        with beside():
            for check in _checks(job, program, story, output, (key, x)):
                story.checks.append(check)
                if run.checks.mode is ChecksMode.strict:
                    _refuse(check, story.checks, run)

    on_gpu = devices.platform_name(place.device) == "gpu"
    story.load_average, story.cards = environment.load_average(), environment.cards() if on_gpu else []
    story.steady = timing.measure_program(
        lambda: program.init(key, x),
        lambda: program.apply(story.variables, key, x),
        run.timing,
        num_cores=_num_cores(),
        load_average=story.load_average,
        shared=any(card.num_other_processes for card in story.cards),
        clock=clock,
    )
    if on_gpu and story.steady and place.mesh is None:
        samples = timing.measure_on_device(program.apply, (story.variables, key, x), rounds=run.timing.rounds)
        if samples is not None:
            story.steady["apply_device"] = Measurement(samples=samples, summary=stats.summarize(samples))


def _trained(
    job: Job,
    program: Program,
    compiled: CompiledTraining,
    initial: Any,
    *,
    arguments: tuple[jax.Array, jax.Array],
    clock: timing.Clock,
    watch: Watch | None = None,
    steps: Steps | None = None,
) -> Trained:
    run, place, (key, x) = job.run, program.draft.placement, arguments
    teacher = program.init(place.put(bridge.teacher_key(run.train.teacher_seed)), x)
    teacher = training.make_teacher(compiled.training, teacher, run.train.teacher_seed)
    return training.train(
        compiled,
        initial,
        saved=program.draft.train_state,
        teacher=teacher,
        key=key,
        batch=lambda step: place.put_x(inputs.make_batch(run.input, run.input_shape, step)),
        num_steps=run.train.steps,
        clock=clock,
        watch=watch,
        steps=steps,
    )


def _checks(job: Job, program: Program, story: _Story, output: Any, arguments: tuple[Any, Any]) -> Any:
    """The checks of a run, one after the other, so that the first no of a strict one ends it."""
    key, x = arguments
    yield checks.as_traced(output, program.draft.needs.output)
    yield checks.finite(story.summaries)
    again, _ = program.apply(story.variables, key, x)
    yield checks.repeatable(story.output, trees.named_arrays(again))
    on_mesh = program.draft.placement.mesh is not None
    if not job.compare_eager:
        where = "not compared" if job.compared_on is None else f"compared on run {job.compared_on} of this sweep"
        name = "one_device" if on_mesh else "eager"
        yield checks.skipped(name, f"{where}: checks.eager=program compares every program")
    elif on_mesh:
        yield _compare_one_device(job, program, story)
    else:
        yield _compare_eager(program, story, key, x)
    if program.training is not None and job.run.checks.depth is ChecksDepth.full:
        yield _compare_twin(job, program, story, arguments)


def _compare_twin(job: Job, program: Program, story: _Story, arguments: tuple[jax.Array, jax.Array]) -> Check:
    """The same pipeline with the Linen twin in the layer's place, from the same weights: the same loss curve?"""
    draft, name = program.draft, "twin_curve"
    twin = twins.twin_of(draft.layer.model.nnx_class, draft.layer.model.kwargs, draft.layer.call)
    if twin.layer is None or story.train is None or draft.training is None:
        return checks.skipped(name, twin.why or "nothing was trained")
    hosted = job.run.host.target is not None
    model = hosts.with_linen(draft.model, twin.layer.model) if hosted else twin.layer
    training_of_twin = dataclasses.replace(draft.training, model=model)
    compiled = compile_training(draft, training_of_twin)
    trained = _trained(job, program, compiled, story.initial, arguments=arguments, clock=time.perf_counter_ns)
    mine, other = np.array(story.train.losses), np.array(trained.info.losses)
    if (mine == other).all():
        return checks.yes(
            name, f"the pipeline with {twin.name} ends on the same loss curve bit for bit ({mine[-1]:.6g})"
        )
    step = int(np.argmax(mine != other))
    detail = (
        f"the loss of the pipeline with {twin.name} differs from step {step} on: {other[-1]:.9g}, not {mine[-1]:.9g}"
    )
    return checks.caution(name, detail, losses=other.tolist())


def _compare_eager(program: Program, story: _Story, key: jax.Array, x: jax.Array) -> Check:
    draft = program.draft
    variables = draft.model.init(key, draft.needs.streams, x) if draft.given is None else story.initial
    output, _ = draft.model.apply(story.variables, bridge.apply_keys(key, draft.rngs), draft.mutable, x)
    both = trees.named_arrays(trees.unbox(story.initial)), trees.named_arrays(trees.unbox(variables))
    return checks.eager(both, (story.output, trees.named_arrays(output)))


def _compare_one_device(job: Job, program: Program, story: _Story) -> Check:
    """The same program on one device of the mesh: the same bits?"""
    run, draft, name = job.run, program.draft, "one_device"
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(story.variables))
    if num_bytes > MAX_ALONE_BYTES and run.checks.eager is not EagerCheck.program:
        why = f"{num_bytes} bytes of variables may be more than one device holds: checks.eager=program compares them"
        return checks.skipped(name, why)
    place, given = draft.placement.alone(), jax.tree.map(shards.whole, story.variables)
    with place.context():
        alone = compile_program(dataclasses.replace(draft, placement=place, training=None))
        key, x = place.put(bridge.root_key(run.seed)), place.put_x(inputs.make_input(run.input, run.input_shape))
        variables = alone.init(key, x) if draft.given is None else place.put(draft.given)
        output, _ = alone.apply(place.put(given), key, x)
    both = trees.unbox(story.initial), trees.unbox(variables)
    found = {
        "init": rounding.difference(*map(trees.named_arrays, both)),
        "apply": rounding.difference(story.output, trees.named_arrays(output)),
    }
    if not any(found.values()):
        return checks.yes(name, "init and apply give the bits of one device")
    verdict = checks.no if any(map(rounding.is_wrong, found.values())) else checks.caution
    parts = [f"{part} {rounding.as_words(text)}" for part, text in found.items()]
    return verdict(name, f"against one device {'; '.join(parts)}", **found)


def _record(
    job: Job, program: Program | None, story: _Story, *, started_at: str, wall_s: float, compiled_here: bool
) -> Record:
    run, names = job.run, job.identity
    fingerprint = environment.fingerprint()
    needs = program.draft.needs if program else None
    mesh = program.draft.placement.info() if program else None
    return Record(
        run_id=names.run_id,
        result_id=names.result_id,
        timing_id=timing_id(names.run_id, fingerprint["machine_id"], fingerprint["software_id"]),
        program_id=names.program_id,
        sweep=job.sweep,
        num=job.num,
        status=Status.failed if story.failure else Status.done,
        started_at=started_at,
        wall_s=wall_s,
        overrides=list(job.overrides),
        settings=to_data(run),
        layer=run.layer.label,
        host=run.host.label,
        device=devices.device_name(names.device) if mesh is None else devices.platform_name(names.device),
        platform=names.device.platform,
        mesh=mesh,
        streams=list(needs.streams) if needs else [],
        mutable=list(program.draft.mutable) if program else [],
        variables=trees.leaves(story.variables) if story.variables is not None else [],
        updated=trees.leaves(story.updated) if story.updated else [],
        output=story.summaries,
        checks=story.checks,
        timing=_timing(program, story, compiled_here=compiled_here) if program else None,
        train=story.train,
        fingerprint=fingerprint,
        error=story.failure,
    )


def _timing(program: Program, story: _Story, *, compiled_here: bool) -> Timing:
    steady: dict[str, Any] = dict(story.steady)
    return Timing(
        construct_s=program.draft.construct_s,
        init=_with_first_call(program.init_phases, story.init_first_s),
        apply=_with_first_call(program.apply_phases, story.apply_first_s),
        compiled_here=compiled_here,
        load_average=story.load_average,
        cards=story.cards,
        **steady,
    )


def _with_first_call(phases: Any, first_call_s: float | None) -> Any:

    return dataclasses.replace(phases, first_call_s=first_call_s)


def _certain_kind(error: BaseException) -> FailureKind | None:
    if isinstance(error, CheckFailed):
        return FailureKind.non_finite if error.check.name == "finite" else FailureKind.check
    if isinstance(error, WorkerDied):
        return FailureKind.died
    if isinstance(error, CheckpointError):
        return FailureKind.checkpoint
    if isinstance(error, UserError):
        return FailureKind.config
    if isinstance(error, KeyboardInterrupt):
        return FailureKind.interrupted
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return FailureKind.out_of_memory
    return None
