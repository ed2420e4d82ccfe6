"""What `complete` and `mutable` say of hosts whose lifts leave out a collection of a wrapped layer."""

from __future__ import annotations

import contextlib

import jax.numpy as jnp
import lifted_hosts as hosts
import pytest
import storing_hosts

from runner.checks import complete, mutable
from runner.checks.probes.subject import subject_of
from runner.experiment import execute
from runner.experiment.draft import make_draft
from runner.experiment.failures import CheckFailed
from runner.experiment.identity import identity_of
from runner.records.record import Verdict

X = jnp.arange(8.0).reshape(2, 4)


def checked(host, check=complete):
    return check.check(subject_of(host, X), full=False)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("host", "words", "fix"),
    [
        (
            hosts.Scan(),
            "nn.scan|batch_stats of blocks/layer (norm/mean, norm/var)",
            "variable_axes={'params': 0, 'batch_stats': 0}",
        ),
        (
            hosts.Scan(hosts.Averages),
            "nn.scan|Average of blocks/layer (mean)",
            "variable_axes={'params': 0, 'Average': 0}",
        ),
        (hosts.Scan(hosts.Drawn), "nn.scan|Table of blocks/layer (table)", "variable_axes={'params': 0, 'Table': 0}"),
        (hosts.Chunks(), "nn.scan|batch_stats of ffn", "variable_axes={'batch_stats': 0}"),
        (hosts.Chunks(hosts.Drawn), "nn.scan|Table of ffn", "variable_broadcast=['params', 'Table']"),
        (hosts.Maps(), "nn.vmap|batch_stats of blocks/layer", "variable_axes={'params': 0, 'batch_stats': 0}"),
        (
            hosts.Maps(axes=(("params", None),)),
            "nn.vmap|batch_stats of blocks/layer",
            "variable_axes={'params': None, 'batch_stats': 0}",
        ),
        (hosts.MapsVariables(variables="params"), "nn.map_variables|batch_stats of block/layer", "variables=True"),
        (hosts.Imported(), "nn.scan|batch_stats of blocks/layer", "variable_axes={'params': 0, 'batch_stats': 0}"),
        (hosts.Remat("params"), "nn.remat|batch_stats of block/layer", "variables=True"),
    ],
)
def test_a_lift_that_loses_a_collection_fails(host, words, fix):
    found = checked(host)
    lift, rest = words.split("|")
    assert found.verdict is Verdict.fail
    assert found.detail.startswith(f"the host's {lift} (lifted_hosts.py:")
    assert f") does not carry {rest}" in found.detail
    assert found.fix.startswith(f"{fix}  # of {lift} at lifted_hosts.py:")


@pytest.mark.parametrize(
    "host",
    [
        hosts.Scan(axes=("params", "batch_stats")),
        hosts.Scan(hosts.Plain),
        hosts.Scan(hosts.Sows),
        pytest.param(hosts.Scan(axes=(True,), remat=True), marks=pytest.mark.slow),
        pytest.param(hosts.Scan(axes=("params", "batch_stats"), axis=1), marks=pytest.mark.slow),
        hosts.Chunks(hosts.Sows),
        pytest.param(hosts.Chunks(more={"variable_axes": {"batch_stats": 0}}), marks=pytest.mark.slow),
        hosts.Maps(axes=(("params", 0), ("batch_stats", 0))),
        hosts.MapsVariables(),
        pytest.param(hosts.Imported(whole=True), marks=pytest.mark.slow),
        hosts.Remat(),
        hosts.Nested(outer=("params", "batch_stats"), inner=("params", "batch_stats")),
    ],
)
def test_lifts_that_lose_nothing_pass(host):
    for check in (complete, mutable):
        assert checked(host, check).verdict is Verdict.passed


@pytest.mark.parametrize(
    ("host", "lines"),
    [
        (hosts.Nested(), 2),
        pytest.param(hosts.Nested(inner=("params", "batch_stats")), 1, marks=pytest.mark.slow),
        (hosts.Nested(outer=("params", "batch_stats")), 1),
    ],
)
def test_every_losing_lift_is_named(host, lines):
    found = checked(host)
    assert found.verdict is Verdict.fail
    assert len(found.fix.splitlines()) == found.detail.count("nn.scan (lifted_hosts.py:") == lines


def test_a_lost_constant_warns():
    found = checked(hosts.Scan(hosts.Looks))
    assert found.verdict is Verdict.warn
    assert found.detail.endswith("every apply makes it again, right only where no call and no checkpoint changes it")
    assert checked(hosts.Scan(hosts.Looks, ("params", "Table"))).verdict is Verdict.passed


def test_updates_of_what_is_lost_fail_mutable():
    found = checked(hosts.Scan(), mutable)
    assert (found.verdict, found.detail) == (
        Verdict.fail,
        "the call changes batch_stats of blocks/layer (norm/mean, norm/var), which the host does not keep "
        "(see complete): the update is dropped",
    )


def test_map_variables_dropping_updates_fails():
    found = checked(hosts.MapsVariables(mapped=True, mutable=False), mutable)
    assert found.verdict is Verdict.fail
    assert "does not carry batch_stats of block/layer (norm/mean, norm/var) out of apply" in found.detail
    assert found.fix.startswith("mutable=True  # of nn.map_variables at lifted_hosts.py:")
    assert checked(hosts.MapsVariables(mapped=True), mutable).verdict is Verdict.passed


def test_an_apply_loop_dropping_updates_fails():
    found = checked(hosts.Loops(), mutable)
    assert (found.verdict, found.detail.count("nn.while_loop (lifted_hosts.py:")) == (Verdict.fail, 1)
    assert "leaves out batch_stats: no other arguments were found to keep that" in found.fix
    assert checked(hosts.Loops("batch_stats"), mutable).verdict is Verdict.passed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "host", "words"),
    [
        ("lifted_hosts.Counts", ["host.target=lifted_hosts.Hosted"], "complete: the host's nn.scan"),
        ("lifted_hosts.Plain", ["host.target=lifted_hosts.Hosted"], ""),
        ("mode_hosts.Regular", ["host.target=mode_hosts.Thin", "host.kwargs.train=false"], "mode: with train=False"),
    ],
)
def test_strict_runs_refuse(make_run, target, host, words):
    run = make_run("layer=custom", f"layer.target={target}", *host, "checks=strict", "input_shape=[2,4]")
    draft = make_draft(run, identity_of(run))
    with pytest.raises(CheckFailed, match=words) if words else contextlib.nullcontext():
        execute.run_checks(draft, run)


def test_stored_nnx_variables_are_kept():
    assert checked(storing_hosts.Host()).verdict is Verdict.passed


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (("params",), "batch_stats of block (norm/mean, norm/var)"),
        (("batch_stats",), "params of block (linear/bias, linear/kernel, norm/bias, norm/scale)"),
    ],
)
def test_nnx_variables_that_are_not_stored_fail(kinds, words):
    found = checked(storing_hosts.Host(kinds))
    assert found.verdict is Verdict.fail
    assert found.detail.startswith(f"the host does not keep {words}: every apply makes them again")
