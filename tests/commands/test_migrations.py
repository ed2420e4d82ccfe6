"""`diff` on many migrations: right names and moves, exit 0 only for a right one whose tree is the same."""

from __future__ import annotations

import json
import os
import re

import flax
import jax
import jax.numpy as jnp
import migrated_layers
import numpy as np
import orbax.checkpoint as ocp
import pytest

from runner.commands import main

SHAPE = (2, 4, 8)
INPUT = ("--input", "[2,4,8]")


def model(text: str):
    return eval(f"migrated_layers.{text}")


def saved(text: str, place: str):
    """Saves the variables of a net, as a pipeline does; the folder is below the working directory."""
    call = {"deterministic": True} if text.startswith("Drop") else {}
    variables = model(text).init(jax.random.key(0), jnp.ones(SHAPE), **call)
    ocp.PyTreeCheckpointer().save(os.path.abspath(place), variables)
    return variables


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def command(old: str, new: str, *words: str) -> tuple[int, str, str]:
        code = main.main(["diff", f"migrated_layers:{old}", f"migrated_layers:{new}", *INPUT, *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def last(out: str) -> str:
    return out.splitlines()[-1]


PROVED = "the new one gives the old output bit for bit (x float32[2,4,8])"


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Setup()", "Setup(new=True)"),
        ("Kernel()", "Kernel('right')"),
        ("ZeroHead()", "ZeroHead(factor=1.0)"),
        ("Attention()", "Attention(new=True)"),
        ("Norm()", "Norm(momentum=0.99)"),
        ("OwnNorm()", "OwnNorm(momentum=0.99)"),
        ("Drop()", "Drop(rate=0.5)"),
        ("Clipped()", "Clipped(new=True)"),
        ("Critic()", "Critic(new=True)"),
        ("Scaled()", "Scaled(new=True)"),
        ("Boxed()", "Boxed('kept')"),
        ("Boxed('none')", "Boxed('plain')"),
        ("Learns()", "Learns('right')"),
        ("Complex()", "Complex('right')"),
        ("Sows()", "Sows('right')"),
    ],
)
def test_a_right_migration_is_proved(run, old, new):
    saved(old, "old")
    code, out, err = run(f"{old}@old", new)
    assert (code, last(out), err) == (0, f"proof: on the old variables {PROVED}", "")


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Kernel()", "Kernel('transposed')", r"proof: the new one does NOT give the old output: .*, on the old var"),
        ("Attention()", "Attention(new=True, reordered=True)", r"proof: the new one does NOT give the old output"),
        ("Norm()", "Norm(momentum=0.9)",
         r"proof: .* NOT give the old updates: it differs in batch_stats/norm/mean .*, train mode\)$"),
        ("OwnNorm()", "OwnNorm(momentum=0.9)",
         r"proof: .* NOT give the old updates: it differs in batch_stats/net/norm/mean .*, train mode\)$"),
        ("Drop()", "Drop(rate=0.4)", r"proof: the new one does NOT give the old output: .*, train mode\)$"),
        ("Clipped()", "Clipped(new=True, clip=False)", r"proof: .* NOT give the old output: .*, on random var"),
        ("ZeroHead()", "ZeroHead(factor=7.0)",
         r"no proof: the output does not depend on mlp/down/bias, .* with the old variables, and the new one does NOT"),
        ("Unused()", "Unused(new=True)", r"no proof: the output does not depend on aside/bias, aside/kernel$"),
        ("Learns()", "Learns('stopped')",
         r"proof: .* output, but NOT the old gradients: that of params/net/lin/kernel is zero \("),
        ("Learns()", "Learns('stopped before')",
         r"proof: .* output, but NOT the old gradients: that of input is zero, that of params/Dense_0/bias is zero, "
         r"that of params/Dense_0/kernel is zero \("),
        ("Complex()", "Complex('stopped')", r"proof: .* output, but NOT the old gradients: that of input differs by "),
        ("Sows()", "Sows('twice')", r"proof: .* NOT give the old updates: it differs in losses/l2/1 by "),
        ("Sows()", "Sows('stopped')", r"proof: .* output, but NOT the old gradients: that of input differs by "),
    ],
)  # fmt: skip
def test_a_wrong_migration_gets_no_proof(run, old, new, said):
    saved(old, "old")
    code, out, err = run(f"{old}@old", new)
    assert (code, err) == (1, "")
    assert re.search(f"^{said}", last(out))


