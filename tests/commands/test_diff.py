"""`diff`: the case of a layer dropped into a Linen host is solved by following what is printed, and nothing more."""

from __future__ import annotations

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from runner.arrays import checkpoint, readings
from runner.commands import main

NETS = """
import flax.linen as nn
from flax import nnx
from flax.nnx import bridge


class Old(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width)(x))
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(self.width)(x)


class New(nn.Module):
    width: int = 8
    names: tuple = (None, None)

    @nn.compact
    def __call__(self, x, scale=1.0):
        x = nn.relu(nn.Dense(self.width)(x))
        x = nn.relu(bridge.to_linen(nnx.Linear, self.width, self.width, name=self.names[0])(x))
        return scale * nn.Dense(self.width, name=self.names[1])(x)


class Cut(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8)(x))
        cut = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("data", "model"))
        x = nn.relu(bridge.to_linen(nnx.Linear, 8, 8, kernel_init=cut, name="Dense_1")(x))
        return nn.Dense(8, name="Dense_2")(x)


class Deeper(Old):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="last")(super().__call__(x))


class Shallow(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(nn.relu(nn.Dense(8)(x)))


class Reversed(New):
    @nn.compact
    def __call__(self, x):
        return super().__call__(x)[..., ::-1]
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a user's module and a checkpoint of the old net, saved as the flax guides do."""
    folder = tmp_path_factory.mktemp("migration")
    (folder / "diffed_nets.py").write_text(NETS)
    sys.path.insert(0, str(folder))
    import diffed_nets

    variables = diffed_nets.Old().init(jax.random.key(0), jnp.ones((2, 8)))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "old", variables)
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def run(here, monkeypatch, capsys):
    """The command line, in that folder."""
    monkeypatch.chdir(here)

    def command(*words: str) -> tuple[int, str, str]:
        code = main.main(["diff", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


INPUT = ("--input", "[2,8]")

SOLVED = """\
old  diffed_nets:Old()@old
new  diffed_nets:New()

same   params/Dense_0/bias                               float32[8]
same   params/Dense_0/kernel                             float32[8,8]
moved  params/Dense_2/bias    → params/Dense_1/bias      float32[8]
moved  params/Dense_2/kernel  → params/Dense_1/kernel    float32[8,8]
moved  params/Dense_1/bias    → params/ToLinen_0/bias    float32[8]
moved  params/Dense_1/kernel  → params/ToLinen_0/kernel  float32[8,8]
2 same, 4 moved

A module without a name is renumbered, so its variables moved. Give these names in the new host:
  ToLinen_0  name='Dense_1'
  Dense_1    name='Dense_2'
or rename the old checkpoint: the same command with --apply

tried: the old variables, random ones at 4 scales, each replaced leaf changed, gradients
proof: on the old variables, renamed so, the new one gives the old output bit for bit (x float32[2,8])
"""


def test_renamed_neighbours_are_found_and_proved(run):
    assert run("diffed_nets:Old()@old", "diffed_nets:New()", *INPUT) == (1, SOLVED, "")


def test_printed_names_fix_the_migration(run):
    _, out, _ = run("diffed_nets:Old()@old", "diffed_nets:New()", *INPUT)
    names = dict(re.findall(r"  (\w+) +name='(\w+)'", out))
    code, out, _ = run(
        "diffed_nets:Old()@old", f"diffed_nets:New(names=('{names['ToLinen_0']}', '{names['Dense_1']}'))", *INPUT
    )
    assert code == 0
    assert out.endswith("proof: on the old variables the new one gives the old output bit for bit (x float32[2,8])\n")


@pytest.mark.slow
def test_apply_writes_a_renamed_checkpoint(run, here):
    code, out, _ = run("diffed_nets:Old()@old", "diffed_nets:New()", *INPUT, "--apply")
    assert (code, out.splitlines()[-1]) == (1, "written: old-renamed")
    import diffed_nets

    renamed = ocp.PyTreeCheckpointer().restore(here / "old-renamed")
    old = checkpoint.restore(here / "old")
    x = jax.random.normal(jax.random.key(1), (2, 8))
    assert (diffed_nets.New().apply(renamed, x) == diffed_nets.Old().apply(old, x)).all()
    code, _, err = run("diffed_nets:Old()@old", "diffed_nets:New()", *INPUT, "--apply")
    assert (code, err) == (2, "error: old-renamed is there already.\n  Try: rm -r old-renamed\n")
    code, out, _ = run("old-renamed", "diffed_nets:New()", *INPUT)
    assert (code, "6 same" in out) == (1, True)
    assert out.endswith("proof: none without the old host: type pkg.mod:OldHost(…)@CHECKPOINT as the old one\n")
    assert run("diffed_nets:New()@old-renamed", "diffed_nets:New()", *INPUT)[0] == 0


@pytest.mark.slow
def test_apply_leaves_the_run_folder_alone(run, here):
    words = ["host=mlp", "host.layer_name=null", "input_shape=[2,4]", "output_root=renamed", "sweep=s", "checks=off"]
    assert main.main([*words, "tracking=disabled", "timing=off"]) == 0
    (path,) = (here / "renamed" / "s" / "runs").iterdir()
    code, out, _ = run(str(path), "host=mlp host.layer_name=Dense_1 input_shape=[2,4]", "--apply")
    place = here / "renamed" / "s" / "exports" / f"{path.name}-renamed"
    assert (code, out.splitlines()[-1]) == (1, f"written: {place}")
    assert main.main(["verify", str(path)]) == 0
    assert sorted(checkpoint.restore(place)["params"]) == ["Dense_0", "Dense_1", "Dense_2"]


def test_differing_hosts_get_no_proof(run):
    code, out, _ = run("diffed_nets:Old()@old", "diffed_nets:Reversed()", *INPUT)
    assert code == 1
    assert "\nproof: the new one does NOT give the old output: it differs in output by " in out


def test_equal_trees_differ_without_a_proof(run):
    code, out, _ = run("old", "old")
    assert (code, "\n6 same\n" in out, "\nproof: none without " in out) == (1, True, True), out


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("Deeper()", "proof: none while 2 leaves are missing or of another kind"),
        ("Shallow()", "proof: the new one does NOT give the old output: it differs in output by"),
    ],
)
def test_proofs_need_every_new_leaf(run, host, said):
    code, out, _ = run("diffed_nets:Old()@old", f"diffed_nets:{host}", *INPUT)
    assert (code, out.splitlines()[-1].startswith(said)) == (1, True), out


