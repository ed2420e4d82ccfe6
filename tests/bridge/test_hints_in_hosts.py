"""What is suggested when a host, or the layer in it, refuses its call: only what was tried."""

from __future__ import annotations

import pytest

from runner.errors import LayerError
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of

HOST = "host.target=linen_classes."


@pytest.fixture
def suggested(make_run):
    """What is suggested for a config that is refused; it is then tried."""

    def of(*typed):
        typed = ["layer=custom", "input_shape=[2,4]", "features=4", *typed]
        with pytest.raises(LayerError) as refused:
            drafted(*typed)
        return refused.value.suggestion

    def drafted(*typed):
        run = make_run(*typed)
        return make_draft(run, identity_of(run))

    of.drafted = drafted
    return of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "suggestion", "tried"),
    [
        (["layer.target=linen_classes.Plain", f"{HOST}Modes"], "host.call.train=false", ["host.call.train=false"]),
        (
            ["layer.target=linen_classes.Plain", f"{HOST}Modes", "host.call.trian=false", "host.call.train=true"],
            "the same without host.call.trian",
            ["host.call.train=true"],
        ),
        (
            ["layer.target=linen_classes.Plain", f"{HOST}Positional", "host.call.determinstic=false"],
            "host.call.deterministic=false",
            ["host.call.deterministic=false"],
        ),
        (
            ["layer.target=linen_classes.ByPlace", f"{HOST}GivesByPlace", "layer.call.deterministic=false"],
            "host.call.deterministic=false in place of layer.call.deterministic",
            ["host.call.deterministic=false"],
        ),
        (
            ["layer.target=linen_classes.Plain", f"{HOST}WantsProperty"],
            "host.call.is_training_property=true",
            ["host.call.is_training_property=true"],
        ),
        (
            ["layer.target=linen_classes.Plain", f"{HOST}WantsProperty", "layer.call.doubel=true"],
            None,
            ["host.call.is_training_property=true"],
        ),
    ],
)
def test_a_host_is_told_its_call(typed, suggestion, tried, suggested):
    assert suggested(*typed) == suggestion
    kept = [one for one in typed if one.startswith(("layer.target", "host.target"))]
    suggested.drafted("layer=custom", "input_shape=[2,4]", "features=4", *kept, *tried)


@pytest.mark.parametrize("host", ["Refuses", "RefusesWide"])
def test_only_working_shapes_are_suggested(host, suggested):
    found = suggested("layer.target=linen_classes.Plain", f"{HOST}{host}", "layer.kwargs.dim=4")
    assert found == {"Refuses": None, "RefusesWide": "'input_shape=[2,2,4]'"}[host]
