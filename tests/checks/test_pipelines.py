"""Presets of pipelines: what each does to a layer, by its name; faulty layers and healthy ones side by side."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import linen_classes
import optax
import pipeline_layers
import pytest
from flax.nnx import bridge

import runner
from runner.bridge.layers.axes import AxesToLinen
from runner.checks import registry
from runner.checks.pipeline import calls
from runner.checks.probes.subject import subject_of
from runner.checks.results import verdicts
from runner.config import pipelines
from runner.errors import ConfigError, UserError
from runner.experiment.identity import identity_of
from runner.records.record import Verdict

X = jnp.ones((2, 4))
ASKED = ("complete", "streams", "mutable", "trained", "rules", "axes", "pipeline")


@functools.cache
def asked(name, pipeline, **options):
    """The checks that do not pass of a layer in a pipeline, by name."""
    model = bridge.to_linen(getattr(pipeline_layers, name), 4)
    model, options = calls.as_called(model, pipeline=pipeline, **options)
    with calls.context(options["pipeline"]):
        report = registry.run_checks(subject_of(model, X, **options), full=False, only=ASKED)
    return {check.name: check for check in report if check.verdict not in (Verdict.passed, Verdict.skipped)}


FAULTY = [
    ("BatchNormed", "brax", "mutable", ["in brax", "batch_stats", "gets no mutable"]),
    ("BatchNormed", "brax", "trained", ["in brax", "would be trained as weights", "gets all that init returns"]),
    ("Counting", "brax", "mutable", ["in brax", "changes Variable"]),
    ("Dropping", "brax", "streams", ["in brax", "No RngStream named 'dropout'", "its apply none"]),
    ("BatchNormed", "easylm", "trained", ["in easylm", "norm/mean, batch_stats/norm/var would be trained"]),
    ("Named", "easylm", "pipeline", ["in easylm", "params/wi/kernel is in a box (NNXMeta)"]),
    ("Plain", "t5x", "axes", ["in t5x", "params/wi/kernel", "Missing axis names for parameters"]),
    ("Named", "t5x", "axes", ["in t5x", "NNXMeta"]),
    ("Plain", "flaxformer", "axes", ["in flaxformer", "param_dtypes_shapes_axes"]),
    ("Dropping", "t5x", "streams", ["in t5x", "its init gets one key"]),
    ("BatchNormed", "t5x", "pipeline", ["in t5x", "batch_stats/norm/mean", "made again at every apply"]),
    ("Counting", "maxtext", "pipeline", ["in maxtext", "Variable/seen would be made again"]),
    ("BatchNormed", "maxtext", "mutable", ["in maxtext", "gets intermediates alone"]),
    ("BatchNormed", "kauldron", "pipeline", ["in kauldron", "updates batch_stats", "train property"]),
    ("BatchNormed", "big_vision", "pipeline", ["in big_vision", "its train state is init's params alone"]),
    ("Features", "big_vision", "pipeline", ["in big_vision", "weights of another key"]),
    ("Named", "big_vision", "pipeline", ["in big_vision", "kernel/value"]),
    ("Listed", "big_vision", "rules", ["in big_vision", "keys that are no strings"]),
    ("Listed", "brax", "pipeline", ["in brax", "keys that are no text"]),
]


@pytest.mark.sampled
@pytest.mark.parametrize(("name", "pipeline", "check", "words"), FAULTY)
def test_a_pipeline_names_what_it_breaks(name, pipeline, check, words):
    found = asked(name, pipeline)[check]
    assert found.verdict is Verdict.fail
    assert [word for word in words if word not in found.detail] == []
    assert "layer.mutable" not in (found.fix or "")
    assert "train.collections" not in (found.fix or "")


WARNED = [
    ("OtherNames", "big_vision", "rules", ["2 of 2 matrices", "no weight decay"]),
    ("Tables", "big_vision", "pipeline", ["in big_vision", "right for a constant"]),
    ("Dropping", "kauldron", "pipeline", ["in kauldron", "right where the model gives the layer deterministic"]),
]


@pytest.mark.parametrize(("name", "pipeline", "check", "words"), WARNED)
def test_a_pipeline_names_a_condition(name, pipeline, check, words):
    found = asked(name, pipeline)
    assert list(found) == [check]
    assert found[check].verdict is Verdict.warn
    assert [word for word in words if word not in found[check].detail] == []


HEALTHY = [
    *(
        (name, pipeline)
        for name in ("Plain", "LayerNormed")
        for pipeline in ("brax", "easylm", "kauldron", "big_vision")
    ),
    ("Dropping", "easylm"),
    ("Dropping", "maxtext"),
    ("Named", "maxtext"),
    ("Listed", "easylm"),
    ("Counting", "kauldron"),
]


@pytest.mark.sampled
@pytest.mark.parametrize(("name", "pipeline"), HEALTHY)
def test_a_healthy_layer_passes(name, pipeline):
    assert asked(name, pipeline) == {}


@pytest.mark.parametrize("pipeline", ["t5x", "flaxformer"])
@pytest.mark.parametrize("name", ["Plain", "Named", "LayerNormed"])
def test_the_writer_of_axes_passes(name, pipeline):
    assert asked(name, pipeline, wrapped_by=AxesToLinen) == {}


def test_bare_leaves_mend_the_box():
    found = asked("Named", "big_vision")["pipeline"]
    assert found.fix.startswith("layer.metadata_fn=none")
    assert asked("Named", "big_vision", metadata_fn="none") == {}
    assert asked("Named", "easylm", metadata_fn=None) == {}


def test_the_optimiser_is_kept_off_statistics():
    fix = asked("BatchNormed", "brax")["trained"].fix
    variables = {"params": {"w": jnp.ones(2)}, "batch_stats": {"mean": jnp.ones(2)}}
    space = {"optax": optax, "tx": optax.adam(0.1), "variables": variables}
    exec(fix, space)
    updates, _ = space["tx"].update(variables, space["tx"].init(variables))
    assert (updates["batch_stats"]["mean"] == 0).all()
    assert (updates["params"]["w"] != 0).all()


def test_strict_runs_refuse_what_a_pipeline_breaks():
    assert {"pipeline", "axes", "rules"} <= verdicts.STRICT


def test_what_is_typed_wins_over_the_preset(make_run):
    run = make_run("pipeline=brax", "layer.rngs=[noise]", "train.collections=[params]")
    assert (run.layer.rngs, run.layer.init_rngs, run.layer.mutable) == (["noise"], ["params"], [])
    assert run.train.collections == ["params"]
    options = {"mutable": ["batch_stats"], "trained": ["params"]}
    assert asked("BatchNormed", "brax", **{key: tuple(value) for key, value in options.items()}) == {}


def test_only_a_chosen_pipeline_changes_ids(make_run):
    ids = [identity_of(make_run(*typed)).program_id for typed in ([], ["pipeline=none"], ["pipeline=kauldron"])]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.sampled
@pytest.mark.parametrize("name", pipelines.names())
def test_a_preset_says_what_it_does(name, make_run):
    run, preset = make_run(f"pipeline={name}"), pipelines.preset(name)
    assert run.pipeline == preset.pipeline
    assert run.pipeline.name == name
    assert (run.layer.rngs, run.layer.mutable, run.train.collections) == (
        preset.rngs,
        preset.mutable,
        preset.collections,
    )
    assert run.rules == preset.rules
    asked = {"boxes", "keeps", "text_keys", "same_call"} & {key for key, value in vars(run.pipeline).items() if value}
    assert asked <= set(run.pipeline.does)


def test_an_unknown_pipeline_is_refused():
    with pytest.raises(ConfigError) as refused:
        pipelines.preset("braxx")
    assert str(refused.value).startswith("pipeline=braxx: no such pipeline; there are big_vision, brax, easylm")
    assert refused.value.suggestion == "pipeline=brax"


def test_foreign_hosts_are_not_rewrapped():
    with pytest.raises(UserError, match="wrapper= and metadata_fn= are for a wrapped layer"):
        runner.check(linen_classes.NoWrapper(), X, metadata_fn="none")
