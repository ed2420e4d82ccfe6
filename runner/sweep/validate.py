"""Validates configs and traces each program once, before the first run; all errors are reported together. Read-only."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from runner.arrays import checkpoint, trees
from runner.arrays.checkpoint import CheckpointError
from runner.config.settings.run import Run, family
from runner.errors import LayerError, UserError, one_or_many
from runner.experiment import inputs
from runner.experiment.draft import Draft
from runner.experiment.identity import Family, Identity, family_of
from runner.sweep.initial_variables import InitialVariables, draft_from, read_initial_variables
from runner.sweep.writing import retention

if TYPE_CHECKING:
    from runner.config.composing.composed import Config
    from runner.config.env_secrets import Redaction

# Key of a compiled program: its id, and the device that it is compiled for.
ProgramKey = tuple[str, str]


def validate(
    configs: Sequence[Config],
    errors_before: Sequence[tuple[str, UserError]] = (),
    *,
    remote_platform: str | None = None,
    known: Mapping[ProgramKey, Draft] | None = None,
) -> tuple[list[Identity], dict[ProgramKey, Draft]]:
    """Returns the identity of every config and the draft of every program; computes and writes nothing.

    Args:
      configs: The configs to run.
      errors_before: Reported together with the errors found here.
      remote_platform: See `make_plan`.
      known: Drafts that need not be traced again; they are included in the result.

    Raises:
      UserError: Configs that can't run, all errors together.
    """
    identities: list[Identity] = []
    drafts: dict[ProgramKey, Draft] = dict(known or {})
    errors = list(errors_before)
    refused: dict[ProgramKey, UserError] = {}
    unkeepable = functools.cache(lambda key: _unkeepable(drafts[key]))
    read = functools.cache(read_initial_variables)
    families: dict[Hashable, Family] = {}
    for config in configs:
        try:
            initial = read(config.run.variables)
            likes = family(config.run)
            if likes not in families:
                families[likes] = _family(config.run, initial, remote_platform)
            identity = families[likes].identity(config.run.seed)
        except UserError as error:
            errors.append((config.where, error))
            continue
        identities.append(identity)
        key = identity.program_id, config.run.device
        if key not in drafts and key not in refused:
            try:
                drafts[key] = draft_from(config.run, identity, initial)
            except UserError as error:
                refused[key] = error
        reason = refused.get(key) or (unkeepable(key) if config.run.checkpoint.writes else None)
        reason = reason or _telling(drafts[key], config.redaction)
        if reason is not None:
            errors.append((config.where, reason))
    if errors:
        raise one_or_many(errors, len(configs) + len(errors_before))
    return identities, drafts


def _unkeepable(draft: Draft) -> UserError | None:
    """Why the variables can't be saved; None if they can, or there are none."""
    variables = trees.unbox(draft.variables)
    try:
        if trees.flatten(variables):
            checkpoint.require_keepable(variables)
    except CheckpointError as error:
        return LayerError(f"the variables can't be saved: {error}", "checkpoint=none")
    return None


def _telling(draft: Draft, redaction: Redaction) -> UserError | None:
    """What is wrong if the path of a variable holds a value from the environment: files name variables by path."""
    for path, _ in trees.flatten(trees.unbox(draft.variables)) if redaction.values else ():
        if name := redaction.named_in("/".join(map(str, path))):
            where = redaction.text("/".join(map(str, path)))
            return LayerError(f"the variable {where} is named by the value of {name}, which is kept out of files")
    return None


def identify(run: Run, initial: InitialVariables | None, *, remote_platform: str | None = None) -> Identity:
    """The ids of `run`, which starts from `initial`.

    Raises:
      UserError: It can't run, as far as can be seen without tracing it.
    """
    return _family(run, initial, remote_platform).identity(run.seed)


def _family(run: Run, initial: InitialVariables | None, remote_platform: str | None) -> Family:
    if initial:
        initial.require_steps(run)
    found = family_of(run, initial.digest_for(run) if initial else None, remote_platform=remote_platform)
    inputs.require(run.input, run.input_shape)
    retention.require(run.checkpoint)
    return found
