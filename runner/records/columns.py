"""The results table: one row per run, with stable columns; Parquet (for pandas, polars, DuckDB) and CSV."""

from __future__ import annotations

import io
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runner.config.dotted_keys import settings_text
from runner.errors import literal
from runner.records.record import Record, TrainInfo
from runner.records.row import failure


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, meaning and source; None where a run has no such value."""

    type: str
    meaning: str
    value: Callable[[Record], Any]


def _measured(name: str, number: str) -> Callable[[Record], Any]:
    def value(record: Record) -> Any:
        measurement = getattr(record.timing, name) if record.timing else None
        return getattr(measurement.summary, number) if measurement else None

    return value


def _phase(function: str, number: str) -> Callable[[Record], Any]:
    return lambda record: getattr(getattr(record.timing, function), number) if record.timing else None


def _train(number: Callable[[TrainInfo], Any]) -> Callable[[Record], Any]:
    return lambda record: number(record.train) if record.train else None


def _output(number: str) -> Callable[[Record], Any]:
    return lambda record: getattr(record.output[0], number) if len(record.output) == 1 else None


def _flags(record: Record) -> str | None:
    latency = record.timing.apply_latency if record.timing else None
    return " ".join(latency.summary.flags) if latency else None


COLUMNS: Mapping[str, Column] = {
    "num": Column("int64", "position in the sweep", lambda record: record.num),
    "run_id": Column("string", "names the run in its sweep", lambda record: record.run_id),
    "result_id": Column("string", "names all that can change the result", lambda record: record.result_id),
    "timing_id": Column("string", "names runs whose times may be compared", lambda record: record.timing_id),
    "program_id": Column("string", "names what was compiled", lambda record: record.program_id),
    "status": Column("string", "done or failed", lambda record: record.status.value),
    "error": Column("string", "kind and message of a failure", lambda record: failure(record)),
    "layer": Column("string", "name of the layer", lambda record: record.layer),
    "host": Column(
        "string", "name of the Linen module around it; empty where there is none", lambda record: record.host
    ),
    "seed": Column("int64", "seed of the Linen init key", lambda record: record.settings.get("seed")),
    "input_shape": Column("string", "shape of x", lambda record: literal(record.settings.get("input_shape"))),
    "features": Column("int64", "out_features", lambda record: record.settings.get("features")),
    "device": Column("string", "platform and index", lambda record: record.device),
    "mesh": Column(
        "string",
        "names and sizes of the mesh's axes; empty on one device",
        lambda record: literal(record.mesh.axes) if record.mesh else None,
    ),
    "overrides": Column("string", "what was typed", lambda record: " ".join(record.overrides)),
    "settings": Column("string", "the whole config, JSON", lambda record: settings_text(record.settings)),
    "started_at": Column("string", "ISO 8601, UTC", lambda record: record.started_at),
    "wall_s": Column("double", "seconds of init, apply, checks and samples", lambda record: record.wall_s),
    "output_norm": Column("double", "Euclidean norm of the output", lambda record: record.output_norm),
    "output_mean": Column("double", "mean of the output, if it is one array", _output("mean")),
    "output_std": Column("double", "standard deviation of the output, if it is one array", _output("std")),
    "output_digest": Column("string", "SHA-256 of the output, if it is one array", _output("digest")),
    "num_params": Column("int64", "elements of params", lambda record: record.num_params),
    "variables_bytes": Column("int64", "bytes of all variables", lambda record: record.variables_bytes),
    "train_steps": Column(
        "int64",
        "optimiser steps behind the variables; empty where nothing was trained",
        _train(lambda train: train.first_step + len(train.losses)),
    ),
    "loss_first": Column("double", "loss before the first step of this run", _train(lambda train: train.losses[0])),
    "loss_last": Column("double", "loss before the last step", _train(lambda train: train.losses[-1])),
    "not_moved": Column(
        "string", "leaves that training left as they were", _train(lambda train: " ".join(train.not_moved))
    ),
    "train_compile_s": Column("double", "compiling a step", _train(lambda train: train.step.compile_s)),
    "apply_latency_median_s": Column("double", "one blocking apply, median", _measured("apply_latency", "median_s")),
    "apply_latency_low_s": Column("double", "its 99 % interval, low end", _measured("apply_latency", "median_low_s")),
    "apply_latency_high_s": Column("double", "its high end", _measured("apply_latency", "median_high_s")),
    "apply_latency_flags": Column(
        "string",
        "why it is to be read with care",
        _flags,
    ),
    "apply_dispatch_median_s": Column("double", "until apply returns, median", _measured("apply_dispatch", "median_s")),
    "apply_throughput_median_s": Column(
        "double", "a call, many in flight, median", _measured("apply_throughput", "median_s")
    ),
    "apply_device_median_s": Column(
        "double", "kernels of one apply by the GPU's own clock, median", _measured("apply_device", "median_s")
    ),
    "init_latency_median_s": Column("double", "one blocking init, median", _measured("init_latency", "median_s")),
    "init_trace_s": Column("double", "tracing init", _phase("init", "trace_s")),
    "init_lower_s": Column("double", "lowering init", _phase("init", "lower_s")),
    "init_compile_s": Column("double", "compiling init", _phase("init", "compile_s")),
    "init_first_call_s": Column("double", "first call of init in this run", _phase("init", "first_call_s")),
    "apply_trace_s": Column("double", "tracing apply", _phase("apply", "trace_s")),
    "apply_lower_s": Column("double", "lowering apply", _phase("apply", "lower_s")),
    "apply_compile_s": Column("double", "compiling apply", _phase("apply", "compile_s")),
    "apply_first_call_s": Column("double", "first call of apply in this run", _phase("apply", "first_call_s")),
    "cache": Column("string", "compilation cache: off, cold or warm", _phase("apply", "cache")),
    "compile_contended": Column(
        "bool",
        "true where trace, lower and compile shared the machine with other work of the sweep",
        _phase("apply", "contended"),
    ),
    "compiled_here": Column(
        "bool",
        "false where the program was compiled for another run",
        lambda record: record.timing.compiled_here if record.timing else None,
    ),
    "checkpoint_s": Column(
        "double", "saving the checkpoint", lambda record: record.timing.checkpoint_s if record.timing else None
    ),
    "tracker_s": Column(
        "double", "making the W&B run", lambda record: record.timing.tracker_s if record.timing else None
    ),
    "checkpoint_bytes": Column(
        "int64",
        "bytes of the checkpoint's files, without Orbax' notes on time and place",
        lambda record: record.saved.num_bytes if record.saved else None,
    ),
    "checkpoint_removed": Column(
        "string",
        "the setting that removed it when there were enough others",
        lambda record: record.checkpoint.removed if record.checkpoint else None,
    ),
    "checkpoint_digest": Column(
        "string", "SHA-256 over all leaves", lambda record: record.checkpoint.digest if record.checkpoint else None
    ),
    "machine_id": Column("string", "names the machine", lambda record: record.fingerprint.get("machine_id")),
    "software_id": Column("string", "names the software", lambda record: record.fingerprint.get("software_id")),
    "loss_eval": Column(
        "double", "loss after training on train.eval_batches batches", _train(lambda train: train.loss_eval)
    ),
}

# What a value of each Arrow type is here.
PYTHON_TYPES = {"double": (int, float), "int64": (int,), "string": (str,), "bool": (bool,)}


def results_row(record: Record) -> dict[str, Any]:
    """`record` as one flat row."""
    return {name: column.value(record) for name, column in COLUMNS.items()}


def results_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """`records` as flat rows."""
    return [results_row(record) for record in records]


def to_parquet(table: Any) -> bytes:
    """The table of `to_table` as a Parquet file."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def to_csv(table: Any) -> bytes:
    """The table of `to_table` as UTF-8 CSV: missing values are empty, text is quoted."""
    import pyarrow.csv

    sink = io.BytesIO()
    pyarrow.csv.write_csv(table, sink)
    return sink.getvalue()


