"""The results of a sweep for others: Parquet and CSV, their page, and how pandas, polars and DuckDB read them."""

from __future__ import annotations

import io
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from runner.commands import main
from runner.records import columns

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Eight seeds of two programs, and a name that has to be quoted."""
    folder = tmp_path_factory.mktemp("results")
    words = ["seed=range(0,8)", "features=4,8", "timing.rounds=2", "tracking=disabled", "checkpoint=none"]
    assert main.main(["-m", *words, "layer.name='a \"b\", c'", f"output_root={folder}", "sweep=both"]) == 0
    return folder / "both"


def test_the_page_of_columns_is_what_the_code_says():
    kept = (ROOT / "outputs" / "COLUMNS.md").read_text()
    assert kept == columns.columns_page(), "write results.columns_page() to outputs/COLUMNS.md"


def test_every_column_has_its_unit_in_its_name():
    units = {name: columns.unit(name) for name in columns.COLUMNS}
    assert (units["apply_latency_median_s"], units["checkpoint_bytes"], units["seed"]) == ("s", "bytes", "")
    assert all("second" not in column.meaning or units[name] == "s" for name, column in columns.COLUMNS.items())


def test_parquet_says_unit_and_meaning_of_each_column(sweep):
    schema = columns.read_parquet((sweep / "results.parquet").read_bytes()).schema
    assert schema.names == list(columns.COLUMNS)
    assert schema.field("checkpoint_s").metadata == {b"unit": b"s", b"meaning": b"saving the checkpoint"}


def test_csv_holds_what_parquet_holds_to_the_last_bit(sweep):
    kept = pd.read_parquet(sweep / "results.parquet")
    types = {name: kind for name, kind in kept.dtypes.items() if kind != "float64"}
    read = pd.read_csv(sweep / "results.csv", dtype=types)
    pd.testing.assert_frame_equal(read, kept, check_exact=True)


def test_text_with_quotes_and_line_ends_comes_back_from_csv():
    row = dict.fromkeys(columns.COLUMNS) | {"num": 0, "layer": 'a "b", c', "error": "one\ntwo"}
    read = pd.read_csv(io.BytesIO(columns.to_csv([row])))
    assert (read["layer"][0], read["error"][0], read["seed"].isna()[0]) == ('a "b", c', "one\ntwo", True)


def test_a_column_of_another_type_is_refused():
    with pytest.raises(pa.ArrowInvalid, match="Could not convert"):
        columns.to_parquet([dict.fromkeys(columns.COLUMNS) | {"seed": "no number"}])


def test_polars_and_duckdb_read_the_medians_that_pandas_reads(sweep):
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
