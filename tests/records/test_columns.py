"""The results of a sweep for others: Parquet and CSV, their page, and how pandas, polars and DuckDB read them."""

from __future__ import annotations

import dataclasses
import io
import math
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from tracked_records import make_record

from runner.commands import main
from runner.records import columns
from runner.records.record import CheckpointInfo, Failure, FailureKind, Leaf, MeshInfo, Status, TrainInfo
from runner.records.timing import Measurement, Phases, Samples, Summary, Timing


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Eight seeds of two programs, and a name that has to be quoted."""
    folder = tmp_path_factory.mktemp("results")
    words = ["seed=range(0,8)", "features=4,8", "checks=off", "timing.rounds=2", "tracking=disabled", "checkpoint=none"]
    assert main.main(["-m", *words, "layer.name='a \"b\", c'", f"output_root={folder}", "sweep=both"]) == 0
    return folder / "both"


# Every number another one, so that no column can show its neighbour.
SUMMARY = Summary(
    num_samples=12,
    median_s=0.101,
    min_s=0.102,
    max_s=0.103,
    mean_s=0.104,
    std_s=0.105,
    quartile1_s=0.106,
    quartile3_s=0.107,
    mad_s=0.108,
    median_low_s=0.109,
    median_high_s=0.110,
    num_outliers=13,
    flags=["short", "spread"],
)
SAMPLES = Samples(durations_s=[0.1])
TRAIN = TrainInfo(
    first_step=5,
    losses=[3.0, 2.0, 1.0],
    step=Phases(trace_s=0.31, lower_s=0.32, compile_s=0.33, cache="off", first_call_s=0.34),
    steps_s=[0.35],
    not_moved=["params/a", "params/b"],
    loss_eval=0.75,
)
TIMING = Timing(
    construct_s=0.01,
    init=Phases(trace_s=0.11, lower_s=0.12, compile_s=0.13, cache="warm", contended=False, first_call_s=0.14),
    apply=Phases(trace_s=0.21, lower_s=0.22, compile_s=0.23, cache="cold", contended=True, first_call_s=0.24),
    compiled_here=False,
    checkpoint_s=0.41,
    tracker_s=0.42,
    apply_latency=Measurement(samples=SAMPLES, summary=SUMMARY),
    apply_dispatch=Measurement(samples=SAMPLES, summary=dataclasses.replace(SUMMARY, median_s=0.51)),
    apply_throughput=Measurement(samples=SAMPLES, summary=dataclasses.replace(SUMMARY, median_s=0.52)),
    apply_device=Measurement(samples=SAMPLES, summary=dataclasses.replace(SUMMARY, median_s=0.53)),
    init_latency=Measurement(samples=SAMPLES, summary=dataclasses.replace(SUMMARY, median_s=0.54)),
)
ROW = {
    "num": 3,
    "run_id": "a1b2c3d4e5f60718",
    "result_id": "r1",
    "timing_id": "t1",
    "program_id": "p1",
    "status": "failed",
    "error": "compile: it broke",
    "layer": "linear",
    "host": "mlp",
    "seed": 7,
    "input_shape": "[2,4]",
    "features": 9,
    "device": "cpu:0",
    "mesh": "{data:2,model:4}",
    "overrides": "seed=7 layer=linear",
    "settings": '{"seed": 7, "input_shape": [2, 4], "features": 9}',
    "started_at": "2026-01-01T00:00:00Z",
    "wall_s": 1.5,
    "output_norm": 2.0,
    "output_mean": 0.5,
    "output_std": 1.0,
    "output_digest": "d",
    "num_params": 32,
    "variables_bytes": 132,
    "train_steps": 8,
    "loss_first": 3.0,
    "loss_last": 1.0,
    "not_moved": "params/a params/b",
    "train_compile_s": 0.33,
    "apply_latency_median_s": 0.101,
    "apply_latency_low_s": 0.109,
    "apply_latency_high_s": 0.110,
    "apply_latency_flags": "short spread",
    "apply_dispatch_median_s": 0.51,
    "apply_throughput_median_s": 0.52,
    "apply_device_median_s": 0.53,
    "init_latency_median_s": 0.54,
    "init_trace_s": 0.11,
    "init_lower_s": 0.12,
    "init_compile_s": 0.13,
    "init_first_call_s": 0.14,
    "apply_trace_s": 0.21,
    "apply_lower_s": 0.22,
    "apply_compile_s": 0.23,
    "apply_first_call_s": 0.24,
    "cache": "cold",
    "compile_contended": True,
    "compiled_here": False,
    "checkpoint_s": 0.41,
    "tracker_s": 0.42,
    "checkpoint_bytes": 77,
    "checkpoint_removed": None,
    "checkpoint_digest": "c",
    "machine_id": "m1",
    "software_id": "s1",
    "loss_eval": 0.75,
}


def test_columns_match_the_record():
    kernel, mean = make_record().variables[0], Leaf(path=["s", "m"], shape=[1], dtype="f", num_bytes=4, digest="d")
    record = make_record(
        status=Status.failed,
        error=Failure(kind=FailureKind.compile, type="ValueError", message="it broke", traceback=""),
        host="mlp",
        mesh=MeshInfo(axes={"data": 2, "model": 4}, devices=["cpu:0"], x=[]),
        settings={"seed": 7, "input_shape": [2, 4], "features": 9},
        variables=[kernel, mean],
        train=TRAIN,
        timing=TIMING,
        checkpoint=CheckpointInfo(path="checkpoint", digest="c", num_bytes=77, writer="orbax"),
    )
    assert columns.results_row(record) == ROW


def test_column_names_carry_their_unit():
    units = {name: columns.unit(name) for name in columns.COLUMNS}
    assert (units["apply_latency_median_s"], units["checkpoint_bytes"], units["seed"]) == ("s", "bytes", "")
    assert all("second" not in column.meaning or units[name] == "s" for name, column in columns.COLUMNS.items())


def test_parquet_stores_units_and_meanings(sweep):
    schema = columns.read_parquet((sweep / "results.parquet").read_bytes()).schema
    assert schema.names == list(columns.COLUMNS)
    assert schema.field("checkpoint_s").metadata == {b"unit": b"s", b"meaning": b"saving the checkpoint"}


def test_csv_equals_parquet_exactly(sweep):
    kept = pd.read_parquet(sweep / "results.parquet")
    types = {name: kind for name, kind in kept.dtypes.items() if kind != "float64"}
    read = pd.read_csv(sweep / "results.csv", dtype=types)
    pd.testing.assert_frame_equal(read, kept, check_exact=True)


def test_quoted_text_survives_csv():
    row = dict.fromkeys(columns.COLUMNS) | {"num": 0, "layer": 'a "b", c', "error": "one\ntwo"}
    read = pd.read_csv(io.BytesIO(columns.to_csv(columns.to_table([row]))))
    assert (read["layer"][0], read["error"][0], read["seed"].isna()[0]) == ('a "b", c', "one\ntwo", True)


@pytest.mark.parametrize(("name", "value"), [("seed", "no number"), ("seed", 1.5), ("layer", 3), ("loss_last", "1")])
def test_wrong_column_types_are_refused(name, value):
    with pytest.raises(TypeError, match=f"^{name}: {value!r} is no (int64|string|double)$"):
        columns.to_table([dict.fromkeys(columns.COLUMNS) | {name: value}])


def test_tables_are_what_pyarrow_makes():
    texts = ["", None, "größer", "a\nb", "x" * 300]
    by_type = {"double": [0.1, None, math.inf, 2, -0.0], "int64": [0, None, -1, 2**62, 7], "string": texts}
    by_type["bool"] = [True, None, False, True, None]
    rows = [{name: by_type[column.type][row] for name, column in columns.COLUMNS.items()} for row in range(5)]
    made = columns.to_table(rows)
    assert {column.type for column in columns.COLUMNS.values()} <= set(by_type)
    assert made.equals(pa.Table.from_pylist(rows, schema=made.schema))
    assert columns.to_table([]).equals(pa.Table.from_pylist([], schema=made.schema))


def test_results_are_written_without_pandas():
    code = """
