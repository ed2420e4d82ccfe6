"""Builds the record of a run from its progress."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from runner.arrays import devices, trees
from runner.bridge import user_source, wrap, wrapper
from runner.config.serialize import to_data
from runner.experiment.identity import timing_id
from runner.experiment.job import Job, Result, Story
from runner.experiment.program import Program
from runner.experiment.sized import added, sized
from runner.records.record import Head, Record, Status
from runner.records.timing import Measurement, Timing
from runner.timing import machine


def contended(result: Result) -> Result:
    """`result` with its times flagged: another process of ours was working at the same time."""
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
    """The head of the record of `job`: where it belongs."""
    return Head(
        run_id=job.identity.run_id,
        num=job.num,
        overrides=list(job.overrides),
        settings=to_data(sized(job.run)),
        layer=job.run.layer.label,
        host=job.run.host.label,
        platform=job.identity.device.platform,
    )


def now() -> str:
    """The current time in the format of records: ISO 8601, UTC, milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def record_of(
    job: Job, program: Program | None, story: Story, *, started_at: str, wall_s: float, compiled_here: bool
) -> Record:
    """The record of a run, as far as its `story` got."""
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
        settings=to_data(sized(run)),
        filled=[f"layer.kwargs.{key}" for key in added(run)],
        takes_rngs=wrap.takes_rngs(program.draft.layer.model) if program else "rngs={rngs}",
        nnx_class=wrapper.class_code(run.layer),
        sources=user_source.digests(run),
        linen=wrapper.code(sized(run).layer),
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
        timing=timing_of(program, story, compiled_here=compiled_here) if program else None,
        train=story.train,
        fingerprint=fingerprint,
        error=story.failure,
    )


def timing_of(program: Program, story: Story, *, compiled_here: bool) -> Timing:
    """The phases and samples of a run, with whatever may have disturbed them."""
    steady: dict[str, Any] = dict(story.steady)
    return Timing(
        construct_s=program.draft.construct_s,
        init=_with_first_call(program.init_phases, story.init_first_s),
        apply=_with_first_call(program.apply_phases, story.apply_first_s),
        compiled_here=compiled_here,
        load_average=story.load_average,
        gpus=story.gpus,
        **steady,
    )


def _with_first_call(phases: Any, first_call_s: float | None) -> Any:

    return dataclasses.replace(phases, first_call_s=first_call_s)
