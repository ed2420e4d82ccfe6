"""Records that share settings and machine are read as each alone is, whatever their texts hold."""

from __future__ import annotations

import dataclasses

import pytest
from full_record import RECORD
from texts_read_alike import require_alike_where_damaged

from runner.errors import StorageError
from runner.records import codec, families, store
from runner.records.disk import files
from runner.records.paths import RunFolder
from runner.records.record_text import RecordTexts

LAYER = {"seed": 5, "kwargs": {"note": '50 % of\n "fingerprint": {', "scale": 0.5}}


def record(num: int, **settings):
    """A run of one of two programs."""
    known = {"seed": num // 2, "features": 8 + num % 2, "layer": LAYER}
    return dataclasses.replace(RECORD, num=num, settings=known | settings, fingerprint={"cpu": {"num_cores": 2}})


RECORDS = [
    *map(record, range(6)),
    record(6, seed="$SEED"),
    record(7, seed=None),
    dataclasses.replace(record(8), settings={}),
    dataclasses.replace(record(9), fingerprint={}),
    dataclasses.replace(record(10), fingerprint={"cpu": {"num_cores": 4}}),
    *map(record, range(11, 14)),
]
TEXTS = [codec.to_json(one) for one in RECORDS]


@pytest.mark.parametrize("max_families", [1, 256])
def test_shared_settings_are_read_once(max_families, monkeypatch):
    monkeypatch.setattr(families, "MAX_FAMILIES", max_families)
    texts = RecordTexts()
    data = [texts.data(text) for text in TEXTS]
    assert repr(data) == repr([codec.parse(text) for text in TEXTS])
    assert (data[0]["settings"]["layer"] is data[4]["settings"]["layer"]) == (max_families > 1)
    assert data[0]["fingerprint"] is data[4]["fingerprint"]


def test_records_read_together_are_equal(tmp_path):
    folders = [RunFolder(tmp_path / str(one.num)) for one in RECORDS]
    for folder, one in zip(folders, RECORDS, strict=True):
        files.make_run_folder(folder)
        store.write_record(folder, one)
    assert list(store.read_records(folders)) == RECORDS
    folders[4].record.write_bytes(TEXTS[4].replace(b'"num_cores": 2', b'"num_cores": 3'))
    with pytest.raises(StorageError, match="it is not what was written, by its digest"):
        list(store.read_records(folders))


def test_damaged_texts_are_read_alike():
    require_alike_where_damaged(RecordTexts().data, codec.parse, TEXTS, likely=b'"settings"')