def read_parquet(content: bytes) -> Any:
    """Reads a Parquet file into a `pyarrow.Table`."""
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(content))


def unit(name: str) -> str:
    """Unit of the column `name`, taken from the name's suffix; empty for a column without one."""
    return next((word for ending, word in (("_s", "s"), ("_bytes", "bytes")) if name.endswith(ending)), "")


def to_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows of `results_row` as a `pyarrow.Table`; each field's metadata holds the column's unit and meaning.

    Raises:
      TypeError: A value is not of its column's type.
    """
    import pyarrow as pa

    types = {"double": pa.float64(), "int64": pa.int64(), "string": pa.string(), "bool": pa.bool_()}
    fields = [
        pa.field(name, types[column.type], metadata={"unit": unit(name), "meaning": column.meaning})
        for name, column in COLUMNS.items()
    ]
    # Row by row: a column at a time would come back to each of very many rows fifty times.
    values = zip(*map(operator.itemgetter(*COLUMNS), rows), strict=True) if rows else [()] * len(fields)
    arrays = [_array(field, column) for field, column in zip(fields, values, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _array(field: Any, values: Sequence[Any]) -> Any:
    """A column from its buffers; None is null.

    `pyarrow.array` imports pandas where it is installed, and that takes a third of a second.
    """
    import pyarrow as pa

    known = PYTHON_TYPES[str(field.type)]
    if not set(map(type, values)) <= {*known, type(None)}:  # a subclass, or another type
        for value in values:
            if value is not None and not isinstance(value, known):
                raise TypeError(f"{field.name}: {value!r} is no {field.type}")
    if pa.types.is_string(field.type):
        texts = [value or "" for value in values]
        content = "".join(texts).encode()
        ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
        if ends[-1] != len(content):  # not ASCII alone
            ends = np.cumsum([0, *(len(text.encode()) for text in texts)]).astype(np.int32)
        buffers = [pa.py_buffer(ends), pa.py_buffer(content)]
    elif pa.types.is_boolean(field.type):
        buffers = [_bits([bool(value) for value in values])]
    else:
        numbers = [0 if value is None else value for value in values]
        buffers = [pa.py_buffer(np.array(numbers, field.type.to_pandas_dtype()))]
    return pa.Array.from_buffers(field.type, len(values), [_bits([value is not None for value in values]), *buffers])


def _bits(flags: Sequence[bool]) -> Any:
    """One bit each, as Arrow has them."""
    import pyarrow as pa

    return pa.py_buffer(np.packbits(np.array(flags, np.bool_), bitorder="little"))
