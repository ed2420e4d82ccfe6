"""The user's sources that runs come from, kept once a sweep: `sources/<SHA-256>.py`, with secrets redacted."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from runner.config.env_secrets import REFERENCE, Redaction
from runner.records.disk import plain_files
from runner.records.disk.files import write_atomic
from runner.records.paths import RunFolder

# What a record names may be anything.
DIGEST = re.compile(r"[0-9a-f]{64}")

# Of one run; what would be above it is not kept, and `compare --rerun` then says so.
MAX_BYTES = 2**20


def keep(folder: RunFolder, texts: Mapping[str, str], redaction: Redaction) -> None:
    """Writes the sources of a run that its sweep does not have yet.

    Args:
      folder: The run's folder.
      texts: The sources, by module name.
      redaction: What to redact from them.

    Raises:
      OSError: The disk is full.
    """
    left = MAX_BYTES
    for text in texts.values():
        content = _encoded(text)
        left -= len(content)
        if left < 0:
            return
        path = folder.source(_digest(content))
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, redaction.text(text).encode(errors="replace"))


def missing(folder: RunFolder, texts: Mapping[str, str]) -> dict[str, str]:
    """Those of the sources of a run that its sweep does not have yet."""
    return {name: text for name, text in texts.items() if not folder.source(_digest(_encoded(text))).exists()}


def read(folder: RunFolder, digest: str) -> str | None:
    """The source with this digest, with secrets redacted; None if it is not kept, or not what was kept.

    A source with a secret is known again only where the environment has the same one.
    """
    found = _read(folder.source(digest)) if DIGEST.fullmatch(digest) else None
    if found is None or _digest(_resolved(found).encode(errors="replace")) != digest:
        return None
    return found


def read_resolved(folder: RunFolder, digest: str) -> str | None:
    """As `read`, with secrets from the environment in their places again: what ran."""
    found = read(folder, digest)
    return None if found is None else _resolved(found)


def _read(path: Path) -> str | None:
    try:
        with plain_files.opened(path) as file:
            content = file.read(2 * MAX_BYTES)
        return content.decode()
    except (OSError, ValueError):
        return None


def _resolved(text: str) -> str:
    return REFERENCE.sub(lambda match: os.environ.get(match[1], match[0]), text)


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
