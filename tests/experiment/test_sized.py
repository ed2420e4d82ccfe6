"""Sizes that a constructor needs are filled in by name, and shown; rngs may have another name."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from runner.config.settings.layer import LayerSettings
from runner.config.settings.run import Run
from runner.errors import LayerError
from runner.experiment import execute
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.job import Job
from runner.experiment.sized import added, sized


def run_of(name, **kwargs):
    return Run(layer=LayerSettings(target=f"sized_layers.{name}", kwargs=kwargs), input_shape=[2, 4], features=8)


def draft_of(run):
    return make_draft(run, identity_of(run))


@pytest.mark.parametrize(
    ("name", "given", "filled"),
    [
        ("InOut", {}, {"din": 4, "dout": 8}),
        ("InOut", {"dout": 5}, {"din": 4}),
        ("InOut", {"din": 4, "dout": 5}, {}),
        ("Width", {}, {"dim": 4}),
        ("Cell", {}, {"input_size": 4, "hidden_size": 8}),
        ("Defaults", {}, {"in_features": 4}),
        ("Between", {"hidden_size": 2}, {"input_dim": 4, "output_dim": 8}),
    ],
)
def test_sizes_are_filled_in_by_name(name, given, filled):
    run = run_of(name, **given)
    assert added(run) == filled
    assert sized(run).layer.kwargs == given | filled
    assert dict(draft_of(run).layer.model.kwargs) == given | filled


def test_inferred_sizes_equal_given_ones():
    filled, given = run_of("InOut"), run_of("InOut", din=4, dout=8)
    assert identity_of(filled) == identity_of(given)
    assert identity_of(filled) != identity_of(dataclasses.replace(filled, features=9))
    job = Job(run=filled, identity=identity_of(filled))
    record = execute.attempt(job, draft_of(filled)).record
    assert record.settings["layer"]["kwargs"] == {"din": 4, "dout": 8}
    assert record.filled == ["layer.kwargs.din", "layer.kwargs.dout"]


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        ("Between", 8, "Between: its constructor also needs hidden_size.\n  Try: layer.kwargs.hidden_size=32"),
        ("Heads", 8, "Heads: its constructor also needs num_heads.\n  Try: layer.kwargs.num_heads=32"),
        (
            "Divided",
            8,
            "Divided: its constructor also needs num_heads, rate.\n"
            "  Try: layer.kwargs.num_heads=4 layer.kwargs.rate=0.1",
        ),
        ("Unguessed", 8, "Unguessed: its constructor also needs table."),
        ("InOut", None, "InOut: its constructor also needs dout.\n  Try: features=8"),
    ],
)
def test_sizes_without_a_name_are_requested(name, features, message):
    run = dataclasses.replace(run_of(name), features=features)
    with pytest.raises(LayerError) as caught:
        draft_of(run)
    assert str(caught.value) == f"layer.target=sized_layers.{message}"


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["InOut", "Rng", "Annotated", "Keyed", "RngIsKey", "KeyIsText", "keyed"])
def test_rngs_may_have_another_name(name):
    draft = draft_of(run_of(name))
    first, again, other = (
        jax.tree.leaves(draft.model.init(jax.random.PRNGKey(seed), ("params",), jax.numpy.ones((2, 4))))[-1]
        for seed in (0, 0, 1)
    )
    assert ((first == again).all(), (first == other).all()) == (True, False)
