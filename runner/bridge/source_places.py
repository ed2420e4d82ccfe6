"""Where in whose files the code of a run lies."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

from runner.bridge import targets
from runner.bridge.products import taken_apart
from runner.config.settings.run import Run
from runner.errors import LayerError


def source_places(run: Run) -> list[tuple[Path, int]]:
    """File and first line of the layer's class or factory, then of the host's; without those that have no source."""
    named = [("layer.target", run.layer.target), ("host.target", run.host.target)]
    found = [_place(path, key) for key, path in named if path]
    return [place for place in found if place is not None]


def _place(path: str, key: str) -> tuple[Path, int] | None:
    try:
        found = targets.import_path(path, key=key)
        product = taken_apart(found)
        found = found if product is None else product.nnx_class
        found = inspect.unwrap(found.func if isinstance(found, functools.partial) else found)
        file = inspect.getsourcefile(found)
        return (Path(file), max(1, inspect.getsourcelines(found)[1])) if file else None
    except (LayerError, OSError, TypeError):
        return None
