"""How a layer is called: several inputs, by name, in a dict; another method; arrays and keys as call arguments."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

import runner
from runner.bridge.rngs import apply_keys
from runner.checks import registry
from runner.commands import main
from runner.config.serialize import from_data, to_data
from runner.config.settings.layer import HostSettings, InputSettings, LayerSettings
from runner.config.settings.run import Run
from runner.errors import ConfigError, LayerError
from runner.experiment import execute, inputs
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.records.record import Verdict

KEY = {"_target_": "jax.random.key", "seed": 3}
SCALE = {"_target_": "jax.numpy.full", "shape": [4], "fill_value": 0.5}


def run_of(target, shape=(2, 4), /, *, call=None, method=None, kwargs=None, **given):
    layer = LayerSettings(target=f"called_layers.{target}", kwargs=kwargs or {}, call=call or {}, nnx_method=method)
    return Run(layer=layer, input=InputSettings(**given), input_shape=list(shape))


def draft_of(run):
    return make_draft(run, identity_of(run))


def output_of(run):
    """The output of the program, and of the native module called by `native`."""
    draft = draft_of(run)
    key, x = jax.random.PRNGKey(0), inputs.make_input(run.input, run.input_shape)
    variables = draft.model.init(key, draft.needs.streams, x)
    output, _ = draft.model.apply(variables, {}, (), x)
    module = draft.layer.construct(nnx.Rngs(0))
    nnx.update(module, nnx.State(variables["params"]))
    return output, module, x, inputs.more_inputs(run.input)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "native"),
    [
        (run_of("Cross", (2, 6, 8), shapes={"context": [2, 5, 8]}), lambda m, x, more: m(x, more["context"])),
        (run_of("ByKeyword", name="inputs"), lambda m, x, more: m(inputs=x)),
        (run_of("Observations", name="obs.speed"), lambda m, x, more: m({"speed": x})),
        (
            run_of("Observations", name="obs.speed", shapes={"obs": {"image": [2, 3]}}),
            lambda m, x, more: m({"speed": x, **more["obs"]}),
        ),
        (run_of("Masked", shapes={"mask": [2, 8]}), lambda m, x, more: m(x, more["mask"])),
        (run_of("Masked"), lambda m, x, more: m(x)),
        (run_of("Noisy", call={"key": KEY, "scale": SCALE}), lambda m, x, more: m(x, jax.random.key(3), _scale())),
        (run_of("Encodes", method="encode"), lambda m, x, more: m.encode(x)),
        (run_of("Encodes", method="encode", call={"twice": True}), lambda m, x, more: m.encode(x, twice=True)),
        (run_of("Encodes"), lambda m, x, more: m(x)),
    ],
)
def test_a_layer_is_called_as_said(run, native):
    output, module, x, more = output_of(run)
    assert (output == native(module, x, more)).all()
    draft = draft_of(run)
    [parity] = registry.run_checks(execute.subject(draft, run), full=True, only=["parity"])
    assert parity.verdict is Verdict.passed, parity.detail


def _scale():
    return jax.numpy.full((4,), 0.5)


@pytest.mark.slow
def test_keys_are_drawn_at_each_call():
    run = run_of("Noisy", call={"key": {"_rng_": "noise"}})
    draft = draft_of(run)
    assert (draft.needs.streams, draft.rngs) == (("params", "noise"),) * 2
    subject = execute.subject(draft, run)
    asked = registry.run_checks(
        subject, full=True, only=["nothing_invented", "streams", "mutable", "trained", "parity"]
    )
    assert [check.verdict for check in asked] == [Verdict.passed] * 5, asked
    first, again, other = (
        draft.model.apply(subject.variables, apply_keys(jax.random.PRNGKey(seed), draft.rngs), (), subject.x)[0]
        for seed in (0, 0, 1)
    )
    assert ((first == again).all(), (first == other).all()) == (True, False)


def test_a_fixed_key_is_a_fail():
    run = run_of("Noisy", call={"key": KEY})
    [found] = registry.run_checks(execute.subject(draft_of(run), run), full=True, only=["nothing_invented"])
    assert found.verdict is Verdict.fail


@pytest.mark.slow
def test_call_settings_work_inside_hosts():
    run = run_of("Cross", (2, 6, 8), shapes={"context": [2, 6, 8]})
    run = dataclasses.replace(run, host=HostSettings(target="runner.bridge.hosts.MLPHost"))
    draft = draft_of(run)
    asked = registry.run_checks(execute.subject(draft, run), full=True, only=["complete", "lifts", "traps"])
    assert [check.verdict is Verdict.fail for check in asked] == [False] * 3, asked
    assert asked[-1].verdict is Verdict.passed


def test_extra_inputs_have_dtypes_and_values():
    settings = InputSettings(
        shapes={"mask": [2, 4], "ids": [5], "obs": {"a": [2], "b": [2]}}, dtypes={"ids": "int32"}, high=7
    )
    more = inputs.more_inputs(settings)
    assert [more["mask"].dtype, more["ids"].dtype, more["obs"]["a"].dtype] == [bool, np.int32, np.float32]
    assert (more["obs"]["a"] != more["obs"]["b"]).any()
    assert more["ids"].max() < 7
    again = inputs.more_inputs(InputSettings(shapes={"obs": {"a": [2]}}))
    assert (again["obs"]["a"] == more["obs"]["a"]).all()


def test_call_settings_change_the_program_id():
    plain = run_of("Encodes")
    ids = {
        identity_of(run).program_id
        for run in (
            plain,
            run_of("Encodes", method="encode"),
            run_of("Encodes", name="x"),
            run_of("Encodes", shapes={"mask": [2, 4]}),
            run_of("Encodes", shapes={"mask": [2, 4]}, seed=1),
        )
    }
    assert len(ids) == 5
    assert identity_of(from_data(to_data(plain))) == identity_of(plain)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InputSettings(name="a b"), "input.name=a b: it is a call argument, or a place in one that is a dict"),
        (lambda: InputSettings(shapes={"q": [0]}), "input.shapes.q=[0]: a shape is a list of whole numbers from 1"),
        (lambda: InputSettings(shapes={"q": 3}), "input.shapes.q=3: a shape is a list of whole numbers from 1"),
        (lambda: InputSettings(name="q", shapes={"q": [2]}), "input.shapes.q=[2]: q is where x goes"),
        (lambda: InputSettings(dtypes={"q": "int32"}), "input.dtypes.q=int32: there is no such array; there are none"),
        (
            lambda: inputs.more_inputs(InputSettings(shapes={"q": [2]}, dtypes={"q": "flot"})),
            "input.dtypes.q=flot: no such dtype",
        ),
        (
            lambda: draft_of(run_of("Encodes", method="encod")),
            "layer.nnx_method=encod: called_layers.Encodes has no such method.\n  Try: layer.nnx_method=encode",
        ),
    ],
)
def test_what_makes_no_call_is_refused(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Cross", "'input.shapes={context:[2,4]}'"),
        ("ByKeyword", "input.name=inputs"),
        ("Observations", "input.name=obs.speed"),
        ("Noisy", None),
    ],
)
def test_what_would_call_it_is_suggested(name, hint):
    with pytest.raises(LayerError) as caught:
        draft_of(run_of(name))
    assert caught.value.suggestion == hint


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Observations", "Encodes"])
def test_custom_calls_verify_and_reload(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = {
        "Observations": ["input.name=obs.speed", "input.shapes.obs.image=[2,3]"],
        "Encodes": ["layer.nnx_method=encode"],
    }
    words = [f"layer.target=called_layers.{name}", *more[name], "train=short", "tracking=disabled", "timing=off"]
    assert main.main(["layer=custom", "input_shape=[2,4]", "host=none", "sweep=s", "-m", *words]) == 0
    assert main.main(["verify", "outputs/s", "--trust"]) == 0
    assert main.main(["rerun", "outputs/s/0", "--trust"]) == 0
    [run] = (tmp_path / "outputs/s/runs").iterdir()
    for kind in ("linen", "nnx"):
        saved = runner.reload(run, as_=kind, trust=True)
        assert (saved.apply() == np.load(run / "output.npy")).all()
    assert main.main(["reload", "outputs/s/0", "--as", "nnx", "--trust"]) == 0
    assert main.main(["show", "outputs/s/0"]) == 0
    assert "layer.kwargs.din=4  (filled in)" in capsys.readouterr().out
