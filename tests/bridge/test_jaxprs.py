"""Jaxprs, walked: every higher-order primitive of the installed JAX, with a draw in its body."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from runner.bridge.tracing import jaxprs
from runner.checks.programs import draws

KEY, X, UNREAD = jax.random.key(0), jnp.zeros(4), jnp.zeros(4)


def noise(key, x):
    return jnp.sin(x) + jax.random.normal(key, x.shape)


@jax.custom_jvp
def with_jvp(key, x):
    return noise(key, x)


with_jvp.defjvp(lambda primals, tangents: (with_jvp(*primals), tangents[1]))


@jax.custom_vjp
def with_vjp(key, x):
    return noise(key, x)


with_vjp.defvjp(lambda key, x: (noise(key, x), None), lambda _, g: (None, g))


def step(carry, num):
    key, x = carry
    key, now = jax.random.split(key)
    return (key, noise(now, x)), x.sum() + num


def scanned(key, x):
    (_, x), sums = lax.scan(step, (key, x), jnp.arange(3.0))
    return x + sums[0]


def of_linear_system(key, x):
    return lax.custom_linear_solve(lambda v: 2 * v, x, lambda _, b: noise(key, b) / 2)


def of_root(key, x):
    return lax.custom_root(lambda v: 2 * v - x, x, lambda _, guess: noise(key, guess), lambda _, y: y / 2)


def on_host(key, x):
    return jax.pure_callback(np.asarray, jax.ShapeDtypeStruct(x.shape, x.dtype), noise(key, x))


def over_devices(key, x):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    data = PartitionSpec("data")
    return jax.shard_map(noise, mesh=mesh, in_specs=(PartitionSpec(), data), out_specs=data)(key, x)


def gradient(function):
    return jax.grad(lambda x, key: (function(key, x) ** 2).sum())


BODIES = {
    "jit": jax.jit(noise),
    "remat": jax.checkpoint(noise),
    "custom_jvp": with_jvp,
    "custom_vjp": with_vjp,
    "named_call": jax.named_call(noise, name="noise"),
    "scan": scanned,
    "map": lambda key, x: lax.map(lambda x: noise(key, x), x),
    "associative_scan": lambda key, x: lax.associative_scan(lambda a, b: noise(key, a + b), x),
    "fori, known": lambda key, x: lax.fori_loop(0, 3, lambda i, x: noise(jax.random.fold_in(key, i), x), x),
    "while": lambda key, x: lax.while_loop(lambda c: c[1][0] < 1, lambda c: step(c, 0)[0], (key, x))[1],
    "while, draws in its test": lambda key, x: lax.while_loop(lambda x: noise(key, x)[0] < 1, lambda x: x + 1, x),
    "cond": lambda key, x: lax.cond(x[0] > 0, noise, lambda _, x: x, key, x),
    "switch": lambda key, x: lax.switch(x[0].astype(int), [lambda _, x: x, noise, lambda _, x: -x], key, x),
    "platform_dependent": lambda key, x: lax.platform_dependent(key, x, cpu=noise, default=noise),
    "vmap": lambda key, x: jax.vmap(noise)(jax.random.split(key, 4), x),
    "vmap of cond": lambda key, x: jax.vmap(lambda x: lax.cond(x > 0, noise, lambda _, x: x, key, x))(x),
    "shard_map": over_devices,
    "custom_linear_solve": of_linear_system,
    "custom_root": of_root,
    "pure_callback": on_host,
    "jvp": lambda key, x: jax.jvp(lambda x: noise(key, x), (x,), (x,))[0],
    "linearize": lambda key, x: jax.linearize(lambda x: noise(key, x), x)[0],
    "grad": lambda key, x: gradient(noise)(x, key),
    "grad of jit": lambda key, x: gradient(jax.jit(noise))(x, key),
    "grad of remat": lambda key, x: gradient(jax.checkpoint(noise))(x, key),
    "grad of custom_vjp": lambda key, x: gradient(with_vjp)(x, key),
    "grad of scan": lambda key, x: gradient(scanned)(x, key),
    "scan in cond in jit": jax.jit(lambda key, x: lax.cond(x[0] > 0, scanned, lambda _, x: x, key, x)),
}


def traced(function):
    return jax.make_jaxpr(lambda key, x, unread: function(key, x))(KEY, X, UNREAD)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_draws_in_nested_bodies_are_found(body):
    found = draws.find(traced(body), ["key", "x", "unread"])
    assert found.draws
    assert all("key" in draw.sources for draw in found.draws)
    assert found.used == {"key", "x"}
    assert not found.invented


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_the_body_reads_is_known(body):
    closed = traced(body)
    assert jaxprs.is_read(closed, [True]) == [True, True, False]
    assert jaxprs.is_read(closed, [False]) == [False, False, False]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_keys_in_nested_bodies_are_found(body):
    if body is BODIES["vmap"]:
        body = jax.vmap(lambda key, x: noise(key, x), in_axes=(None, 0))
    found = draws.find(traced(lambda key, x: body(jax.random.key(0), x)), ["key", "x", "unread"])
    assert found.invented
    assert "key" not in found.used


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_discarded_draws_are_dead(body):
    closed = traced(lambda key, x: jax.jit(lambda x: (body(key, x), x + 1))(x)[1])
    assert draws.find(closed, ["key", "x", "unread"]).draws == ()


def replaced_in_every_round(key, x):
    def body(carry, _):
        weights, x = carry
        return (noise(key, weights), x + 1), None

    return lax.scan(body, (x, x), length=3)[0][1]


def replaced_in_a_while(key, x):
    return lax.while_loop(lambda c: c[1][0] < 1, lambda c: (noise(key, c[0]), c[1] + 1), (x, x))[1]


def replaced_in_a_branch(key, x):
    return lax.cond(x[0] > 0, lambda k, x: (noise(k, x), x), lambda k, x: (x, -x), key, x)[1]


@pytest.mark.parametrize("function", [replaced_in_every_round, replaced_in_a_while, replaced_in_a_branch])
def test_draws_discarded_by_loops_are_dead(function):
    closed = traced(function)
    assert draws.find(closed, ["key", "x", "unread"]).draws == ()
    assert jaxprs.is_read(closed, [True]) == [False, True, False]


def test_scan_carries_and_constants_are_separated():
    def body(carry, element):
        return (carry[0] + X, carry[1] + 1), element.sum()

    def function(x, rows):
        return lax.scan(body, (x, x[0]), rows)

    (equation,) = [one for one in jax.make_jaxpr(function)(X, jnp.zeros((3, 2))).eqns if one.primitive.name == "scan"]
    loop = jaxprs.structure_of(equation)
    assert isinstance(loop, jaxprs.Loop)
    assert (loop.num_carried, loop.num_consts + loop.num_carried + 1) == (2, len(equation.invars))
    assert not loop.once


def test_updates_are_changes_inputs_are_not():
    closed = jax.make_jaxpr(lambda x, y: (x + y, y, x, 1.0))(X, X)
    assert jaxprs.changed(closed, range(4)) == [True, False, False, True]


def handed_on(p, x):
    return x @ p, p


def scanned_on(p, x):
    last, (kept, _) = jax.lax.scan(lambda carry, one: (carry, (one, carry @ one)), x, p)
    return last, kept


def moved_back(p, x):
    """As a scan over the second axis does."""
    last, kept = scanned_on(jnp.moveaxis(p, 1, 0), x)
    return last, jnp.moveaxis(kept, 0, 1)


KEPT = {
    "plain": handed_on,
    "moved": lambda p, x: (x @ p, p.T.T),
    "jit": jax.jit(handed_on),
    "remat": jax.checkpoint(handed_on),
    "nested": jax.jit(jax.checkpoint(jax.jit(handed_on))),
    "cond": lambda p, x: jax.lax.cond(x.sum() > 0, handed_on, lambda p, x: (x, p), p, x),
    "fori_loop": lambda p, x: jax.lax.fori_loop(0, 2, lambda _, both: handed_on(*both[::-1])[:1] + both[1:], (x, p)),
}
WRITTEN = {
    "jit": jax.jit(lambda p, x: (x @ p, p + 1)),
    "moved": lambda p, x: (x @ p, p.T),
    "cond": lambda p, x: jax.lax.cond(x.sum() > 0, handed_on, lambda p, x: (x, 2 * p), p, x),
    "fori_loop": lambda p, x: jax.lax.fori_loop(0, 2, lambda _, both: (both[0], 2 * both[1]), (x, p)),
}


@pytest.mark.parametrize("name", KEPT)
def test_values_passed_through_are_not_changed(name):
    p = jnp.ones((3, 3))
    assert jaxprs.changed(jax.make_jaxpr(KEPT[name])(p, p), [1]) == [False]


def test_elements_a_scan_returns_are_unchanged():
    closed = jax.make_jaxpr(lambda p, x: scanned_on(p, x)[1])(jnp.ones((2, 3, 3)), jnp.ones((3, 3)))
    assert jaxprs.changed(closed, [0]) == [False]


def test_scans_over_another_axis():
    closed = jax.make_jaxpr(lambda p, x: moved_back(p, x)[1])(jnp.ones((3, 2, 3)), jnp.ones((3, 3)))
    assert jaxprs.changed(closed, [0]) == [False]


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_changed(name):
    p = jnp.ones((3, 3))
    assert jaxprs.changed(jax.make_jaxpr(WRITTEN[name])(p, p), [1]) == [True]


def test_axes_moved_and_restored():
    def back(p):
        return jnp.moveaxis(jax.lax.scan(lambda c, row: (c, row), 0, jnp.moveaxis(p, 1, 0))[1], 0, 1)

    p = jnp.ones((2, 3, 4))
    assert jaxprs.changed(jax.make_jaxpr(back)(p), [0]) == [False]
    assert jaxprs.changed(jax.make_jaxpr(lambda p: jnp.moveaxis(p, 1, 0))(p), [0]) == [True]
