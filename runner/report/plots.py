"""Draws the results of a sweep with matplotlib, which is optional: a number over a key, and loss curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runner.errors import UserError
from runner.records import columns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Runs of one key value are spread over this share of the distance to the next.
SPREAD = 0.25
# More curves than the legend can name are drawn without one.
MAX_LEGEND = 12


def draw_medians(frame: pd.DataFrame, values: pd.Series, medians: pd.DataFrame, column: str, ax: Axes | None) -> Axes:
    """Draws every run as a dot, and for each value of a key the median with its 99 % interval.

    Args:
      frame: One row per run.
      values: The key's value for each run.
      medians: `low`, `median` and `high`, indexed by the key's values in the order drawn.
      column: The column of `frame` to draw.
      ax: Axes to draw on; new ones by default.

    Raises:
      UserError: matplotlib is not installed, or no run has a value.
    """
    ax = _axes(ax)
    if frame[column].isna().all():
        raise UserError(f"{column}: no run of this sweep has a value", "of='output_norm'")
    for position, value in enumerate(medians.index):
        numbers = frame.loc[values == value, column].dropna().to_numpy()
        offsets = [SPREAD * ((index + 0.5) / len(numbers) - 0.5) for index in range(len(numbers))]
        ax.plot([position + offset for offset in offsets], numbers, "o", color="C0", alpha=0.4, markersize=4)
        row = medians.loc[value]
        ax.plot(position, row["median"], "_", color="C1", markersize=18, markeredgewidth=2)
        ax.vlines(position, row["low"], row["high"], color="C1")
    ax.set_xticks(range(len(medians)), [str(value) for value in medians.index])
    ax.set_xlabel(str(values.name))
    ax.set_ylabel(_label(column))
    ax.set_title("median over runs, bar: its 99 % interval (from 8 runs on)", fontsize="small")
    return ax


def draw_losses(curves: Sequence[tuple[str, Sequence[float]]], ax: Axes | None) -> Axes:
    """Draws loss curves, each with its name.

    Raises:
      UserError: matplotlib is not installed, or there is no curve.
    """
    ax = _axes(ax)
    if not curves:
        raise UserError("no run of this sweep was trained", "bridge-runner -m train=short seed=0,1")
    for name, losses in curves:
        ax.plot(range(len(losses)), losses, label=name)
    from matplotlib import ticker

    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.set_xlabel("step")
    ax.set_ylabel("loss before the step")
    if all(loss > 0 for _, losses in curves for loss in losses):
        ax.set_yscale("log")
    if 1 < len(curves) <= MAX_LEGEND:
        ax.legend(fontsize="small")
    return ax


def _axes(ax: Axes | None) -> Axes:
    try:
        from matplotlib import pyplot
    except ImportError:
        raise UserError("the package matplotlib is not installed", "pip install 'bridge-runner[plot]'") from None
    if ax is not None:
        return ax
    new: Any = pyplot.subplots(layout="constrained")[1]
    return new


def _label(column: str) -> str:
    unit = columns.unit(column)
    name = column.removesuffix(f"_{unit}") if unit else column
    return name.replace("_", " ") + (f" ({unit})" if unit else "")
