"""`bridge-runner check` as it is typed: a table, what fixes a fail, and an exit code, whatever the config does."""

from __future__ import annotations

import json
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from runner.arrays import checkpoint
from runner.checks import registry
from runner.commands import main
from runner.report import table

HERE = __name__


class Old(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        x = nn.Dense(4)(x)
        return nn.Dense(2)(x)


class New(nn.Module):
    """`Old` with a layer in the place of its second Dense; nobody gave the last one its name."""

    layer: object

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        x = self.layer()(x)
        return nn.Dense(2)(x)


WORDS = (f"host.target={HERE}.New", "input_shape=[3,4]", "features=4", "variables=old")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the checkpoint of an old pipeline."""
    monkeypatch.chdir(tmp_path)
    variables = Old().init(jax.random.PRNGKey(0), jnp.ones((3, 4)))
    checkpoint.save(jax.tree.map(np.asarray, variables), tmp_path / "old")
    return tmp_path


@pytest.mark.slow
def test_uncompilable_configs_are_still_checked(here, capsys):
    assert main.main(["check", "--json", *WORDS, "host.layer_name=null"]) == 1
    (checked,) = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in checked["checks"]}
    assert checks["complete"]["verdict"] == "fail"
    assert checks["complete"]["fix"].splitlines()[1:3] == [
        "bridge.to_linen(…, name='Dense_1')  # what is ToLinen_0",
        "# here: host.layer_name=Dense_1",
    ]
    assert checks["streams"]["detail"] == "could not be tested: as nothing_invented"
    assert checked["error"].startswith('For parameter "kernel" in "/Dense_1", the given initializer is expected')
    assert not (here / "outputs").exists()


@pytest.mark.slow
def test_crashing_checks_do_not_pass(here, capsys, monkeypatch):
    def broken(subject, *, full):
        raise KeyError("num_consts")

    words = ["layer=linear", "features=4", "input_shape=[3,4]"]
    monkeypatch.setitem(registry.TRACED, "streams", broken)
    assert main.main(["check", "--json", *words]) == 1
    (checked,) = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in checked["checks"] if check["untested"]] == ["streams"]
    assert "fail" not in [check["verdict"] for check in checked["checks"]]
    lean = ["timing=off", "tracking=disabled", "sweep=s"]
    assert main.main([*words, *lean]) == 1
    assert "streams: could not be tested: KeyError: 'num_consts'" in capsys.readouterr().err
    assert main.main([*words, *lean[:2], "sweep=t", "checks=warn"]) == 0


@pytest.mark.slow
def test_uncompilable_runs_keep_their_checks(here, capsys):
    lean = ["checks=warn", "timing=off", "tracking=disabled", "sweep=s"]
    assert main.main([*WORDS, "host.layer_name=null", *lean]) == 1
    capsys.readouterr()
    assert main.main(["show", "outputs/s/0"]) == 0
    assert "            # here: host.layer_name=Dense_1\n" in capsys.readouterr().out
    assert main.main(["rerun", "outputs/s/0", "--trust"]) == 0
    assert ": failed again (0 arrays compared)\n" in capsys.readouterr().out


def test_traced_checks_compare_nothing_eager(capsys):
    # With a warning, which is no fail.
    assert main.main(["check", "layer=lora", "train.collections=[LoRAParam]", "--traced", "--json"]) == 0
    (program,) = json.loads(capsys.readouterr().out)
    verdicts = {check["name"]: check["verdict"] for check in program["checks"]}
    assert {"complete", "seeded", "trained"} <= verdicts.keys()
    assert set(verdicts.values()) == {"pass", "warn", "skipped"}
    assert verdicts.keys().isdisjoint({"parity", "lifts", "checkpoint"})
    assert verdicts["eager"] == "skipped"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("state_layers.EatsDefault", "complete fail layer EatsDefault: its constructor makes another module"),
        ("unasked_layers.OneInstance", "11 pass, 1 untested, 1 skipped"),
    ],
)
def test_what_is_no_pass_exits_1(target, said, capsys):
    words = ["layer=custom", f"layer.target={target}", "input_shape=[2,4]", "--traced"]
    assert main.main(["check", *words]) == 1
    assert said in " ".join(capsys.readouterr().out.split())


class Talking(nnx.Module):
    """Says when it is traced; it asks for the time, so the traces that found its needs don't stand for *pure*'s."""

    def __init__(self, in_features, out_features, *, rngs):
        self.linear = nnx.Linear(in_features, out_features, rngs=rngs)

    def __call__(self, x):
        print("traced", flush=True)
        time.time()
        return self.linear(x)


def test_each_check_is_printed_at_once(capfd):
    words = ["layer=custom", f"layer.target={HERE}.Talking", "features=4", "input_shape=[3,4]"]
    assert main.main(["check", *words, "--traced"]) == 0
    lines = capfd.readouterr().out.splitlines()
    head = next(num for num, line in enumerate(lines) if line.startswith("Talking on x float32[3, 4], cpu"))
    names = [line.split()[0] for line in lines[head + 3 :] if line.startswith("  ") and line[2] != " "]
    assert names[:3] == ["complete", "nothing_invented", "streams"]
    first = next(num for num, line in enumerate(lines) if line.startswith("  complete "))
    assert "traced" in lines[first + 1 :]


def test_columns_fit_every_name_of_a_check():
    assert max(map(len, [*registry.TRACED, *registry.FULL])) <= table.CHECK_WIDTH
