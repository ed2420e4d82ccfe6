"""`bridge-runner check`: every claim about a config, as a table, with what mends each no. Writes nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from runner.config import serialize
from runner.config.composed import Config
from runner.config.enums import ChecksDepth, ChecksMode, EagerCheck, TimingMode
from runner.config.settings import Run
from runner.errors import UserError
from runner.experiment import execute
from runner.experiment.execute import Job
from runner.records.record import Record, Verdict
from runner.report import table
from runner.report.terminal import Terminal
from runner.sweep import plan

EXIT_NO = 1


def check(configs: Sequence[Config], refused: Sequence[tuple[str, UserError]] = (), *, as_json: bool = False) -> int:
    """Prints what every claim says of each program among `configs`.

    Args:
      configs: Configs; those of one program are judged once.
      refused: Where and why other configs have no meaning.
      as_json: Whether a list of programs with their checks is printed, for scripts.

    Returns:
      0 where no claim says no and nothing fails, else 1.

    Raises:
      UserError: A config that can't run.
    """
    identities, drafts = plan.validate(configs, refused)
    terminal = Terminal()
    judged: list[dict[str, Any]] = []
    seen = set()
    for config, identity in zip(configs, identities, strict=True):
        if identity.program_id in seen:
            continue
        seen.add(identity.program_id)
        run, draft = _thorough(config.run), drafts[identity.program_id, config.run.device]
        record = execute.attempt(Job(run=run, identity=identity), draft).record
        judged.append(_as_data(config, record))
        if not as_json:
            head = f"{record.layer} on x {draft.x.dtype}{run.input_shape}, {run.device}"
            terminal.line("\n".join(table.checks_lines(head, record, width=terminal.console.width)))
    if as_json:
        print(json.dumps(judged, indent=1))
    said = [item["verdict"] for one in judged for item in one["checks"]]
    return EXIT_NO if Verdict.no.value in said or any(one["error"] for one in judged) else 0


def _thorough(run: Run) -> Run:
    checks = dataclasses.replace(run.checks, mode=ChecksMode.report, depth=ChecksDepth.full, eager=EagerCheck.program)
    return dataclasses.replace(run, checks=checks, timing=dataclasses.replace(run.timing, mode=TimingMode.off))


def _as_data(config: Config, record: Record) -> dict[str, Any]:
    checks = [dataclasses.asdict(item) | {"verdict": item.verdict.value} for item in record.checks]
    error = record.error.message if record.error else None
    return {"layer": record.layer, "settings": serialize.to_data(config.run), "checks": checks, "error": error}