@pytest.mark.parametrize(
    ("old", "dtype", "right", "wrong"),
    [("Complex()", "complex64", "right", "real input"), ("Picked()", "bool", "", "all")],
)
def test_inputs_vary_in_every_dtype(run, old, dtype, right, wrong):
    saved(old, "old")
    new = old.removesuffix(")")
    assert run(f"{old}@old", f"{new}{right!r})", "--input-dtype", dtype)[0] == 0
    code, out, _ = run(f"{old}@old", f"{new}{wrong!r})", "--input-dtype", dtype)
    assert (code, f"(x {dtype}[2,4,8], on the old variables)" in last(out)) == (1, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "num"), [("TwoKinds()", "TwoKinds(new=True", 4), ("ThreeAtOnce()", "ThreeAtOnce(new=True", 7)]
)
def test_followed_names_give_the_old_bits(run, old, new, num):
    variables = saved(old, "old")
    code, out, _ = run(f"{old}@old", f"{new})")
    assert (code, last(out)) == (1, f"proof: on the old variables, renamed so, {PROVED}")
    found = dict(re.findall(r"^  (\w+) +name='(\w+)'$", out, flags=re.MULTILINE))
    order = {4: ["ToLinen_0", "ToLinen_1", "Dense_0", "LayerNorm_0"]}.get(
        num, ["Dense_0", "ToLinen_0", "ToLinen_1", "Dense_1", "LayerNorm_0", "ToLinen_2", "Dense_2"]
    )
    named = f"{new}, names={tuple(found.get(name) for name in order)!r})"
    code, out, _ = run(f"{old}@old", named)
    assert (code, last(out)) == (0, f"proof: on the old variables {PROVED}")
    x = jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE), jnp.float32)
    assert (model(named).apply(variables, x) == model(old).apply(variables, x)).all()


@pytest.mark.slow
def test_wrong_names_are_corrected(run):
    saved("TwoKinds()", "old")
    code, out, _ = run("TwoKinds()@old", "TwoKinds(new=True, names=('LayerNorm_1', 'Dense_1', None, None))")
    assert code == 1
    assert "The names give modules the variables of one another. Give these names in the new host:" in out
    found = dict(re.findall(r"^  (\w+) +name='(\w+)'$", out, flags=re.MULTILINE))
    assert found == {
        "LayerNorm_1": "LayerNorm_0",
        "Dense_1": "Dense_0",
        "Dense_0": "Dense_1",
        "LayerNorm_0": "LayerNorm_1",
    }


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("old", "new", "moves"),
    [
        ("Flat()", "WholeNet()", ["params/*  → params/net/*  (4 leaves)"]),
        ("Flat()", "TwoDeeper()", ["params/*  → params/net/core/*  (4 leaves)"]),
        ("Nested()", "Flat()", ["params/net/*  → params/*  (4 leaves)"]),
        ("Wraps()", "Wraps(new=True)", ["params/Dense_1/*       → params/ToLinen_0/lin/*  (2 leaves)"]),
        ("Scanned()", "Scanned(new=True)",
         ["  ScanBlock_0/ToLinen_0  name='Dense_1'\n  ScanBlock_0/Dense_1    name='Dense_2'"]),
        ("Straight()", "Split()", ["params/Dense_1/*       → params/encoder/ToLinen_0/*     (2 leaves)"]),
        ("Straight()", "Fused()", ["params/Dense_2/*       → params/ToLinen_0/down/*  (2 leaves)",
                                   "params/Dense_1/*       → params/ToLinen_0/up/*    (2 leaves)"]),
        ("Setup()", "SetupRenamed()", ["  enter  self.first = …"]),
        ("Setup()", "SetupSwapped()", ["  second  self.first = …\n  first   self.second = …"]),
    ],
)  # fmt: skip
def test_what_moved_is_written_by_apply(run, old, new, moves):
    variables = saved(old, "old")
    code, out, err = run(f"{old}@old", new, "--apply")
    assert (code, err, out.splitlines()[-2:]) == (
        1, "", [f"proof: on the old variables, renamed so, {PROVED}", "written: old-renamed"]
    )  # fmt: skip
    assert [move for move in moves if move not in out] == []
    renamed = ocp.PyTreeCheckpointer().restore(os.path.abspath("old-renamed"))
    x = jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE), jnp.float32)
    assert (model(new).apply(renamed, x) == model(old).apply(variables, x)).all()


