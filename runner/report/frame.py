"""The results of a sweep in Python: a pandas data frame, with outputs loaded on demand."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config.dotted_keys import flatten, varied_keys
from runner.errors import UserError, literal
from runner.records import columns, find, store
from runner.records.disk import plain_files
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import Record
from runner.report import aggregate, plots
from runner.timing import stats

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes

# A time's flags are in a separate column.
FLAGS = {"apply_latency_median_s": "apply_latency_flags"}

# Columns shown in a notebook: the axes that vary, and these.
AXES = ("layer", "seed", "input_shape", "features", "device")
SHOWN = ("output_norm", "apply_latency_median_s", "apply_latency_flags", "status")
SHOWN_IF = ("loss_last",)
MAX_ROWS = 40
MAX_KEYS = 4

# Config keys that say in another way what an axis says, or concern the sweep.
NOT_SHOWN = ("layer.target", "layer.name", "sweep", "output_root")


@dataclass(frozen=True)
class Results:
    """The results of a sweep.

    Attributes:
      path: The sweep's folder.
      frame: One row per run, with the columns of `results.parquet` (`docs/reference/columns.md`).
    """

    path: Path
    frame: pd.DataFrame

    def __repr__(self) -> str:
        statuses = self.frame["status"].value_counts()
        said = ", ".join(f"{number} {status}" for status, number in statuses.items())
        return (
            f"Results({str(self.path)!r}: {len(self.frame)} runs, {said}; "
            ".frame, .by(key), .plot(key), .plot_losses(), .output(run), .record(run))"
        )

    def _repr_html_(self) -> str:
        varied = [name for name in AXES if self.frame[name].nunique(dropna=False) > 1]
        shown = self.frame[["num", *varied]].assign(**{key: self._values(key) for key in self._more_keys(varied)})
        for name in (*(name for name in SHOWN_IF if self.frame[name].notna().any()), *SHOWN):
            shown[name] = self.frame[name]
        head = f"<p>{html.escape(repr(self))}</p>"
        text = shown.to_html(index=False, max_rows=MAX_ROWS, na_rep="", border=0, float_format="{:.4g}".format)
        return head + str(text)

    def by(self, key: str, *more: str, of: Sequence[str] = ("apply_latency_median_s", "output_norm")) -> pd.DataFrame:
        """Aggregates the runs that share the values of some keys: a single seed is not a distribution.

        Args:
          key: A column, or any dotted config key: `features`, `layer.kwargs.hidden`.
          *more: Further keys.
          of: Numeric columns.

        Returns:
          A frame indexed by the keys. For each column in `of`: `median`, `low` and `high` (its 99 % nonparametric
          interval, NaN under 8 runs) and `n`, the number of runs that have a value; for times also `flagged`, how many
          of them are flagged as unreliable.

        Raises:
          UserError: There is no such key or column.
        """
        import pandas as pd

        for column in of:
            aggregate.require_key(column, columns.COLUMNS)
        keys = [key, *more]
        groups = list(self.frame.groupby([self._values(name) for name in keys], sort=False, dropna=False))
        rows = [
            {(column, name): number for column in of for name, number in _numbers(members, column).items()}
            for _, members in groups
        ]
        names = [group if more else group[0] for group, _ in groups]
        index = pd.MultiIndex.from_tuples(names, names=keys) if more else pd.Index(names, name=key)
        return pd.DataFrame(rows, index=index, columns=pd.MultiIndex.from_tuples(rows[0]))

    def plot(self, key: str, of: str = "apply_latency_median_s", *, ax: Axes | None = None) -> Axes:
        """Draws a numeric column over the values of a key: every run, the median and its 99 % interval.

        Args:
          key: A column, or any dotted config key: `features`, `layer.kwargs.hidden`.
          of: A numeric column.
          ax: matplotlib axes to draw on; new ones by default.

        Raises:
          UserError: There is no such key or column, no run has a value, or matplotlib is not installed.
        """
        medians = self.by(key, of=[of])[of]
        return plots.draw_medians(self.frame, self._values(key), medians, of, ax)

    def plot_losses(self, *, ax: Axes | None = None) -> Axes:
        """Draws the loss of each trained run over its steps, named by the settings that vary.

        Args:
          ax: matplotlib axes to draw on; new ones by default.

        Raises:
          UserError: No run was trained, or matplotlib is not installed.
        """
        varied = [name for name in AXES if self.frame[name].nunique(dropna=False) > 1]
        curves = []
        for row in self.frame[["num", *varied]].to_dict("records"):
            train = self.record(int(row["num"])).train
            if train is not None:
                curves.append((" ".join(f"{name}={row[name]}" for name in varied), train.losses))
        return plots.draw_losses(curves, ax)

    def output(self, run: int | str) -> np.ndarray | dict[str, np.ndarray]:
        """Reads the output of a run: an array, or several by path.

        Args:
          run: Its `num`, or a prefix of its `run_id` or folder name.

        Raises:
          UserError: There is no such run, or it failed before it had an output.
        """
        folder = self._folder(run)
        record = store.read_record(folder)
        if not record.output:
            raise UserError(f"run {folder.path.name} has no output: it failed")
        arrays = store.read_output(folder, record)
        return arrays[""] if list(arrays) == [""] else arrays

    def record(self, run: int | str) -> Record:
        """The record of a run.

        Raises:
          UserError: There is no such run.
        """
        return store.read_record(self._folder(run))

    def _more_keys(self, axes: Sequence[str]) -> list[str]:
        """The config keys that vary besides the axes, without those that an axis or another key determines."""
        settings = [flatten(json.loads(text)) for text in self.frame["settings"]]
        flat = [one | {name: str(self.frame[name].iloc[num]) for name in axes} for num, one in enumerate(settings)]
        kept = list(axes)
        for key in varied_keys(settings):
            if key not in (*AXES, *NOT_SHOWN) and not any(_follows(key, other, flat) for other in kept):
                kept.append(key)
        return kept[len(axes) :][:MAX_KEYS]

    def _folder(self, run: int | str) -> RunFolder:
        chosen = self.frame["num"].astype(str) == str(run)
        if isinstance(run, str) and not chosen.any():
            names = self.frame["num"].astype(str) + "-" + self.frame["run_id"]
            chosen = names.str.startswith(run) | self.frame["run_id"].str.startswith(run)
        found = self.frame[chosen]
        if len(found) != 1:
            known = ", ".join(f"{num}-{run_id[:8]}" for num, run_id in self.frame[["num", "run_id"]].head(3).values)
            raise UserError(f"run {run!r}: {len(found)} such runs are there, one is wanted; the first are {known}")
        return SweepFolder(self.path).run(int(found["num"].iloc[0]), found["run_id"].iloc[0])

    def _values(self, key: str) -> pd.Series:
        if key in self.frame.columns:
            return self.frame[key]
        settings = [flatten(json.loads(text)) for text in self.frame["settings"]]
        known = dict.fromkeys([*self.frame.columns, *(name for one in settings for name in one)])
        aggregate.require_key(key, known)
        import pandas as pd

        values = [one.get(key) for one in settings]
        plain = [value if isinstance(value, (bool, int, float, str)) else literal(value) for value in values]
        return pd.Series(plain, index=self.frame.index, name=key)


def _follows(key: str, other: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the value of `other` determines that of `key`."""
    pairs = {(literal(row.get(other)), literal(row.get(key))) for row in rows}
    return len(pairs) == len({first for first, _ in pairs})


