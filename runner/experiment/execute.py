"""One run, start to end. Read this file first.

A `Run` (settings) becomes a wrapped layer, variables (optionally trained for some steps), an output, checks, samples
and a `Record`. Nothing here touches files or the network: writing is up to the caller.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from runner.arrays import devices, trees, untimed
from runner.bridge import hosts, rngs
from runner.bridge.needs import settings_kept
from runner.bridge.wrap import Bridged
from runner.checks import registry
from runner.checks.probes.subject import Subject
from runner.checks.results import verdicts
from runner.config.enums import ChecksDepth, ChecksMode
from runner.config.settings.run import Run
from runner.errors import StorageError, end_if_meant, no_exit
from runner.experiment import cross_checks, inputs, isolation, memory, trained_run
from runner.experiment.cross_checks import Made
from runner.experiment.draft import Draft
from runner.experiment.failures import CheckFailed, NotCompiled, describe_failure
from runner.experiment.job import Job, Result, Story
from runner.experiment.program import Program, compile_program
from runner.experiment.run_record import now, record_of
from runner.experiment.sized import wrapped
from runner.experiment.train.curve import Steps, Stopped, Watch
from runner.experiment.train.training import Trained
from runner.records.record import Check, FailureKind, Verdict
from runner.records.timing import Measurement
from runner.timing import machine, stats
from runner.timing.clock import Clock, first_call, measure_on_device, measure_program, seconds

# Queried once per process: it reads files, and a run takes milliseconds.
_num_cores = functools.cache(machine.cores_to_share)


def prepare(draft: Draft, run: Run, *, contended: bool = False, each: Callable[[Check], None] | None = None) -> Program:
    """Compiles the program of `run` and runs its checks; may be called from any thread.

    Args:
      draft: The traced program.
      run: A run of it: its check and input settings count, not its seed.
      contended: Whether other work of this program runs concurrently.
      each: Gets every result of a check as soon as it is known.

    Raises:
      CheckFailed: A strict check failed, or any could not be made.
      NotCompiled: The layer's own code raises when it is compiled, or it can't fit into memory.
    """
    try:
        memory.require_room(draft)
    except memory.TooLarge as error:
        raise NotCompiled([]) from error
    # With the variables, or the streams for init, that are given, nothing may compile: the checks explain it better.
    # And what sets JAX's settings must be refused before other programs are compiled with these.
    early = draft.given is not None or draft.init_rngs is not None or draft.needs.settings
    with settings_kept():
        before = run_checks(draft, run, each=each) if early else []
    drafted = _at_rate(draft, run)
    # Nothing is timed yet, but how long it takes to compile, and that is flagged in a sweep.
    with ThreadPoolExecutor(1) as beside:
        population = beside.submit(isolation.compiled, drafted)
        try:
            with no_exit():
                program = compile_program(drafted, contended=contended)
            several, together = population.result()
            program = dataclasses.replace(program, population=several, together=together)
            memory.require_room_to_run(program)
        except Exception as error:
            raise NotCompiled(before) from error
        proved = beside.submit(isolation.proved, program, run)
        asked = before or run_checks(draft, run, program, each=each)
        program = proved.result()
    asked = [*asked, *isolation.check(program, run)]
    return dataclasses.replace(program, checks=tuple(asked), init_traced=None, apply_traced=None)


def _at_rate(draft: Draft, run: Run) -> Draft:
    """`draft` with the learning rate of `run`: runs that train as one share it otherwise."""
    if not draft.together or draft.training is None:
        return draft
    return dataclasses.replace(draft, training=draft.training.at_rate(run.train.learning_rate))


def run_checks(
    draft: Draft, run: Run, program: Program | None = None, *, each: Callable[[Check], None] | None = None
) -> list[Check]:
    """Runs the checks of `draft` that the settings of `run` select; none if they are off.

    Args:
      draft: The traced program.
      run: A run of it.
      program: The same program compiled, if it is.
      each: Gets every result as soon as it is known.

    Raises:
      CheckFailed: A strict check failed.
    """
    if run.checks.mode is ChecksMode.off:
        return []
    # On a mesh they use one device: several are covered by the check `sharding`, and by a check of each run.
    with draft.placement.alone().context(), untimed.section():
        alone = program if draft.placement.mesh is None else None
        full = run.checks.depth is ChecksDepth.full
        asked = registry.run_checks(subject(draft, run, alone), full=full, each=each)
    if run.checks.mode is ChecksMode.strict:
        for check in sorted(asked, key=lambda check: check.untested):  # a fail says more than what kept from testing
            _refuse(check, asked, run)
    return asked


def _refuse(check: Check, asked: Sequence[Check], run: Run) -> None:
    strict = verdicts.STRICT | ({"trained"} if run.train.steps or run.pipeline.name else set())
    if (check.verdict is Verdict.fail and check.name in strict) or check.untested:
        raise CheckFailed(check, asked)


def subject(draft: Draft, run: Run, program: Program | None = None) -> Subject:
    """The subject of a program's checks: seed 0, so that the verdicts hold for all its runs."""
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
        init_rngs=draft.init_rngs,
        pipeline=run.pipeline if run.pipeline.name else None,
        trained=run.train.trained(draft.variables),
        trains=run.train.steps > 0,
        key=place.put(rngs.root_key(0)),
        compiled_init=program.init if program else None,
        compiled_apply=program.apply if program else None,
        traced_init=program.init_traced if program else None,
        traced_apply=program.apply_traced if program else None,
        first_traces=draft.first_traces,
        again=lambda: wrapped(run),
        rules=draft.rules,
        reseeded=functools.partial(_reseeded, run) if run.layer.seeded_by else None,
    )