def test_json_reports_names_and_proof(run):
    code, out, _ = run("diffed_nets:Old()@old", "diffed_nets:New()", *INPUT, "--json")
    found = json.loads(out)
    assert (code, found["names"], found["proof"]["same_bits"]) == (
        1,
        {"Dense_1": "Dense_2", "ToLinen_0": "Dense_1"},
        True,
    )


@pytest.mark.slow
def test_runs_compare_with_configs(run, here):
    words = ["layer=mlp", "features=8", "output_root=runs", "sweep=s", "tracking=disabled", "timing=off"]
    assert main.main(words) == 0
    (path,) = (here / "runs" / "s" / "runs").iterdir()
    code, out, _ = run(str(path), "layer=mlp features=8")
    assert (code, "4 same" in out) == (0, True)
    assert out.endswith(run("runs/s/0", "layer=mlp features=8")[1].partition("\n")[2])
    code, out, _ = run(str(path), "layer=mlp features=16")
    assert code == 1
    assert "reshaped  params/linear_1/bias      → " not in out
    assert re.search(r"reshaped  params/linear_1/bias +float32\[8\], wanted float32\[16\]", out)
    assert out.endswith("proof: none while 2 leaves are missing or of another kind\n")


def test_axis_names_need_no_mesh(run):
    code, out, _ = run("diffed_nets:Old()@old", "diffed_nets:Cut()", *INPUT)
    assert "boxed  params/Dense_1/kernel    float32[8,8] in no box, wanted NNXMeta" in out
    assert (code, out.splitlines()[-1]) == (
        1,
        "proof: on the old variables the new one gives the old output bit for bit (x float32[2,8])",
    )


