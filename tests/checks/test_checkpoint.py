"""Check 8: what does not come back from an Orbax checkpoint, and the code that fixes it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from common_layers import FEW, QUICK, cases
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge

from runner.arrays import checkpoint
from runner.arrays.checkpoint import CheckpointError
from runner.checks import checkpoint as checkpoint_check
from runner.checks.probes.subject import subject_of
from runner.config.composing.composed import Config
from runner.experiment import execute
from runner.records.record import Verdict
from runner.sweep import validate

LAYERS = cases(QUICK, FEW)
X = jnp.arange(8.0).reshape(2, 4) / 8
RENAMED = "name the attribute or Dict key with letters, digits and _: no dot, slash or backslash"


class Stack(nnx.Module):
    def __init__(self, *, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs)])

    def __call__(self, x):
        return self.layers[0](x)


class Spectral(nnx.Module):
    def __init__(self, *, rngs):
        self.norm = nnx.SpectralNorm(nnx.Linear(4, 4, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.norm(x, update_stats=False)


class Raw(nnx.Module):
    def __init__(self, *, rngs):
        self.scale = nnx.data(jax.random.normal(rngs.params(), (4,)))

    def __call__(self, x):
        return x * self.scale


class Constant(nnx.Module):
    def __init__(self, *, rngs):
        self.scale = jnp.full((4,), 2.0)
        self.bias = nnx.Param(jnp.ones((4,)))

    def __call__(self, x):
        return x * self.scale + self.bias


class Empty(nnx.Module):
    def __init__(self, *, rngs):
        self.extra = nnx.Param(jnp.ones((0, 4)))
        self.scale = nnx.Param(jnp.full((4,), 3.0))

    def __call__(self, x):
        return x * self.scale + self.extra.sum()


class Named(nnx.Module):
    """One param by the name that is given, and one at a/b."""

    def __init__(self, name, *, rngs):
        setattr(self, name, nnx.Param(jnp.full((4,), 2.0)))
        self.a = nnx.Dict(b=nnx.Param(jnp.full((4,), 3.0)))
        self.key = name

    def __call__(self, x):
        return x * getattr(self, self.key) + self.a["b"]


def checked(target, *args, **options):
    return checkpoint_check.check(subject_of(bridge.ToLinen(target, args=args), X, **options), full=True)


def saved(model, folder):
    variables = jax.jit(model.init)(jax.random.key(0), X)
    checkpoint.save(jax.tree.map(np.asarray, variables), folder / "c")
    return variables


def run(code, **names):
    exec(code, {"jax": jax, "jnp": jnp, "nn": nn, "nnx": nnx, "ocp": ocp, "np": np, **names}, names)
    return names


@pytest.mark.sampled
@pytest.mark.parametrize("name", LAYERS)
def test_conf_layers_restore_but_sequential_warns(make_run, name):
    run_ = make_run(f"layer={name}")
    _, drafts = validate.validate([Config(run=run_, overrides=())])
    check = checkpoint_check.check(execute.subject(next(iter(drafts.values())), run_), full=True)
    assert check.verdict is (Verdict.warn if name == "sequential" else Verdict.passed)
    if name not in ("sequential", "dropout"):
        assert check.detail == "the same bits after saving and restoring, with a target and without"
        assert (check.evidence, check.fix) == ({"without_target": "same bits", "with_target": "same bits"}, None)


def test_layers_without_variables_save_nothing():
    check = checkpoint_check.check(subject_of(bridge.to_linen(nnx.Dropout, 0.5), X), full=True)
    assert (check.verdict, check.detail) == (Verdict.passed, "no variables: nothing to save")


def test_bits_lost_with_a_target_alone_fail(monkeypatch):
    def other(path, target):
        return jax.tree.map(lambda leaf: leaf + 1, checkpoint.restore(path))

    monkeypatch.setattr(checkpoint, "restore_like", other)
    check = checked(nnx.Linear, 4, 4)
    assert check.verdict is Verdict.fail
    assert check.detail.startswith("without a target: same bits; with one: params/bias, params/kernel come back")


RAISES = "apply raises KeyError: 0"


@pytest.mark.parametrize(
    ("layer", "plain", "targeted", "verdict"),
    [
        (nnx.Linear, None, None, Verdict.passed),
        (nnx.Linear, RAISES, None, Verdict.fail),
        (nnx.Linear, None, RAISES, Verdict.fail),
        # The keys come back as strings: an error says so, and only other bits are silent.
        (Stack, None, None, Verdict.warn),
        (Stack, RAISES, None, Verdict.warn),
        (Stack, checkpoint_check.OTHER_BITS, None, Verdict.fail),
        (Stack, None, RAISES, Verdict.fail),
    ],
)
def test_silent_or_lasting_trouble_fails(layer, plain, targeted, verdict):
    saved = {"params": {"layers": {0: {"kernel": np.ones((4, 4), np.float32)}}} if layer is Stack else {}}
    strings = {"params": {"layers": {"0": saved["params"]["layers"][0]}}} if layer is Stack else saved
    subject = subject_of(bridge.ToLinen(layer, args=() if layer is Stack else (4, 4)), X)
    trips = checkpoint_check._Trip(tree=strings, problem=plain), checkpoint_check._Trip(tree=saved, problem=targeted)
    assert checkpoint_check._verdict(subject, saved, *trips).verdict is verdict


def test_metadata_boxes_are_no_hindrance():
    init = nnx.with_metadata(nnx.initializers.ones, mine="pass")
    check = checkpoint_check.check(subject_of(bridge.to_linen(nnx.Linear, 4, 4, kernel_init=init), X), full=True)
    assert check.verdict is Verdict.passed


@pytest.mark.slow
def test_integer_key_fix_restores_the_bits(tmp_path):
    check = checked(Stack)
    assert check.verdict is Verdict.warn
    assert check.evidence["with_target"] == "same bits"
    assert check.fix == "variables = nnx.restore_int_paths(ocp.PyTreeCheckpointer().restore(path))"
    model = bridge.to_linen(Stack)
    variables = saved(model, tmp_path)
    fixed = run(check.fix, path=tmp_path / "c")["variables"]
    np.testing.assert_array_equal(model.apply(fixed, X), model.apply(variables, X))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Found unknown module paths")
def test_tuple_keys_need_the_target(tmp_path):
    check = checked(Spectral)
    assert check.verdict is Verdict.warn
    assert check.evidence["keys"] == [f"batch_stats/norm/batch_stats/('kernel', {name!r})" for name in ("sigma", "u")]
    assert check.fix == (
        "target = nn.unbox(jax.eval_shape(lambda key: model.init({'params': key}, x), key))\n"
        "variables = ocp.StandardCheckpointer().restore(path, target)"
    )
    model = bridge.to_linen(Spectral)
    variables = saved(model, tmp_path)
    fixed = run(check.fix, path=tmp_path / "c", model=model, x=X, key=jax.random.key(0))["variables"]
    np.testing.assert_array_equal(model.apply(fixed, X), model.apply(variables, X))


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "jitted"), [(Raw, "DynamicJaxprTracer"), (Constant, "nowhere")])
def test_raw_arrays_are_fixed_by_param(layer, jitted):
    check = checked(layer)
    assert check.verdict is Verdict.warn
    assert check.detail == (
        f"raw array, no nnx.Variable: scale (ArrayImpl eagerly, {jitted} jitted): "
        "an eager init's checkpoint does not fit a jitted one's tree"
    )
    assert check.fix == (
        "self.scale = nnx.data(nnx.Param(self.scale))  # at the end of its __init__; nnx.Variable for a constant"
    )
    assert check.evidence["raised"].startswith("ValueError: User-provided restore item and on-disk value metadata")

    class Fixed(layer):
        def __init__(self, *, rngs):
            super().__init__(rngs=rngs)
            exec(check.fix, {"self": self, "nnx": nnx})

    assert checked(Fixed).verdict is Verdict.passed


def test_empty_array_fix_leaves_it_out(tmp_path):
    check = checked(Empty)
    assert (check.verdict, check.detail) == (
        Verdict.fail,
        "params/extra is of size 0, and Orbax saves no empty array",
    )
    model = bridge.to_linen(Empty)
    variables = model.init(jax.random.key(0), X)
    fixed = run(check.fix, variables=variables, path=tmp_path / "c")["variables"]
    np.testing.assert_array_equal(model.apply(fixed, X), model.apply(variables, X))


@pytest.mark.parametrize(
    ("name", "verdict", "detail"),
    [
        (
            "c.d",
            Verdict.warn,
            "the same bits come back, but joined by dots or slashes a name is like a nested one: params/c.d",
        ),
        (
            "a.b",
            Verdict.fail,
            "the variables can't be saved: "
            "the paths ('params', 'a', 'b') and ('params', 'a.b') are one to Orbax (params.a.b)",
        ),
        (
            "a/b",
            Verdict.fail,
            "the variables can't be saved: the path ('params', 'a/b') has a slash or a backslash in a name: "
            "Orbax would not give it back",
        ),
    ],
)
def test_dots_and_slashes_in_names_fail(name, verdict, detail):
    check = checked(Named, name)
    assert (check.verdict, check.detail, check.fix) == (verdict, detail, RENAMED)
    assert checked(Named, name.replace(".", "_").replace("/", "_")).verdict is Verdict.passed


def test_backslashes_in_names_fail():
    check = checked(Named, "c\\d")
    said = r"the path ('params', 'c\\d') has a slash or a backslash in a name: Orbax would not give it back"
    assert (check.verdict, check.detail) == (Verdict.fail, f"the variables can't be saved: {said}")


def test_abstract_variables_are_not_checked():
    model = bridge.to_linen(nnx.Linear, 4, 4)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    check = checkpoint_check.check(subject_of(model, X, variables=shapes), full=True)
    assert (check.untested, check.detail) == (
        True,
        "could not be tested: the variables that were given are shapes without values",
    )


def test_nondeterministic_layers_are_not_checked():
    class Counting(nnx.Module):
        calls = 0

        def __init__(self, *, rngs):
            self.scale = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            return jax.pure_callback(self.count, jax.ShapeDtypeStruct((), jnp.float32), x * self.scale)

        @classmethod
        def count(cls, x):
            cls.calls += 1
            return np.float32(cls.calls)

    check = checked(Counting)
    assert (check.untested, check.detail) == (
        True,
        "could not be tested: the same call gives other bits each time, with the same variables",
    )


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((3,), "float32", "params/0/w is float32[2], and the target is float32[3]"),
        ((2,), "int32", "params/0/w is float32[2], and the target is int32[2]"),
    ],
)
def test_mismatched_restore_targets_are_refused(tmp_path, shape, dtype, reason):
    checkpoint.save({"params": {0: {"w": np.ones(2, np.float32)}}}, tmp_path / "c")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore_like(tmp_path / "c", {"params": {0: {"w": jax.ShapeDtypeStruct(shape, dtype)}}})
    assert str(caught.value) == f"restoring {tmp_path / 'c'}: {reason}"


class WeakScale(nnx.Module):
    """A scale without a dtype of its own: it takes that of what it is multiplied with."""

    dtype = jnp.bfloat16
    scale_of = staticmethod(lambda: jnp.asarray(1.0))

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, dtype=self.dtype, rngs=rngs)
        self.scale = nnx.Param(self.scale_of())

    def __call__(self, x):
        return self.linear(x) * self.scale[...]


class StrongScale(WeakScale):
    scale_of = staticmethod(lambda: jnp.asarray(1.0, jnp.bfloat16))


class WeakScaleOfFloats(WeakScale):
    dtype = jnp.float32


def test_a_weakly_typed_param_that_changes_the_output_fails():
    model = bridge.to_linen(WeakScale)
    check = checkpoint_check.check(subject_of(model, jnp.ones((2, 4))), full=True)
    assert check.verdict is Verdict.fail
    assert check.detail == (
        "params/scale is weakly typed, as a Python number is: the output is bfloat16, and float32 after a step of an "
        "optimiser, a checkpoint or a copy to the host"
    )
    assert check.fix == "self.scale = nnx.Param(jnp.asarray(…, dtype))"
    variables = model.init(jax.random.key(0), jnp.ones((2, 4)))
    copied = jax.device_get(variables)
    assert [model.apply(one, jnp.ones((2, 4))).dtype for one in (variables, copied)] == [jnp.bfloat16, jnp.float32]


@pytest.mark.parametrize("layer", [StrongScale, WeakScaleOfFloats])
def test_a_param_whose_type_changes_nothing_passes(layer):
    check = checkpoint_check.check(subject_of(bridge.to_linen(layer), jnp.ones((2, 4))), full=True)
    assert check.verdict is Verdict.passed