def _reseeded(run: Run) -> Bridged:
    """The module to run with another seed in the arguments that follow the seed."""
    kwargs = run.layer.kwargs | {name: run.layer.kwargs[name] + 1 for name in run.layer.seeded_by}
    other = dataclasses.replace(run, layer=dataclasses.replace(run.layer, kwargs=kwargs))
    return hosts.put_around(wrapped(other), run.host)


def execute(
    job: Job,
    program: Program,
    *,
    compiled_here: bool = True,
    clock: Clock = time.perf_counter_ns,
    watch: Watch | None = None,
    steps: Steps | None = None,
    trained: Callable[[], Trained] | None = None,
    during_checks: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Result:
    """Executes one run and returns its record, variables and output.

    Whatever the layer raises ends this run only: its record then has status `failed` and the traceback.

    Args:
      job: The run with its place in the sweep.
      program: Its compiled program.
      compiled_here: Whether the program was compiled for this run.
      clock: Nanoseconds from any fixed origin.
      watch: Receives the losses while the run trains, outside the timed sections; see `training.train`.
      steps: Where training steps are saved.
      trained: Returns what training the run with others gave; None trains it here.
      during_checks: Entered while the checks run, which may take seconds and are not timed.

    Raises:
      Stopped: Training was asked to end.
      StorageError: A training step can't be written.
    """
    started_at = now()
    story = Story(steps=steps)

    def tell() -> None:
        try:
            with program.draft.placement.context(), no_exit():
                _tell(story, job, program, clock=clock, watch=watch, trained=trained, during_checks=during_checks)
        except (Stopped, StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - the layer's own code may raise anything
            end_if_meant(error)
            story.failure = describe_failure(error)

    _, wall_s = seconds(tell, clock=clock)
    own_s = wall_s - story.of_others_s
    record = record_of(job, program, story, started_at=started_at, wall_s=own_s, compiled_here=compiled_here)
    variables = trees.to_save(story.variables)
    return Result(record=record, variables=variables, output=story.output, train_state=story.train_state)


def attempt(job: Job, draft: Draft, *, each: Callable[[Check], None] | None = None) -> Result:
    """Compiles and executes a single run from its traced program; a failure to compile is also a result.

    Args:
      job: The run.
      draft: Its traced program.
      each: Gets every result of the program's checks as soon as it is known.
    """
    try:
        program = prepare(draft, job.run, each=each)
    except (CheckFailed, NotCompiled) as error:
        return failed(job, error)
    return execute(job, program)


def failed(job: Job, error: Exception) -> Result:
    """The result of a run that did not compile, or whose program failed a strict check."""
    cause = error.__cause__ if isinstance(error, NotCompiled) and error.__cause__ else error
    story = Story(failure=describe_failure(cause, kind=FailureKind.compile))
    story.checks = error.asked if isinstance(error, (CheckFailed, NotCompiled)) else []
    record = record_of(job, None, story, started_at=now(), wall_s=0.0, compiled_here=True)
    return Result(record=record, variables=None, output={})


def _tell(
    story: Story,
    job: Job,
    program: Program,
    *,
    clock: Clock,
    watch: Watch | None,
    trained: Callable[[], Trained] | None,
    during_checks: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    """Init, train, apply, check, time. The order matters: an output is checked before it is timed."""
    run, place = job.run, program.draft.placement
    with untimed.section():
        x = place.put_x(inputs.make_input(run.input, run.input_shape))
        key = jax.block_until_ready(place.put(rngs.root_key(run.seed)))

    story.variables, story.init_first_s = first_call(lambda: program.init(key, x), clock=clock)
    if program.draft.given is not None:
        story.variables = place.put_variables(program.draft.given)
    story.initial = story.variables
    if program.training is not None:
        if trained is None:
            seen = trained_run.Seen(watch=watch, steps=story.steps)
            found = trained_run.train(run, program, story.initial, (key, x), clock=clock, seen=seen)
        else:
            found, took_s = seconds(trained, clock=clock)
            story.of_others_s = took_s - found.share_s if found.share_s is not None else 0.0
        story.variables, story.train_state, story.train = found.variables, found.state, found.info
        if program.together is not None and found.info.together is None:
            together = dataclasses.replace(program.together, runs=[job.num])
            story.train = dataclasses.replace(found.info, together=together)
        if run.train.eval_batches:
            loss = trained_run.loss_eval(run, program, story.variables, (key, x))
            story.train = dataclasses.replace(story.train, loss_eval=loss)
    (output, story.updated), story.apply_first_s = first_call(
        lambda: program.apply(story.variables, key, x), clock=clock
    )
    story.output = trees.named_arrays(output)
    story.summaries = [trees.summarize_array(path, array) for path, array in story.output.items()]
    story.checks.extend(program.checks)
    if run.checks.mode is not ChecksMode.off:
        with during_checks(), untimed.section():
            for check in _checks(job, program, story, output, (key, x)):
                story.checks.append(check)
                if run.checks.mode is ChecksMode.strict:
                    _refuse(check, story.checks, run)

    on_gpu = devices.platform_name(place.device) == "gpu"
    story.load_average, story.gpus = machine.load_average(), machine.gpus() if on_gpu else []
    story.steady = measure_program(
        lambda: program.init(key, x),
        lambda: program.apply(story.variables, key, x),
        run.timing,
        num_cores=_num_cores(),
        load_average=story.load_average,
        shared=any(gpu.num_other_processes for gpu in story.gpus),
        debugging=bool(machine.debug_settings()),
        init_first_s=story.init_first_s,
        apply_first_s=story.apply_first_s,
        clock=clock,
    )
    if on_gpu and story.steady and place.mesh is None:
        samples = measure_on_device(program.apply, (story.variables, key, x), rounds=run.timing.rounds)
        if samples is not None:
            story.steady["apply_device"] = Measurement(samples=samples, summary=stats.summarize(samples))


def _other_output(run: Run, program: Program, story: Story, arguments: tuple[Any, Any]) -> Any:
    """The output for another x; None where the run's input has no other."""
    key, x = arguments
    other = program.draft.placement.put_x(inputs.make_batch(run.input, run.input_shape, 1))
    if bool((other == x).all()):
        return None
    output, _ = program.apply(story.variables, key, other)
    return output


def _checks(job: Job, program: Program, story: Story, output: Any, arguments: tuple[Any, Any]) -> Any:
    """Yields the checks of a run one by one, so that the first failure of a strict one ends it."""
    key, x = arguments
    yield verdicts.as_traced(output, program.draft.needs.output)
    yield cross_checks.finite(story.summaries, story.output, lambda: _other_output(job.run, program, story, arguments))
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
            train=lambda twin: trained_run.train_like(job.run, program, twin, story.initial, arguments),
        )
