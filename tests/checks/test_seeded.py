"""Check 6, `seeded`: random leaves come from the key that init is given, and stacked layers start different."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded_layers as layers
from flax.nnx import bridge

import runner
from runner.checks.probes.randomness import equal_slices, looks_random
from runner.commands import main
from runner.records.record import Verdict

X = jnp.ones((4, 8))
DEAF = [
    layers.OwnSeed,
    layers.ReplacedRngs,
    layers.ignored_rngs,
    layers.SeededNumpy,
    layers.SeededBias,
    layers.SeededBrain,
    layers.SeededShort,
    layers.SeededSigns,
    layers.SeededSparse,
    layers.SeededRandom,
    layers.ClosedKey,
    layers.ClosedArray,
    layers.ClassArray,
    layers.DefaultArray,
    layers.CachedArray,
    layers.SeededBits,
    layers.PartDeaf,
    layers.DeafInStack,
]
LIVE = [
    layers.Product,
    layers.SplitStack,
    layers.SeedFallback,
    layers.Identity,
    layers.Cosines,
    layers.Positions,
    layers.Grid,
    layers.SeededOrder,
    layers.ScatteredBuffer,
    layers.Shuffled,
    layers.OwnExperts,
]
FORMULAS = [layers.Chirp, layers.Scattered, layers.ScatteredBeside]


def seeded(layer):
    model = layer if hasattr(layer, "scope") else bridge.to_linen(layer, skip_rng=layer is layers.OwnSeed)
    (check,) = runner.check(model, X, only="seeded")
    return check


@pytest.mark.sampled
@pytest.mark.parametrize("layer", DEAF)
def test_deaf_layer_fails(layer):
    check = seeded(layer)
    assert check.verdict is Verdict.fail
    assert "not depend on the seed" in check.detail


@pytest.mark.sampled
@pytest.mark.parametrize("layer", LIVE)
def test_healthy_layer_passes(layer):
    assert seeded(layer).verdict is Verdict.passed


@pytest.mark.sampled
@pytest.mark.parametrize("layer", FORMULAS)
def test_irregular_formula_only_warns(layer):
    check = seeded(layer)
    assert check.verdict is Verdict.warn
    assert " looks random and is the same for every seed, though no generator is seen: right only " in check.detail


@pytest.mark.slow
def test_deaf_leaves_alone_are_named():
    assert seeded(layers.PartDeaf).evidence["deaf"] == ["params/deaf"]
    assert seeded(layers.SeededBias).evidence["deaf"] == ["params/b"]
    assert seeded(layers.DeafInStack).evidence["deaf"] == ["params/scales"]


def test_invented_key_is_located():
    detail = seeded(layers.PartDeaf).detail
    assert detail.startswith("params/deaf does not depend on the seed: init makes its random values without the key")
    assert "(seeded_layers.py:" in detail
    assert " in PartDeaf.make), so every seed starts from the same ones" in detail


def test_draw_at_import_is_located():
    detail = seeded(layers.ClosedArray).detail
    assert "(seeded_layers.py:" in detail
    assert ": WEIGHT = np.random.default_rng(5).normal(size=(8, 8)).astype(np.float32))" in detail


def test_fixed_random_features_only_warn():
    check = seeded(layers.FixedFeatures)
    assert check.verdict is Verdict.warn
    assert check.detail == "Variable/projection is random and the same for every seed"


def test_constants_are_counted():
    assert seeded(layers.Identity).detail == "init draws nothing: no leaf is random"
    assert seeded(layers.SplitStack).detail == ("1 of 2 leaves depend on the key that init is given, 1 is a constant")


def test_stack_from_one_key_fails():
    check = seeded(layers.UnsplitStack)
    assert check.verdict is Verdict.fail
    assert "params/layers/kernel is the same 4 times along axis 0" in check.detail
    assert "split_rngs" in check.fix


@pytest.mark.parametrize("name", ["OneKeyStack", "UnsplitFusedStack"])
def test_a_stack_of_equal_draws_fails_though_its_code_copies_something(name):
    check = seeded(getattr(layers, name))
    assert check.verdict is Verdict.fail
    assert "params/layers/kernel is the same 4 times along axis 0" in check.detail


@pytest.mark.parametrize(
    ("name", "function"),
    [("UpcycledExperts", "tile"), ("StackedExperts", "stack"), ("BroadcastExperts", "broadcast_to")],
)
def test_weights_that_the_code_copies_get_a_warning(name, function):
    check = seeded(getattr(layers, name))
    assert (check.verdict, check.detail) == (
        Verdict.warn,
        f"params/kernel is the same 4 times along axis 0, by jnp.{function}: right where something tells them apart, "
        "as a router does",
    )


def test_pairs_of_equal_layers_fail():
    check = seeded(layers.PairedStack)
    assert check.verdict is Verdict.fail
    assert "params/layers/kernel is the same at 0, 1 and 2, 3 of axis 0" in check.detail


def test_copied_experts_fail():
    check = seeded(layers.CopiedExperts)
    assert (check.verdict, check.detail) == (
        Verdict.fail,
        "params/experts/0/kernel, params/experts/1/kernel start equal: they are copies of one module",
    )


def test_a_copy_by_another_name_warns():
    check = seeded(layers.CopiedTarget)
    assert check.verdict is Verdict.warn
    assert check.detail == (
        "params/online/kernel, params/target/kernel start equal: "
        "right only where one is meant to start as a copy of the other"
    )


def test_given_variables_are_not_drawn():
    model = bridge.to_linen(layers.PartDeaf)
    variables = model.init(jax.random.key(0), X)
    (check,) = runner.check(model, X, variables=variables, only="seeded")
    assert (check.verdict, check.detail) == (Verdict.passed, "the variables are given: init draws none of them")


@pytest.mark.slow
def test_host_that_does_not_split_fails(capsys):
    def checked(host):
        words = ["check", "layer=linear", "input_shape=[4,8]", f"host.target=seeded_layers.{host}"]
        code = main.main(words)
        return code, capsys.readouterr().out

    code, out = checked("Unsplit")
    assert code == 1
    assert "kernel is the same 3 times along axis 0" in " ".join(out.split())
    assert checked("Scan")[0] == 0


def sweep_of(capsys, tmp_path, *words):
    common = ["-m", "seed=0,1", "layer=custom", "input_shape=[4,8]", f"output_root={tmp_path}", "tracking=disabled"]
    code = main.main([*common, *words])
    out, err = capsys.readouterr()
    return code, out + err


@pytest.mark.slow
def test_strict_sweep_refuses_a_deaf_layer(capsys, tmp_path):
    code, said = sweep_of(capsys, tmp_path, "layer.target=seeded_layers.OwnSeed")
    assert code == 1
    assert "check: seeded: params/linear/kernel does not depend on the seed" in said


@pytest.mark.slow
def test_suggested_binding_is_accepted(capsys, tmp_path):
    assert "'layer.kwargs.seed=${seed}'" in str(seeded_by_command(capsys))
    code, said = sweep_of(capsys, tmp_path, "layer.target=seeded_layers.OwnSeed", "layer.kwargs.seed=${seed}")
    assert (code, "2 of 2 runs done" in said) == (0, True)


@pytest.mark.slow
def test_a_literal_seed_is_no_binding(capsys, tmp_path):
    code, _ = sweep_of(capsys, tmp_path, "layer.target=seeded_layers.OwnSeed", "layer.kwargs.seed=0")
    assert code == 1


def seeded_by_command(capsys):
    main.main(["check", "layer=custom", "layer.target=seeded_layers.OwnSeed", "input_shape=[4,8]", "--json"])
    return capsys.readouterr().out


TABLES = {
    "identity": np.eye(8),
    "cosines": np.cos(np.pi / 8 * (np.arange(8)[:, None] + 0.5) * np.arange(8)),
    "positions": np.sin(np.arange(16)[:, None] / 10000 ** (np.arange(8) / 8)),
    "grid": np.tile(np.linspace(-1, 1, 12), (5, 1)),
    "window": np.hanning(16),
    "slopes": -np.abs(np.arange(8)[:, None] - np.arange(8)) * 0.5,
    "roots": np.exp(2j * np.pi * np.outer(np.arange(8), np.arange(8)) / 8),
    "short": np.array([0.3, -1.2, 0.7]),
    "whole": np.arange(64),
    "written": layers.WRITTEN,
    "means": np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225], [0.1, 0.2, 0.3]], np.float32),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_do_not_look_random(name):
    assert not looks_random(TABLES[name])


@pytest.mark.parametrize("shape", [(16,), (8, 8), (2, 8), (3, 3, 4, 8)])
@pytest.mark.parametrize("kind", ["normal", "uniform", "complex"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_draws_look_random(shape, kind, dtype):
    generator = np.random.default_rng(0)
    drawn = generator.uniform(size=shape) if kind == "uniform" else generator.normal(size=shape)
    drawn = drawn.astype(dtype)
    assert looks_random(drawn if kind != "complex" else drawn + 1j * generator.normal(size=shape).astype(dtype))


def test_draws_of_few_bits_look_random():
    drawn = np.random.default_rng(0).normal(size=(64, 64))
    assert all(looks_random(np.asarray(jnp.asarray(drawn, dtype))) for dtype in (jnp.bfloat16, jnp.float16))


def test_equal_slices_names_the_axis():
    row = np.random.default_rng(0).normal(size=(1, 5, 3))
    assert equal_slices(np.repeat(row, 4, axis=0)) == 0
    assert equal_slices(np.random.default_rng(0).normal(size=(4, 5))) is None
    assert equal_slices(np.moveaxis(np.repeat(row, 4, axis=0), 0, 2)) == 2
    assert equal_slices(np.ones((4, 5))) is None
    assert equal_slices(np.repeat(np.array([[1, 2, 3]]), 4, axis=0)) is None


@pytest.mark.slow
def test_seeds_of_one_output_are_named(capsys, tmp_path):
    words = ["-m", "seed=0,1,2", f"output_root={tmp_path}", "tracking=disabled", "timing=off"]
    main.main([*words, "layer=layer_norm", "input_shape=[8,4],[8,8]"])
    assert (
        "  one output  seeds 0, 1, 2 give the same, in 2 of 2 configs: "
        "nothing that the output depends on comes from the seed\n"
    ) in capsys.readouterr().out
    main.main([*words, "layer=linear"])
    assert "one output" not in capsys.readouterr().out
