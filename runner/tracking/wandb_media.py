"""Media of W&B runs: histograms, tables and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runner.errors import literal
from runner.records.record import Record
from runner.tracking import payload


def histograms(record: Record, output: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Histograms of a run's times and output by key, as W&B keeps them."""
    latency = record.timing.apply_latency if record.timing else None
    # One histogram per run: one row per sample takes W&B ten times as long and draws the same picture.
    shown = {payload.APPLY_MS: payload.histogram_of(1e3 * np.array(latency.samples.durations_s))} if latency else {}
    shown |= {payload.output_key(path, len(output)): payload.histogram_of(array) for path, array in output.items()}
    return {
        f"{key}/histogram": {"_type": "histogram", "values": made[0].tolist(), "bins": made[1].tolist()}
        for key, made in shown.items()
        if made is not None
    }


def table_of(wandb: Any, output: Mapping[str, np.ndarray], max_elements: int) -> dict[str, Any]:
    """The output as a table, by key; empty if it has more than `max_elements`, or none."""
    if not 0 < sum(array.size for array in output.values()) <= max_elements:
        return {}
    places = [(path, index) for path, array in output.items() for index in np.ndindex(array.shape)]
    rows = [[path, literal(index), payload.cell(output[path][index])] for path, index in places]
    return {"output/table": wandb.Table(columns=["array", "index", "value"], data=rows, allow_mixed_types=True)}


def charts(wandb: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The charts of a sweep, by key."""
    shown = {}
    for x, y, title, points in payload.sweep_charts(rows):
        table = wandb.Table(columns=[x, y, "layer"], data=points, allow_mixed_types=True)
        shown[f"chart/{y}_by_{x}"] = wandb.plot.scatter(table, x, y, title=title)
    return shown