@pytest.mark.slow
def test_mesh_runs_compare_with_configs(run, here):
    words = ("mesh.axes={model:1}", "layer.kwargs.kernel_metadata={out_sharding:[null,model]}", "input_shape=[2,4]")
    assert main.main([*words, "output_root=runs", "sweep=on", "tracking=disabled", "timing=off"]) == 0
    (path,) = (here / "runs" / "on" / "runs").iterdir()
    code, out, _ = run(str(path), "layer=linear input_shape=[2,4]")
    assert (code, out.splitlines()[-1]) == (
        0,
        "proof: on the old variables the new one gives the old output bit for bit (x float32[2,4])",
    )


def test_train_states_and_bare_params_work(tmp_path):
    params = {"kernel": np.ones((2, 3), np.float32)}
    for index, tree in enumerate(({"params": params, "opt_state": {"mu": params}, "step": np.array(3)}, params)):
        ocp.PyTreeCheckpointer().save(tmp_path / str(index), tree)
        found = readings.as_variables(checkpoint.restore(tmp_path / str(index)))
        assert jax.tree.map(np.shape, found) == {"params": {"kernel": (2, 3)}}


def test_boxes_are_read_as_their_arrays():
    tree = {"params": {"kernel": {"value": 1}}, "batch_stats": {"mean": 2}}
    assert readings.as_variables(tree) == {"params": {"kernel": 1}, "batch_stats": {"mean": 2}}


USAGE = "bridge-runner diff OLD NEW [--input '[2,8]'] [--input-dtype int32] [--call a=1] [--apply] [--json] [--trust]"
USAGE += " [rules=FILE]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["old"], f"diff: the following arguments are required: SIDE.\n  Try: {USAGE}"),
        (["old", "nowhere"], "nowhere is neither a checkpoint nor a host nor a config.\n  Try: a run, a checkpoint, "
         "pkg.mod:Host(width=8), pkg.mod:Host(width=8)@CHECKPOINT, or layer=mlp"),
        (["old", "diffed_nets:New()"],
         "diffed_nets:New(): the shape of its input is not known.\n  Try: --input '[2,8]'"),
        (["old", "diffed_nets:New()", "--input", "[]"],
         "layer diffed_nets:New() can't take x of shape [] float32: IndexError: tuple index out of range.\n"
         "  Try: another --input, or --call NAME=VALUE"),
        (["old", "diffed_nets:New(open('x'))"], "diffed_nets:New(open('x')) is no host with literal arguments.\n"
         "  Try: pkg.mod:Host(width=8)"),
        (["old", "diffed_nets:nnx"], "diffed_nets:nnx: nnx is no flax.linen.Module.\n  Try: pkg.mod:Host(width=8)"),
        (["old", "diffed_nets:New(depth=3)", *INPUT], None),
        (["old", "diffed_nets:New()", "--input", "8"],
         f"diff: --input takes a shape and --call NAME=LITERAL.\n  Try: {USAGE}"),
        (["old", "diffed_nets:New()", *INPUT, "--input-dtype", "float33"],
         "--input-dtype=float33: no such dtype.\n  Try: --input-dtype float32"),
        (["old", "diffed_nets:New()", *INPUT, "--input-dtype", "str"],
         "--input-dtype=str: no such dtype.\n  Try: --input-dtype float32"),
        (["old", "diffed_nets:New()", "--input", "[-1,8]"],
         "--input=[-1,8]: no such shape.\n  Try: --input '[2,8]'"),
        (["old", "diffed_nets:New()", "--input", "[99999999999,99999]"],
         "--input=[99999999999,99999]: it does not fit in memory.\n  Try: --input '[2,8]'"),
        (["diffed_nets:New()", "old", *INPUT, "--apply"], "diffed_nets:New() has no checkpoint to rename.\n"
         "  Try: diff CHECKPOINT pkg.mod:NewHost(…) --apply"),
        (["old", "layer=mpl"], None),
    ],
)  # fmt: skip
def test_incomparable_inputs_exit_with_2(run, words, said):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert said is None or err == f"error: {said}\n"