@pytest.mark.slow
def test_wrappers_need_names_and_a_move(run):
    saved("Wraps()", "old")
    _, out, _ = run("Wraps()@old", "Wraps(new=True)")
    assert "With these names, this is left: params/Dense_1/* → params/Dense_1/lin/*\n" in out
    code, out, _ = run("Wraps()@old", "Wraps(new=True, names=('Dense_1', 'Dense_2'))", "--apply")
    assert (code, last(out), "4 same, 2 moved" in out) == (1, "written: old-renamed", True)
    assert re.search(r"^moved  params/Dense_1/\*  +→ params/Dense_1/lin/\*  +\(2 leaves\)$", out, flags=re.MULTILINE)


def test_a_wrong_model_is_not_written(run, tmp_path):
    saved("Kernel()", "old")
    code, out, _ = run("Kernel()@old", "Kernel('transposed')", "--apply")
    assert (code, last(out)) == (1, "not written: the new model would give something else")
    saved("Flat()", "flat")
    code, out, _ = run("Flat()@flat", "Setup(new=True)", "--apply")
    assert (code, last(out)[:12]) == (1, "not written:")
    assert not list(tmp_path.glob("*-renamed"))


def test_a_converted_checkpoint_is_tried_itself(run):
    variables = saved("Setup()", "old")
    ocp.PyTreeCheckpointer().save(os.path.abspath("right"), variables)
    swapped = {"params": {"first": variables["params"]["second"], "second": variables["params"]["first"]}}
    ocp.PyTreeCheckpointer().save(os.path.abspath("swapped"), swapped)
    assert run("Setup()@old", "Setup(new=True)@right")[0] == 0
    code, out, _ = run("Setup()@old", "Setup(new=True)@swapped")
    assert code == 1
    assert "NOT give the old output" in last(out)
    assert last(out).endswith("on its own variables)")


def test_models_without_a_checkpoint_are_proved(run):
    code, out, _ = run("Setup()", "Setup(new=True)")
    assert (code, last(out)) == (0, f"proof: on random variables {PROVED}")
    assert run("Kernel()", "Kernel('transposed')")[0] == 1


def test_both_modes_are_said(run):
    saved("Norm()", "old")
    _, out, _ = run("Norm()@old", "Norm(momentum=0.99)")
    assert out.splitlines()[-2] == (
        "tried: the old variables, random ones at 4 scales, each replaced leaf changed, updated collections, "
        "gradients, train and eval mode"
    )


def test_moves_are_data_in_json(run):
    saved("Flat()", "old")
    code, out, _ = run("Flat()@old", "WholeNet()", "--json")
    assert (code, json.loads(out)["moves"]) == (1, [{"old": "params", "new": "params/net", "num_leaves": 4}])


BOXED = """\
params/dense/kernel/value: 1 leaf in another box. Restored into a target of
  NNXMeta               restore(item=…): yes, StandardCheckpointer: yes, from_bytes: yes
  LogicallyPartitioned  restore(item=…): yes, StandardCheckpointer: yes, from_bytes: yes
  Partitioned           restore(item=…): yes, StandardCheckpointer: yes, from_bytes: yes
  plain arrays          restore(item=…): no, StandardCheckpointer: no, from_bytes: no
The box that restores it: LogicallyPartitioned or NNXMeta or Partitioned
Write it as the new model's init wants it: the same command with --apply
or keep the old box: bridge.to_linen(…, metadata_fn=lambda v: nn.LogicallyPartitioned(v.get_value(), \
v.get_metadata()['out_sharding']) if v.get_metadata().get('out_sharding') else v.get_value())
"""


def test_another_box_is_a_difference(run):
    saved("Boxed()", "old")
    code, out, _ = run("Boxed()@old", "Boxed('nnx')")
    assert code == 1
    assert "boxed  params/dense/kernel    float32[8,8] in LogicallyPartitioned, wanted NNXMeta\n" in out
    assert BOXED in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "box"),
    [
        ("Boxed()", "Boxed('none')", "LogicallyPartitioned or Partitioned"),
        ("Boxed('none')", "Boxed('nnx')", "plain arrays"),
    ],
)
def test_apply_converts_boxes_on_one_side(run, old, new, box):
    saved(old, "old")
    code, out, _ = run(f"{old}@old", new, "--apply")
    assert (code, last(out)) == (1, "written: old-renamed")
    assert f"\nThe box that restores it: {box}\n" in out
    code, out, _ = run(f"{new}@old-renamed", new)
    assert (code, "4 same" in out) == (0, True)


