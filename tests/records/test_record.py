"""The record, both ways to JSON."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from full_record import OUTPUT, RECORD

from runner.errors import StorageError
from runner.records import codec
from runner.records.codec import from_json, is_whole, seal, to_data, to_json
from runner.records.record import Failure, FailureKind, Verdict


def damaged(text, where="runs/0-abc/record.json"):
    with pytest.raises(StorageError) as caught:
        from_json(text, where)
    return str(caught.value)


def with_value(key, value):
    return seal(json.dumps({**to_data(RECORD), key: value}, indent=1).encode())


def test_records_round_trip():
    text = to_json(RECORD)
    assert from_json(text) == RECORD
    assert to_json(from_json(text)) == text


def test_integer_and_string_keys_stay_distinct():
    back = from_json(to_json(RECORD)).variables[0]
    assert back.path == ["params", 0, "0"]
    assert back.name == "params/0/0"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308])
def test_every_float_comes_back(value):
    output = dataclasses.replace(OUTPUT, mean=value)
    record = dataclasses.replace(RECORD, wall_s=value, settings={"list": [value]}, output=[output])
    back = from_json(to_json(record))
    for one in (back.wall_s, back.settings["list"][0], back.output[0].mean):
        assert one == value or (math.isnan(one) and math.isnan(value))


def test_the_json_is_what_python_reads():
    data = json.loads(to_json(RECORD))
    assert len(data.pop("digest")) == 64
    assert data == to_data(RECORD)
    assert (data["schema_version"], data["status"], data["error"]["kind"]) == (3, "failed", "non-finite output")
    assert (data["checks"][0]["verdict"], data["overrides"][1]) == ("fail", "layer=β")


@pytest.mark.parametrize("text", ["\x00", "“”", "🙂", "\u2028", "\udc80"])
def test_any_error_text_round_trips(text):
    error = Failure(kind=FailureKind.other, type="E", message=text, traceback=text)
    back = from_json(to_json(dataclasses.replace(RECORD, error=error)))
    assert back.error is not None
    assert text == "\udc80" or back.error.message == text


FIX = "\n  Try: run the same sweep again: what is damaged is done again"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "EOF while parsing a value at line 1 column 0"),
        (b"{", "EOF while parsing an object at line 1 column 1"),
        (b"\xff", "expected value at line 1 column 1"),
    ],
)
def test_invalid_json_is_damaged(text, reason):
    assert damaged(text) == f"runs/0-abc/record.json is damaged: {reason}.{FIX}"


def test_a_record_cut_anywhere_is_damaged():
    text = to_json(RECORD)
    for length in range(0, len(text) - 2, 97):
        assert damaged(text[:length]).startswith("runs/0-abc/record.json is damaged: ")


def test_any_flipped_bit_is_detected():
    text = bytearray(to_json(RECORD))
    for index in range(0, len(text) - 2, 53):
        text[index] ^= 1 << index % 7
        damaged(bytes(text))
        assert not is_whole(bytes(text))
        text[index] ^= 1 << index % 7
    assert from_json(bytes(text)) == RECORD
    assert is_whole(bytes(text))


def test_edited_records_are_damaged():
    text = to_json(RECORD).replace(b'"num": 3', b'"num": 4')
    assert damaged(text) == f"runs/0-abc/record.json is damaged: it is not what was written, by its digest.{FIX}"


@pytest.mark.parametrize(
    ("text", "version"),
    [("[]", None), ("null", None), ("7", None), ("{}", None), (with_value("schema_version", 2), 2)],
)
def test_another_version_is_named(text, version):
    assert damaged(text) == f"runs/0-abc/record.json has record version {version}, this program reads 3."
    assert not is_whole(text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("status", "don", "status: Input should be 'done' or 'failed'"),
        ("num", "x", "num: Input should be a valid integer, unable to parse string as an integer"),
        ("run_id", None, "run_id: Input should be a valid string"),
        ("variables", [{}], "variables.0.path: Field required"),
    ],
)
def test_wrong_value_types_are_located(key, value, reason):
    assert damaged(with_value(key, value)) == f"runs/0-abc/record.json is no record: {reason}."


def test_sizes_are_counted_from_the_leaves():
    assert (RECORD.num_params, RECORD.variables_bytes) == (6, 36)


@pytest.mark.parametrize(("norms", "norm"), [([3.0, 4.0], 5.0), ([], None), ([3.0, None], None)])
def test_output_norm_covers_all_arrays(norms, norm):
    output = [dataclasses.replace(OUTPUT, norm=one) for one in norms]
    assert dataclasses.replace(RECORD, output=output).output_norm == norm


def test_a_verdict_is_its_string():
    assert [str(verdict) for verdict in Verdict] == [verdict.value for verdict in Verdict] == list(Verdict)


@pytest.mark.parametrize("text", [b'{"a": 1e400, "b": NaN, "c": -0.0}', b'"\\ud800"', b"[" * 250 + b"]" * 250])
def test_large_json_reads_as_small_does(text):
    large = text + b" " * codec.SMALL_BYTES
    assert repr(codec.loads(large)) == repr(json.loads(text))
    with pytest.raises(ValueError, match="Extra data"):
        codec.loads(large + b"x")
