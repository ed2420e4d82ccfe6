"""Writes a run into its folder, the record last, so that a partial run is never taken for a complete one."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runner.arrays import checkpoint, trees
from runner.config.enums import CheckpointWriter
from runner.config.env_secrets import Redaction
from runner.config.settings.train import CheckpointSettings
from runner.errors import StorageError
from runner.experiment import failures
from runner.records import kept_sources, store
from runner.records.disk import files, flush, plain_files
from runner.records.paths import RunFolder
from runner.records.record import CheckpointInfo, FailureKind, Leaf, Record, Status
from runner.records.redaction import redacted
from runner.sweep.run_state import ARCHIVED, State
from runner.timing import clock

MAKE_ROOM = "make room or choose another output_root; the same command goes on from here"


# A larger result is written by the process that has it.
MAX_SENT_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What is written for a run, and where; it can be sent to another process.

    Attributes:
      folder: The run's folder.
      state: The state of the run before the sweep starts: what may be in the folder.
      keeps_steps: Whether training steps of an earlier attempt may be there, and are kept.
      record: The record, not yet with checkpoint and tracker.
      output: Arrays of the output by path.
      variables: The Linen variables; None if init failed.
      train_state: The step and the optimiser state; None if nothing was trained.
      checkpoint: Whether and how a checkpoint is written.
      hydra_files: Name and text of the files that Hydra writes for a job.
      input_path: The file that the input came from; None if it was made.
      sources: The user's own modules that the run comes from, by name, as far as the sweep has yet to keep them.
      redaction: Values to redact.
    """

    folder: RunFolder
    state: State
    keeps_steps: bool
    record: Record
    output: Mapping[str, np.ndarray]
    variables: Any
    train_state: Any
    checkpoint: CheckpointSettings
    hydra_files: Mapping[str, str]
    input_path: str | None
    sources: Mapping[str, str]
    redaction: Redaction

    def can_be_sent(self) -> bool:
        """Whether another process may write it: plain arrays, and not too many bytes."""
        arrays = [*self.output.values()]
        arrays += [leaf for tree in (self.variables, self.train_state) for _, leaf in trees.flatten(tree or {})]
        return all(type(leaf) is np.ndarray for leaf in arrays) and sum(leaf.nbytes for leaf in arrays) < MAX_SENT_BYTES


def make_room(folder: RunFolder, state: State, *, keeps_steps: bool) -> None:
    """Makes a run's folder, empty except for training steps that an earlier attempt may have saved."""
    if state in ARCHIVED and folder.record.exists():
        files.archive_run(folder)
    elif state is State.interrupted or not folder.record.exists():
        files.remove_unfinished(folder, but_steps=keeps_steps)
    if not folder.steps.is_dir():
        files.make_run_folder(folder)


def commit(writing: Writing) -> Record:
    """Writes one run, the record last.

    Args:
      writing: The run and its result.

    Returns:
      The record as written: failed if the checkpoint could not be saved.

    Raises:
      StorageError: The disk is full or not writable; nothing of the run remains.
    """
    folder = writing.folder
    record = redacted(writing.record, writing.redaction)
    try:
        make_room(folder, writing.state, keeps_steps=writing.keeps_steps)
        for name, text in writing.hydra_files.items():
            folder.hydra.mkdir(exist_ok=True)
            with plain_files.create(folder.hydra / name) as file:
                file.write(writing.redaction.text(text).encode())
        kept_sources.keep(folder, writing.sources, writing.redaction)
        if writing.output:
            store.write_output(folder, writing.output)
        if writing.input_path is not None:
            with open(writing.input_path, "rb") as source, plain_files.create(folder.input) as file:
                shutil.copyfileobj(source, file)
        if not writing.checkpoint.writes:
            shutil.rmtree(folder.steps, ignore_errors=True)
        if record.status is Status.done and writing.checkpoint.writes and record.variables:
            record = _save(writing, record)
        else:
            flush.flush_tree(folder.path)
        record = dataclasses.replace(record, files=files.file_digests(folder))
        store.write_record(folder, record)
    except OSError as error:
        # A partial run would only take up space.
        with contextlib.suppress(OSError):
            files.remove_unfinished(folder, but_steps=True)
        what = f"writing run {record.num} to {folder.path}: {error.strerror or error}"
        raise StorageError(what, MAKE_ROOM) from error
    return record


def written(writing: Writing) -> Record | None:
    """The record of a run that `commit` had written before its process died; None if it had not."""
    if not store.has_whole_record(writing.folder):
        return None
    record = store.read_record(writing.folder)
    # Not that of an earlier attempt, which is still to be moved aside.
    return record if record.started_at == writing.record.started_at else None


def _save(writing: Writing, record: Record) -> Record:
    """Saves the variables and what training left; flushes them and all that the run has written so far."""
    folder = writing.folder
    trees_of = {folder.checkpoint: writing.variables, folder.train_state: writing.train_state}

    def save() -> None:
        saved = [(checkpoint.save_unflushed(tree, path), path) for path, tree in trees_of.items() if tree is not None]
        flush.flush_tree(folder.path)
        for temporary, path in saved:
            temporary.rename(path)
        flush.flush(folder.path)

    try:
        _, save_s = clock.seconds(save)
    except checkpoint.CheckpointError as error:
        if checkpoint.is_disk_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        for path in trees_of:
            checkpoint.remove_temporary(path)
        flush.flush_tree(folder.path)
        failure = failures.describe_failure(error, kind=FailureKind.checkpoint)
        return dataclasses.replace(record, status=Status.failed, error=failure)
    train = record.train
    if train is not None:
        train = dataclasses.replace(train, state=_info(folder.train_state, trees.leaves(writing.train_state)))
    assert record.timing is not None
    return dataclasses.replace(
        record,
        checkpoint=_info(folder.checkpoint, record.variables),
        train=train,
        timing=dataclasses.replace(record.timing, checkpoint_s=save_s),
    )


def _info(path: Path, leaves: Sequence[Leaf]) -> CheckpointInfo:
    return CheckpointInfo(
        path=path.name,
        digest=trees.tree_digest(leaves),
        num_bytes=files.checkpoint_bytes(path),
        writer=CheckpointWriter.orbax.value,
    )
