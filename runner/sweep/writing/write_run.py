"""Writes a run into its folder, the record last, so that a partial run is never taken for a complete one."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from runner.arrays import checkpoint, trees
from runner.arrays.fast_checkpoint import CloneWriter
from runner.config.enums import CheckpointWriter, InputKind
from runner.errors import StorageError
from runner.experiment import failures
from runner.experiment.job import Result
from runner.records import store
from runner.records.disk import files, plain_files
from runner.records.record import CheckpointInfo, FailureKind, Leaf, Record, Status
from runner.records.redaction import redacted
from runner.sweep.plan import Task
from runner.sweep.run_state import ARCHIVED, State
from runner.timing import clock

MAKE_ROOM = "make room or choose another output_root; the same command goes on from here"


def make_room(task: Task) -> None:
    """Makes a run's folder, empty except for training steps that an earlier attempt may have saved."""
    folder = task.folder
    if task.state in ARCHIVED and folder.record.exists():
        files.archive_run(folder)
    elif task.state is State.interrupted or not folder.record.exists():
        files.remove_unfinished(folder, but_steps=task.job.run.train.keeps_steps)
    if not folder.steps.is_dir():
        files.make_run_folder(folder)


def commit(task: Task, result: Result, clones: CloneWriter) -> Record:
    """Writes one run, the record last.

    Args:
      task: The run.
      result: Its result.
      clones: Writes checkpoints by template, if `checkpoint=fast`.

    Returns:
      The record as written: failed if the checkpoint could not be saved.

    Raises:
      StorageError: The disk is full or not writable; nothing of the run remains.
    """
    folder, run = task.folder, task.job.run
    record = redacted(result.record, task.config.redaction)
    try:
        make_room(task)
        for name, text in task.config.hydra_files(task.job.num).items():
            folder.hydra.mkdir(exist_ok=True)
            with plain_files.create(folder.hydra / name) as file:
                file.write(task.config.redaction.text(text).encode())
        if result.output:
            store.write_output(folder, result.output)
        if run.input.kind is InputKind.file:
            with open(str(run.input.path), "rb") as source, plain_files.create(folder.input) as file:
                shutil.copyfileobj(source, file)
        if record.status is Status.done and run.checkpoint.writes and record.variables:
            record = _save(task, record, result, clones)
        if not run.checkpoint.writes:
            shutil.rmtree(folder.steps, ignore_errors=True)
        record = dataclasses.replace(record, files=files.file_digests(folder))
        store.write_record(folder, record)
    except OSError as error:
        # A partial run would only take up space.
        with contextlib.suppress(OSError):
            files.remove_unfinished(folder, but_steps=True)
        what = f"writing run {record.num} to {folder.path}: {error.strerror or error}"
        raise StorageError(what, MAKE_ROOM) from error
    return record


def _save(task: Task, record: Record, result: Result, clones: CloneWriter) -> Record:
    folder, kind = task.folder, task.job.run.checkpoint.writer
    if record.mesh is not None:
        kind = CheckpointWriter.orbax  # arrays on a mesh are not cloned
    writer = clones if kind is CheckpointWriter.fast else None
    try:
        _, save_s = clock.seconds(lambda: checkpoint.save(result.variables, folder.checkpoint, writer))
        if result.train_state is not None:
            checkpoint.save(result.train_state, folder.train_state, writer)
    except checkpoint.CheckpointError as error:
        if checkpoint.is_disk_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        failure = failures.describe_failure(error, kind=FailureKind.checkpoint)
        return dataclasses.replace(record, status=Status.failed, error=failure)
    train = record.train
    if train is not None:
        train = dataclasses.replace(train, state=_info(folder.train_state, trees.leaves(result.train_state), kind))
    assert record.timing is not None
    return dataclasses.replace(
        record,
        checkpoint=_info(folder.checkpoint, record.variables, kind),
        train=train,
        timing=dataclasses.replace(record.timing, checkpoint_s=save_s),
    )


def _info(path: Path, leaves: Sequence[Leaf], kind: CheckpointWriter) -> CheckpointInfo:
    return CheckpointInfo(
        path=path.name,
        digest=trees.tree_digest(leaves),
        num_bytes=files.checkpoint_bytes(path),
        writer=kind.value,
    )
