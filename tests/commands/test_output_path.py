"""Where a command writes what it derives from a run: never over something, nor into the run."""

from __future__ import annotations

import pytest
from bare_record import RECORD

from runner.commands.derived import exported_variables, output_path
from runner.errors import StorageError, UserError
from runner.records import store
from runner.records.paths import SweepFolder


@pytest.fixture
def run(tmp_path):
    """The folder of a run."""
    folder = SweepFolder(tmp_path / "sweep").run(0, "a" * 64)
    folder.path.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("to", "name", "another"),
    [
        ("nnx", "0-aaaaaaaa-nnx", "0-aaaaaaaa-nnx-2"),
        ("linen", "0-aaaaaaaa-linen", "0-aaaaaaaa-linen-2"),
        ("safetensors", "0-aaaaaaaa.safetensors", "0-aaaaaaaa-2.safetensors"),
    ],
)
def test_what_is_there_is_not_overwritten(to, name, another, run, tmp_path):
    target = output_path.default_target(run, to)
    assert target == tmp_path / "sweep" / "exports" / name
    output_path.require_target(target, run)
    target.mkdir(parents=True)
    with pytest.raises(StorageError) as raised:
        output_path.require_target(target, run)
    said = f"{target} is there already and is not overwritten.\n  Try: --out {target.with_name(another)}"
    assert str(raised.value) == said


def test_orbax_takes_no_wildcards(run, tmp_path):
    with pytest.raises(StorageError, match=r"Try: --out with letters, digits, \. _ and -$"):
        output_path.require_target(tmp_path / "a*b", run)
    output_path.require_target(tmp_path / "a*b", run, by_orbax=False)
    output_path.require_target(tmp_path / "a-b", run)


@pytest.mark.parametrize("to", exported_variables.KINDS)
def test_exports_begin_by_looking_there(to, run, tmp_path):
    store.write_record(run, RECORD)
    (tmp_path / "mine").touch()
    with pytest.raises(StorageError, match="mine is there already and is not overwritten"):
        exported_variables.export(run.path, to, out=tmp_path / "mine")
    with pytest.raises(UserError, match="there is nothing to export"):
        exported_variables.export(run.path, to, out=tmp_path / "other")


def test_a_runs_folder_takes_no_exports(run):
    with pytest.raises(StorageError, match="is inside the run's folder, and verify would call it foreign"):
        output_path.require_target(run.path / "export", run)
