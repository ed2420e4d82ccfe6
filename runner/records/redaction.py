"""Redacts values that a record's config took from the environment."""

from __future__ import annotations

from dataclasses import replace

from runner.config.env_secrets import Redaction
from runner.records.record import Record


def redacted(record: Record, redaction: Redaction) -> Record:
    """Returns a record with the values redacted, wherever it holds config or error text."""
    if not redaction.values:
        return record
    return replace(
        record,
        settings=redaction.settings(record.settings),
        overrides=redaction.data(record.overrides),
        checks=[
            replace(
                check,
                detail=redaction.text(check.detail),
                evidence=redaction.data(check.evidence),
                fix=redaction.data(check.fix),
            )
            for check in record.checks
        ],
        error=record.error
        and replace(
            record.error,
            message=redaction.text(record.error.message),
            traceback=redaction.text(record.error.traceback),
        ),
    )
