"""The check `sharding`: axis names fit their arrays, outlive lifts, run on a mesh, and need no context unsaid."""

from __future__ import annotations

import os
import subprocess
import sys

import axes_hosts
import flax
import jax
import jax.numpy as jnp
import pytest
from common_layers import FEW, QUICK, cases
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge
from jax.sharding import PartitionSpec

import runner
from runner.bridge import boxes
from runner.bridge.tracing import tried_boxes
from runner.checks import sharding
from runner.checks.probes.subject import subject_of
from runner.config.composing.composed import Config
from runner.errors import LayerError
from runner.experiment import execute
from runner.records.record import Verdict
from runner.sweep import validate

X = jnp.arange(32.0).reshape(4, 8) / 32
INIT = nnx.initializers.lecun_normal()
NAMES = cases(QUICK, FEW)
MESH = jax.make_mesh((1, 1), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def named(*, rngs):
    return nnx.Linear(8, 8, kernel_init=nnx.with_partitioning(INIT, ("data", "model")), rngs=rngs)


def boxed(*, rngs):
    return nnx.Linear(8, 8, kernel_init=bridge.with_partitioning(INIT, ("data", "model")), rngs=rngs)


def one_name(*, rngs):
    return nnx.Linear(8, 8, kernel_init=nnx.with_partitioning(INIT, ("data",)), rngs=rngs)


class Stack(nn.Module):
    """Three of the layer by `nn.scan`."""

    layer: nn.Module

    @nn.compact
    def __call__(self, x):
        params = {nn.PARTITION_NAME: "layers"}
        body = nn.scan(
            lambda layer, x, _: (layer(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            metadata_params=params,
        )
        return body(self.layer, x, None)[0]


def check_of(model):
    return sharding.check(subject_of(model, X), full=True)


@pytest.mark.sampled
@pytest.mark.parametrize("name", NAMES)
def test_conf_layers_have_no_axis_names(make_run, name):
    run = make_run(f"layer={name}")
    _, drafts = validate.validate([Config(run=run)])
    check = sharding.check(execute.subject(next(iter(drafts.values())), run), full=True)
    assert check.detail == "no leaf has axis names; there is 1 device, so nothing was run on several"
    assert (check.verdict, check.evidence, check.fix) == (Verdict.passed, {"num_devices": 1}, None)


@pytest.mark.usefixtures("placing_nothing")
def test_lost_scan_axes_are_in_evidence():
    check = check_of(bridge.ToLinen(named))
    assert check.evidence["nn.scan"] == {"params/kernel": ["data", "model"]}
    assert check.fix == sharding.KEEP_AXES_ALONE


@pytest.mark.usefixtures("placing_nothing")
def test_lost_axis_fix_keeps_it():
    scope = {"nn": nn, "layer": bridge.ToLinen(named)}
    exec(sharding.KEEP_AXES, scope)
    shapes = jax.eval_shape(Stack(scope["layer"]).init, jax.random.PRNGKey(0), X)
    kernel = shapes["params"]["layer"]["kernel"]
    assert nn.get_partition_spec(kernel) == PartitionSpec("layers", "data", "model")
    assert check_of(scope["layer"]).verdict is Verdict.passed


@pytest.mark.usefixtures("placing_nothing")
def test_partitioning_by_the_bridge_is_fine():
    check = check_of(bridge.ToLinen(boxed))
    assert check.verdict is Verdict.passed
    assert check.detail == (
        "the axis names of params/kernel (data, model) fit their arrays and outlive nn.scan and nn.vmap with "
        "metadata_params; sharded on a mesh data=1, model=1 it gives the same bits"
    )
    assert check.evidence["nn.scan"] == check.evidence["nn.vmap"] == {"params/kernel": ["layers", "data", "model"]}
    assert check.evidence["context"] == "none"


@pytest.mark.usefixtures("placing_nothing")
def test_unnamed_scan_axes_fail():
    check = check_of(Stack(bridge.ToLinen(named)))
    assert (check.verdict, check.fix) == (Verdict.fail, sharding.KEEP_AXES)
    assert check.detail == "params/layer/kernel has 3 axes and the names (data, model)"


@pytest.mark.usefixtures("placing_nothing")
def test_too_few_axis_names_fail():
    check = check_of(bridge.ToLinen(one_name))
    assert check.verdict is Verdict.fail
    assert check.detail == "params/kernel has 2 axes and the names (data)"
    assert check.fix == "out_sharding with one name, or None, for every axis of the array"


def test_other_errors_are_left_alone():
    assert sharding.why_it_fails(LayerError("layer x can't take x")) is None


@pytest.mark.slow
def test_what_fixes_a_missing_mesh_runs():
    model, key = bridge.ToLinen(named), jax.random.PRNGKey(0)
    with pytest.raises(ValueError, match="An auto mesh context or metadata is required"):
        model.init(key, X)
    with pytest.raises(LayerError) as caught:
        subject_of(model, X)
    check = sharding.why_it_fails(caught.value)
    scope = {"jax": jax, "flax": flax, "model": model, "key": key, "x": X}
    exec(check.fix, scope)
    assert scope["variables"]["params"]["kernel"].value.sharding.spec == PartitionSpec("data", "model")
    flag = check.fix.splitlines()[-1].split(": ", 1)[1]
    before = flax.config.flax_always_shard_variable
    try:
        exec(flag, scope)
        assert model.init(key, X)["params"]["kernel"].value.shape == (8, 8)
    finally:
        flax.config.update("flax_always_shard_variable", before)


@pytest.mark.slow
def test_layers_needing_a_mesh_context_warn():
    with jax.set_mesh(MESH):
        check = check_of(bridge.ToLinen(boxed))
    assert check.verdict is Verdict.warn
    assert check.detail == (
        "init and apply raise ValueError where no mesh is set by jax.set_mesh (`with mesh:` does not count)"
    )
    assert check.evidence["context"] == "jax.set_mesh"
    assert check.fix == sharding.SET_MESH.format(shape=(1, 1), names=("data", "model"), num=2)


def test_unreadable_specs_are_in_the_evidence():
    with jax.set_mesh(MESH):
        check = check_of(bridge.ToLinen(named))
    assert check.verdict is Verdict.fail
    start = (
        "nn.get_partition_spec of jax.eval_shape(init) fails under jax.set_mesh: TypeError: The sharding on the input"
    )
    assert check.evidence["limits"][0].startswith(start)


@pytest.mark.parametrize(
    ("cuts", "num", "sizes"),
    [
        ({("data",): 8, ("model",): 8}, 8, {"data": 4, "model": 2}),
        ({("data",): 3, ("model",): 8}, 8, {"data": 1, "model": 8}),
        ({("data", "model"): 4}, 8, {"data": 2, "model": 2}),
        ({("data",): 5, ("model",): 7}, 6, {"data": 1, "model": 1}),
    ],
)
def test_meshes_shrink_to_fit_the_arrays(cuts, num, sizes):
    assert sharding._cut({"data": 1, "model": 1}, cuts, num) == sizes


# JAX takes the number of devices once a process.
ON_EIGHT = f"""
import sys; sys.path[:0] = {sys.path!r}
from tests.checks.test_sharding import *
print(check_of(bridge.ToLinen(lambda *, rngs: nnx.Linear(8, 8, rngs=rngs))).detail)
with nnx.use_eager_sharding(False):
    print(check_of(bridge.ToLinen(boxed)).detail)
    print(check_of(bridge.ToLinen(named)).detail)
"""


@pytest.mark.slow
def test_layers_run_sharded_on_eight_devices():
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", ON_EIGHT], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    replicated, sharded, lost = done.stdout.splitlines()
    assert replicated == "no leaf has axis names; replicated on 8 devices it gives the same bits"
    assert sharded.startswith(
        "the axis names of params/kernel (data, model) fit their arrays and outlive nn.scan and nn.vmap with "
        "metadata_params; sharded on a mesh data=4, model=2 it is rounded otherwise ("
    )
    assert lost == "nn.scan and nn.vmap lose the added axis: params/kernel keeps the names (data, model) on 3 axes"


class Scanned(nn.Module):
    """Two of a layer by `nn.scan`, which says the name of its axis or does not."""

    layer: nn.Module
    says_name: bool = True

    @nn.compact
    def __call__(self, x):
        more = {"metadata_params": {nn.PARTITION_NAME: "layers"}} if self.says_name else {}
        axes, keys = {"params": 0}, {"params": True}
        run = nn.scan(lambda layer, x, _: (layer(x), None), variable_axes=axes, split_rngs=keys, length=2, **more)
        return run(self.layer, x, None)[0]


@pytest.mark.slow
@pytest.mark.usefixtures("placing_nothing")
@pytest.mark.parametrize(("says_name", "box"), [(True, tried_boxes.LOGICAL), (False, tried_boxes.BARE)])
def test_only_working_boxes_are_suggested(says_name, box):
    check = check_of(Scanned(bridge.ToLinen(named), says_name))
    assert (check.verdict, check.fix) == (Verdict.fail, tried_boxes.FIXES[box])
    assert check.evidence["boxes"][box] == "works"
    scope = {"nn": nn, "layer": bridge.ToLinen(named)}
    exec(check.fix, scope)
    assert check_of(Scanned(scope["layer"], says_name)).verdict is Verdict.passed


@pytest.mark.slow
@pytest.mark.usefixtures("placing_nothing")
def test_params_axes_hosts_get_the_writer():
    subject = subject_of(axes_hosts.Stack(axes_hosts.default), X[:, :4])
    assert sharding.check(subject, full=True).fix == tried_boxes.WRITER


@pytest.mark.usefixtures("placing_nothing")
def test_a_box_refused_by_scan_fails():
    model = Scanned(bridge.ToLinen(named, metadata_fn=boxes.logical), says_name=False)
    (check,) = runner.check(model, X, only=["sharding"])
    assert (check.verdict, check.fix) == (Verdict.fail, tried_boxes.FIXES[tried_boxes.BARE])
    assert check.detail.endswith("PartitioningUnspecifiedError")


class Refusing(Scanned):
    """A host that refuses what has no name, and whose scan takes no box."""

    @nn.compact
    def __call__(self, x):
        y = super().__call__(x)
        if self.is_initializing() and not isinstance(self.variables["params"]["layer"]["kernel"], nn.meta.AxisMetadata):
            raise ValueError("a kernel without a box")
        return y


@pytest.mark.usefixtures("placing_nothing")
def test_hosts_without_a_working_box_are_named():
    check = check_of(Refusing(bridge.ToLinen(named), says_name=False))
    assert (check.verdict, check.fix) == (Verdict.fail, None)
    assert "no box works in this host (LogicallyPartitioned: PartitioningUnspecifiedError" in check.detail