@pytest.mark.parametrize(("new", "code"), [("Boxed('kept')", 0), ("Boxed('nnx')", 1)])
def test_a_box_that_was_taken_off(run, new, code):
    variables = model("Boxed()").init(jax.random.key(0), jnp.ones(SHAPE))
    ocp.PyTreeCheckpointer().save(os.path.abspath("old"), flax.core.meta.unbox(variables))
    assert run("Boxed()@old", new)[0] == code


def test_printed_metadata_fn_works(run):
    from flax import linen as nn

    saved("Boxed()", "old")
    _, out, _ = run("Boxed()@old", "Boxed('nnx')")
    printed = re.search(r"metadata_fn=(lambda v: .*)\)$", out, flags=re.MULTILINE)
    given = migrated_layers.logical
    migrated_layers.logical = eval(printed[1], {"nn": nn})
    try:
        assert run("Boxed()@old", "Boxed('kept')")[0] == 0
    finally:
        migrated_layers.logical = given


def test_parameters_named_value_are_not_boxes(run):
    saved("Scaled()", "old")
    _, out, _ = run("Scaled()@old", "Scaled(new=True)")
    assert "same  params/scale/value    float32[8]" in out


def test_mismatched_checkpoints_get_no_proof(run):
    saved("Flat()", "old")
    code, out, _ = run("Setup()@old", "Setup(new=True)")
    assert (code, last(out)) == (
        1,
        "proof: none: migrated_layers:Setup()@old does not fit its own model: params/first/bias is missing, "
        "params/first/kernel is missing, params/second/bias is missing and 1 more",
    )


def test_far_clips_are_seen(run):
    saved("ClippedFar()", "old")
    assert run("ClippedFar()@old", "ClippedFar(new=True)")[0] == 0
    code, out, _ = run("ClippedFar()@old", "ClippedFar(new=True, limit=60.0)")
    assert (code, "NOT give the old output" in last(out), "on random variables" in last(out)) == (1, True, True)


def test_every_embedded_integer_is_tried(run):
    saved("Table()", "old")
    assert run("Table()@old", "Table(last=49)", "--input-dtype", "int32")[0] == 0
    code, out, _ = run("Table()@old", "Table(last=1)", "--input-dtype", "int32")
    assert (code, "NOT give the old output" in last(out), "on random variables" in last(out)) == (1, True, True)


@pytest.mark.parametrize("where", ["next to params", "around variables"])
def test_what_apply_leaves_out_is_named(run, where):
    variables = model("Flat()").init(jax.random.key(0), jnp.ones(SHAPE))
    tree = variables if where == "next to params" else {"params": variables}
    ocp.PyTreeCheckpointer().save(
        os.path.abspath("old"), {**tree, "opt_state": {"mu": jnp.ones(3)}, "step": jnp.ones(())}
    )
    _, out, _ = run("Flat()@old", "WholeNet()", "--apply")
    assert last(out) == "written: old-renamed, without opt_state, step"


def save_only(text: str, place: str, *collections: str):
    variables = model(text).init(jax.random.key(0), jnp.ones(SHAPE))
    kept = {key: tree for key, tree in variables.items() if key in collections}
    ocp.PyTreeCheckpointer().save(os.path.abspath(place), kept)


def test_what_init_only_sows_may_be_missing(run):
    save_only("SowsNorm()", "old", "params", "batch_stats")
    code, out, _ = run("SowsNorm()@old", "SowsNorm('right')")
    assert (code, last(out), "losses" in out) == (0, f"proof: on the old variables {PROVED}", False)
    code, out, _ = run("SowsNorm()@old", "SowsNorm('twice')")
    assert (code, "NOT give the old updates: it differs in losses/rest/l2/0 by " in last(out)) == (1, True)


@pytest.mark.parametrize("norm", ["linen", "nnx"])
def test_statistics_that_apply_reads_must_be_saved(run, norm):
    save_only(f"SowsNorm(norm='{norm}')", "old", "params")
    code, out, _ = run(f"SowsNorm(norm='{norm}')@old", f"SowsNorm('right', norm='{norm}')")
    lacking = "batch_stats/norm/mean is missing, batch_stats/norm/var is missing"
    assert (code, last(out).endswith(f"does not fit its own model: {lacking}")) == (1, True)


@pytest.mark.slow
def test_many_leaves_change_together(run):
    saved("Many()", "old")
    code, out, _ = run("Many()@old", "Many(70)")
    assert (code, "replaced leaves changed 2 at a time" in " ".join(out.split())) == (0, True)
    assert run("Many()@old", "Many(69)")[0] == 1
