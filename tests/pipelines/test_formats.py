"""What the pipelines' own code writes is read bit for bit, without any of it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pipeline_files import leaves

from runner.arrays import saved_trees
from runner.errors import StorageError
from tests.pipelines import writers
from tests.pipelines.proofs.source import ROOT

VARIABLES = {"params": writers.params(), "batch_stats": writers.STATS}
PARAMS = {"params": writers.params()}

WRITTEN: dict[str, dict[str, Any]] = {
    "easylm": {
        "streaming_train_state_fp32": VARIABLES,
        "streaming_params_fp32": PARAMS,
        "streaming_train_state_bf16": writers.halved(VARIABLES),
        "streaming_params_bf16": writers.halved(PARAMS),
    },
    "t5x": {
        "own": VARIABLES,
        "own/checkpoint_0#target": PARAMS,
        "half": {**VARIABLES, **writers.halved(PARAMS)},
    },
    "big_vision": {
        "state.npz": PARAMS,
        "half.npz": writers.halved(PARAMS),
        "steps": PARAMS,
        "steps-000000001#params": PARAMS,
    },
    "brax": {"steps#1": PARAMS, "steps/000000000000#1/params": PARAMS},
}


@pytest.mark.pipelines
@pytest.mark.parametrize("pipeline", sorted(WRITTEN))
def test_a_pipelines_own_checkpoint_is_read(pipeline, tmp_path, monkeypatch):
    if reason := writers.SOURCES[pipeline].missing():
        pytest.skip(f"{pipeline}: {reason}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests' / 'support'}")
    command = [sys.executable, "-m", "tests.pipelines.writers", pipeline]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for place, wanted in WRITTEN[pipeline].items():
        assert list(leaves(saved_trees.read(place).variables)) == list(leaves(wanted)), place
    if pipeline == "brax":
        with pytest.raises(
            StorageError, match=r"steps/000000000100#1, steps/000000000100#2; the others in it are 0 \(count"
        ):
            saved_trees.read("steps")