import sys
from runner.records import columns
table = columns.to_table([dict.fromkeys(columns.COLUMNS) | {"seed": 1, "layer": "linear"}])
columns.to_parquet(table), columns.to_csv(table)
sys.exit("pandas" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_polars_and_duckdb_agree_with_pandas(sweep):
    path, name = sweep / "results.parquet", "apply_latency_median_s"
    medians = pd.read_parquet(path).groupby("features")[name].median().to_dict()
    of_polars = pl.read_parquet(path).group_by("features").agg(pl.median(name)).rows()
    of_duckdb = duckdb.sql(f"from '{path}' select features, median({name}) group by features").fetchall()
    of_csv = duckdb.sql(f"from '{sweep}/results.csv' select features, median({name}) group by features").fetchall()
    assert dict(of_polars) == dict(of_duckdb) == dict(of_csv) == medians


def test_results_writes_both_files_again(sweep, capsys):
    kept = {path.name: path.read_bytes() for path in sweep.glob("results.*")}
    for name in kept:
        (sweep / name).unlink()
    assert main.main(["results", str(sweep)]) == 0
    assert capsys.readouterr().out == "".join(
        f"{sweep / name}: 16 runs\n" for name in ("results.parquet", "results.csv")
    )
    assert {path.name: path.read_bytes() for path in sweep.glob("results.*")} == kept
