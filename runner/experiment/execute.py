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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from runner.arrays import devices, trees
from runner.bridge import wrap
from runner.checks import registry, verdicts
from runner.checks.probes.subject import Subject
from runner.config.enums import ChecksDepth, ChecksMode
from runner.config.serialize import to_data
from runner.config.settings import Run
from runner.errors import StorageError
from runner.experiment import cross_checks, inputs, training
from runner.experiment.cross_checks import Made
from runner.experiment.failures import CheckFailed, NotCompiled, describe_failure, end_if_meant
from runner.experiment.program import Draft, Identity, Program, compile_program, timing_id
from runner.experiment.training import CompiledTraining, Steps, Stopped, Trained, Watch
from runner.records.record import ArraySummary, Check, Failure, FailureKind, Head, Record, Status, TrainInfo, Verdict
from runner.records.timing import Card, Measurement, Timing
from runner.timing import machine, stats
from runner.timing.clock import Clock, first_call, measure_on_device, measure_program, seconds

# Asked of the system once a process: it reads files, and a run takes milliseconds.
_num_cores = functools.cache(machine.cores_to_share)


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
        asked = registry.judge(subject(draft, run, alone), full=run.checks.depth is ChecksDepth.full)
    if run.checks.mode is ChecksMode.strict:
        for check in asked:
            _refuse(check, asked, run)
    return asked


def _refuse(check: Check, asked: Sequence[Check], run: Run) -> None:
    strict = verdicts.STRICT | ({"trained"} if run.train.steps else set())
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
        key=place.put(wrap.root_key(0)),
        compiled_init=program.init if program else None,
        compiled_apply=program.apply if program else None,
        again=lambda: wrap.wrap(run.layer),
    )


def execute(
    job: Job,
    program: Program,
    *,
    compiled_here: bool = True,
    clock: Clock = time.perf_counter_ns,
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
            end_if_meant(error)
            story.failure = describe_failure(error)

    _, wall_s = seconds(tell, clock=clock)
    record = _record(job, program, story, started_at=started_at, wall_s=wall_s, compiled_here=compiled_here)
    variables = trees.to_save(story.variables)
    return Result(record=record, variables=variables, output=story.output, train_state=story.train_state)


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


def now() -> str:
    """The time, as records spell it: ISO 8601, UTC, milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _tell(
    story: _Story,
    job: Job,
    program: Program,
    *,
    clock: Clock,
    watch: Watch | None,
    beside: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    """Init, train, apply, check, time. The order matters: an output is checked before its time is taken."""
    run, place = job.run, program.draft.placement
    x = place.put_x(inputs.make_input(run.input, run.input_shape))
    key = jax.block_until_ready(place.put(wrap.root_key(run.seed)))

    story.variables, story.init_first_s = first_call(lambda: program.init(key, x), clock=clock)
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
    (output, story.updated), story.apply_first_s = first_call(
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
    story.load_average, story.cards = machine.load_average(), machine.cards() if on_gpu else []
    story.steady = measure_program(
        lambda: program.init(key, x),
        lambda: program.apply(story.variables, key, x),
        run.timing,
        num_cores=_num_cores(),
        load_average=story.load_average,
        shared=any(card.num_other_processes for card in story.cards),
        clock=clock,
    )
    if on_gpu and story.steady and place.mesh is None:
        samples = measure_on_device(program.apply, (story.variables, key, x), rounds=run.timing.rounds)
        if samples is not None:
            story.steady["apply_device"] = Measurement(samples=samples, summary=stats.summarize(samples))


def _trained(
    job: Job,
    program: Program,
    compiled: CompiledTraining,
    initial: Any,
    *,
    arguments: tuple[jax.Array, jax.Array],
    clock: Clock,
    watch: Watch | None = None,
    steps: Steps | None = None,
) -> Trained:
    run, place, (key, x) = job.run, program.draft.placement, arguments
    teacher = program.init(place.put(wrap.teacher_key(run.train.teacher_seed)), x)
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
    yield verdicts.as_traced(output, program.draft.needs.output)
    yield verdicts.finite(story.summaries)
    again, _ = program.apply(story.variables, key, x)
    yield verdicts.repeatable(story.output, trees.named_arrays(again))
    made = Made(initial=story.initial, variables=story.variables, output=story.output)
    on_mesh = program.draft.placement.mesh is not None
    if not job.compare_eager:
        where = "not compared" if job.compared_on is None else f"compared on run {job.compared_on} of this sweep"
        name = "one_device" if on_mesh else "eager"
        yield verdicts.skipped(name, f"{where}: checks.eager=program compares every program")
    elif on_mesh:
        yield cross_checks.one_device(job.run, program.draft, made)
    else:
        yield cross_checks.eager(program.draft, made, key, x)
    if program.training is not None and job.run.checks.depth is ChecksDepth.full:
        losses = story.train.losses if story.train else None
        yield cross_checks.twin_curve(
            job.run,
            program.draft,
            losses,
            train=lambda twin: (
                _trained(job, program, twin, story.initial, arguments=arguments, clock=time.perf_counter_ns).info.losses
            ),
        )


def _record(
    job: Job, program: Program | None, story: _Story, *, started_at: str, wall_s: float, compiled_here: bool
) -> Record:
    run, names = job.run, job.identity
    fingerprint = machine.fingerprint()
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
