"""The user's own source that a config runs: the files of the modules that it names, and of those that they import."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping

from runner.bridge import own_modules
from runner.bridge.trust import foreign_code
from runner.config.settings.run import Run


def digests(run: Run) -> dict[str, str]:
    """SHA-256 of the source of each of the user's modules that `run` comes from, by module name."""
    return {module: digest(text) for module, text in texts(run).items()}


def texts(run: Run) -> Mapping[str, str]:
    """The source of each of the user's modules that `run` comes from, by module name; they must be imported."""
    return _texts(tuple(foreign_code(run)))


def digest(text: str) -> str:
    """SHA-256 of a source."""
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _texts(paths: tuple[str, ...]) -> dict[str, str]:
    roots = [own_modules.module_of(path) for path in paths]
    return own_modules.closure([module for module in roots if module is not None])