def load(sweep: str | Path) -> Results:
    """Loads the results of a sweep: `.frame`, `.by("features")`, `.output(run)`, `.record(run)`.

    Reads `results.parquet` if it has the same runs as the journal; otherwise, as while the sweep runs or after it was
    killed, the records.

    Raises:
      UserError: There is no such sweep, none of its runs is done, or pandas is not installed.
    """
    require_pandas()
    folder = SweepFolder(Path(sweep))
    there = [row for row in find.read_rows(folder) if row.status in find.STATUSES]
    if not there:
        raise UserError(f"{sweep}: no run of this sweep is done", f"bridge-runner resume {sweep}")
    table = columns.read_parquet(plain_files.read_bytes(folder.results)) if folder.results.exists() else None
    if table is None or _names(table) != [(row.run_id, row.status) for row in there]:
        records = store.read_records(folder.run(row.num, row.run_id) for row in there)
        table = columns.to_table(columns.results_rows(records))
    return Results(path=folder.path, frame=table.to_pandas())


def require_pandas() -> None:
    """Checks that pandas is installed, which the results of a sweep need.

    Raises:
      UserError: It is not installed.
    """
    try:
        import pandas  # noqa: F401
    except ImportError:
        raise UserError("the package pandas is not installed", "pip install 'bridge-runner[pandas]'") from None


def _names(table: Any) -> list[tuple[str, str]]:
    return list(zip(table["run_id"].to_pylist(), table["status"].to_pylist(), strict=True))


def _numbers(members: pd.DataFrame, column: str) -> dict[str, float | int]:
    one = stats.aggregate(members[column])
    ends = (None, None, None) if one is None else (one.median, one.low, one.high)
    numbers = {
        name: math.nan if end is None else end for name, end in zip(("median", "low", "high"), ends, strict=True)
    }
    numbers["n"] = 0 if one is None else one.num
    flags = FLAGS.get(column)
    return numbers if flags is None else numbers | {"flagged": int((members[flags].fillna("") != "").sum())}
