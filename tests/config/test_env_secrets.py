"""What a config takes from the environment stands in no file, and is asked for again by those who need it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from runner.commands import main
from runner.config import env_secrets
from runner.config.env_secrets import Redaction
from runner.errors import ConfigError
from runner.records import store
from runner.records.paths import RunFolder

SECRET = "correct-horse-battery"
LAYER = '''
import jax
import jax.numpy as jnp
from flax import nnx


class Remote(nnx.Module):
    """Wants a token, and tells it when it fails, as clients of services do."""

    def __init__(self, token, *, rngs):
        self.token, self.scale = token, nnx.Param(rngs.params.normal(()))

    def __call__(self, x):
        def fetch(x):
            if self.token != "correct-horse-battery" or (x > 1e6).any():
                raise ValueError(f"no answer for {self.token}")
            return x

        return jax.pure_callback(fetch, jax.ShapeDtypeStruct(x.shape, x.dtype), x) * self.scale[...]
'''
WORDS = "layer=custom layer.target=remote_layer.Remote layer.kwargs.token=${oc.env:SERVICE_TOKEN} timing=off sweep=s"


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A folder with a sweep of a layer that got a secret: one run done, one failed with the secret in its message."""
    folder = tmp_path_factory.mktemp("redacted")
    (folder / "remote_layer.py").write_text(LAYER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("SERVICE_TOKEN", SECRET)
        np.save("big.npy", np.full(4, 1e9, np.float32))
        assert main.main(["-m", *WORDS.split(), "input=ones,file", "input.path=big.npy"]) == 1
        yield folder


@pytest.fixture
def here(swept, tmp_path, monkeypatch) -> Path:
    """A copy of that folder, in a process that has the variable."""
    copy = shutil.copytree(swept, tmp_path / "copy")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("SERVICE_TOKEN", SECRET)
    return copy


def run_of(here: Path, num: int) -> RunFolder:
    (path,) = (here / "outputs" / "s" / "runs").glob(f"{num}-*")
    return RunFolder(path)


def test_secrets_appear_in_no_sweep_file(swept):
    files = [path for path in (swept / "outputs").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    failed = store.read_record(run_of(swept, 1))
    assert failed.error is not None
    assert "no answer for ${oc.env:SERVICE_TOKEN}" in failed.error.message
    assert "no answer for ${oc.env:SERVICE_TOKEN}" in failed.error.traceback


def test_configs_keep_the_variable_name(swept):
    folder = run_of(swept, 0)
    plan = json.loads((swept / "outputs" / "s" / "sweep.json").read_text())
    config = yaml.safe_load((folder.hydra / "config.yaml").read_text())
    kept = [store.read_record(folder).settings, plan["runs"][0]["settings"], config]
    assert [one["layer"]["kwargs"]["token"] for one in kept] == ["${oc.env:SERVICE_TOKEN}"] * 3


@pytest.mark.parametrize("words", ["verify RUN --trust", "rerun RUN --trust", "export RUN --to nnx --trust"])
def test_verbs_needing_secrets_read_the_environment(words, here, capsys, monkeypatch):
    typed = words.replace("RUN", "outputs/s/0").split()
    assert main.main(typed) == 0
    shutil.rmtree("outputs/s/exports", ignore_errors=True)
    monkeypatch.delenv("SERVICE_TOKEN")
    capsys.readouterr()
    assert main.main(typed) == 2
    assert capsys.readouterr().err == (
        "error: layer.kwargs.token=${oc.env:SERVICE_TOKEN}: the environment variable SERVICE_TOKEN is not set, and its "
        "value was not kept.\n  Try: SERVICE_TOKEN=… before the command\n"
    )


@pytest.mark.parametrize(
    "words", ["ls outputs/s", "show outputs/s/0", "verify outputs/s --no-code", "results outputs/s"]
)
def test_other_verbs_need_no_secret(words, here, monkeypatch):
    monkeypatch.delenv("SERVICE_TOKEN")
    assert main.main(words.split()) == 0


@pytest.mark.slow
def test_resume_reads_secrets_from_the_environment(here, capsys, monkeypatch):
    shutil.rmtree(run_of(here, 0).path)
    monkeypatch.delenv("SERVICE_TOKEN")
    assert main.main(["resume", "outputs/s", "--trust"]) == 2
    assert "layer.kwargs.token=${oc.env:SERVICE_TOKEN}: the environment variable SERVICE_TOKEN is not set.\n" in (
        capsys.readouterr().err
    )
    monkeypatch.setenv("SERVICE_TOKEN", SECRET)
    assert main.main(["resume", "outputs/s", "--trust", "failure.retry=none"]) == 1
    assert main.main(["verify", "outputs/s/0", "--trust"]) == 0


def test_another_value_makes_another_run(here, capsys, monkeypatch):
    monkeypatch.setenv("SERVICE_TOKEN", "another-horse-altogether")
    assert main.main(["rerun", "outputs/s/0", "--trust"]) == 4
    assert "a variable of the environment is another one than when the run was saved" in capsys.readouterr().err


# Which values, and where.


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({"a": "${oc.env:LONG}"}, "${oc.env:LONG}"),
        ({"a": "x-${oc.env:LONG}-y"}, "x-${oc.env:LONG}-y"),
        ({"a": "${ oc.env : LONG , other }"}, "${oc.env:LONG}"),
        ({"a": "${oc.env:SHORT}"}, "${oc.env:SHORT}"),
        ({"a": ["${oc.env:SHORT}"]}, ["${oc.env:SHORT}"]),
        ({"a": "${b}", "b": "${oc.env:SHORT}"}, "${oc.env:SHORT}"),
        ({"a": "${oc.env:UNSET_HERE,none}"}, "none"),
        ({"a": "cpu", "b": "${oc.env:SHORT}"}, "cpu"),
        ({"a": "a-long-value too", "b": "${oc.env:LONG}"}, "${oc.env:LONG} too"),
        ({"a": "${oc.decode:${oc.env:NUMBER}}"}, 12345678),
    ],
)
def test_text_is_stored_by_variable_names(config, kept, monkeypatch):
    monkeypatch.setenv("LONG", "a-long-value")
    monkeypatch.setenv("SHORT", "cpu")
    monkeypatch.setenv("NUMBER", "12345678")
    resolved = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    found = env_secrets.of_config(config).settings(resolved)
    assert found["a"] == kept
    assert env_secrets.resolve(found) == resolved


def test_longer_secrets_are_replaced_first():
    both = Redaction({"PART": "password", "WHOLE": "password-of-mine"})
    assert both.text("password-of-mine, password") == "${oc.env:WHOLE}, ${oc.env:PART}"


def test_computed_variable_names_are_refused():
    with pytest.raises(ConfigError) as caught:
        env_secrets.of_config({"layer": {"kwargs": {"token": "${oc.env:${name}}"}}})
    reason = "the variable must be named, to be kept out of files"
    assert str(caught.value) == f"layer.kwargs.token=${{oc.env:${{name}}}}: {reason}.\n  Try: ${{oc.env:NAME}}"
