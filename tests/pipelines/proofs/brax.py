"""Brax: an NNX layer in a PPO policy. The layers and the host are those of docs/pipelines/brax.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.pipelines import typed
from tests.pipelines.compared import require_equal_bits, shapes
from tests.pipelines.proofs.source import Source

SOURCE = Source("brax", "brax")

TYPED = ("pipeline=brax", "layer=custom", "host.target=hosts.Policy", "host.layer_name=null", "input_shape=[4,2]")


def layer(folder: Path) -> str:
    """init(key) and apply(normalizer, params, obs) of Brax's own FeedForwardNetwork."""
    import hosts
    import jax
    import jax.numpy as jnp

    old, new = (
        hosts.make_networks(2, 1, policy=policy).policy_network for policy in (hosts.Policy(), hosts.Migrated())
    )
    params, obs = old.init(jax.random.PRNGKey(0)), jnp.ones((3, 2))
    assert shapes(params) == shapes(new.init(jax.random.PRNGKey(0)))
    require_equal_bits(jax.jit(old.apply)(None, params, obs), jax.jit(new.apply)(None, params, obs))
    return f"{len(shapes(params))} leaves under Brax's own names; on the old variables the same bits as nn.Dense"


def check(folder: Path) -> str:
    """A healthy layer passes."""
    found = typed.check(*TYPED, "layer.target=layers.Gated")
    assert found.code == 0 and not found.failed(), {name: found.details[name] for name in found.failed()}
    return f"healthy: exit 0, {typed.counted(found)}"


def collections(folder: Path) -> str:
    """Brax has no lift, but gives its optimiser the statistics and keeps no update."""
    faulty = typed.check(*TYPED, "layer.target=faulty.Normed")
    assert {"mutable", "trained"} <= set(faulty.failed()), faulty.details
    return (
        f"BatchNorm: *mutable* fails: {faulty.details['mutable']}; *trained* fails: {faulty.details['trained']}; "
        "the healthy twin passes (see check)"
    )


def modes(folder: Path) -> str:
    """Brax has one mode and no key at apply."""
    dropped, noisy = (typed.check(*TYPED, f"layer.target=faulty.{name}") for name in ("Dropped", "Noisy"))
    assert "streams" in dropped.failed(), dropped.details
    assert "nothing_invented" in noisy.failed(), noisy.details
    return (
        f"dropout: *streams* fails: {dropped.details['streams']}; noise: *nothing_invented* fails: "
        f"{noisy.details['nothing_invented']}; the healthy twin passes (see check)"
    )


def boxes(folder: Path) -> str:
    """Brax loads its checkpoint without a target: of a box and of numbers as keys something else comes back."""
    import functools

    import faulty
    from flax.nnx import bridge

    layers = {cls.__name__: functools.partial(bridge.to_linen, cls) for cls in (faulty.Tagged, faulty.Listed)}
    raised = {name: _loaded(folder / name, layer) for name, layer in layers.items()}
    assert raised["Tagged"] and raised["Listed"], raised
    assert not _loaded(folder / "healthy", functools.partial(bridge.to_linen, faulty.Gated))
    tagged, listed = (typed.check(*TYPED, f"layer.target=faulty.{name}") for name in ("Tagged", "Listed"))
    assert "pipeline" in tagged.failed(), tagged.details
    assert "pipeline" in listed.failed(), listed.details
    twin = typed.check(*TYPED, "layer.target=faulty.Tagged", "layer.metadata_fn=none")
    assert twin.code == 0 and not twin.failed(), twin.details
    return (
        f"metadata: with what checkpoint.load gives, the policy raises {raised['Tagged']}; *pipeline* fails: "
        f"{tagged.details['pipeline']}; nnx.List: it raises {raised['Listed']}; *pipeline* fails: "
        f"{listed.details['pipeline']}; bare arrays under names pass"
    )


def checkpoint(folder: Path) -> str:
    """Brax's Orbax tuple (normalizer, policy, value) is compared, and its load gives it to the new policy."""
    import hosts
    import jax
    import jax.numpy as jnp
    from brax.training.agents.ppo import checkpoint

    old, new = (hosts.make_networks(2, 1, policy=policy) for policy in (hosts.Policy(), hosts.Migrated()))
    params = (_normalizer(), *(part.init(jax.random.PRNGKey(0)) for part in (old.policy_network, old.value_network)))
    checkpoint.save(folder / "saved", 0, params, checkpoint.network_config(2, 1, True, hosts.make_networks))
    said = typed.run("diff", "hosts:Policy()@saved/000000000000#1", "hosts:Migrated()", "--input", "[4,2]")
    assert said.code == 0, said.text
    loaded = checkpoint.load(folder / "saved" / "000000000000")
    num = require_equal_bits(loaded[1], jax.device_get(params[1]))
    require_equal_bits(*(one.policy_network.apply(_normalizer(), loaded[1], jnp.ones((3, 2))) for one in (old, new)))
    act = checkpoint.load_policy(folder / "saved" / "000000000000", hosts.make_networks)
    action, _ = act(jnp.ones((3, 2)), jax.random.PRNGKey(1))
    return f"its tuple, #1 of {num} leaves: diff exits 0 with a proof; load_policy acts: {action.ravel()[0]:.6f}"


def training(folder: Path) -> str:
    """Three updates by Brax's own gradient_update_fn, over all that init returns."""
    import hosts

    ran = [_trained(policy) for policy in (hosts.Policy(), hosts.Migrated())]
    (old, losses), (new, ours) = ran
    assert losses == ours, (losses, ours)
    num = require_equal_bits(old, new)
    return f"gradient_update_fn, Adam: losses {', '.join(f'{loss:.6f}' for loss in losses)}; all {num} leaves same bits"


def trainer(folder: Path) -> str:
    """brax.training.agents.ppo.train.train, from a checkpoint that it wrote with the old policy."""
    import functools

    import compat  # noqa: F401 - what jax 0.10 has taken away
    import hosts
    from brax import envs
    from brax.training.agents.ppo import train

    def run(policy: Any, **more: Any) -> Any:
        settings = {"num_envs": 8, "num_eval_envs": 8, "batch_size": 8, "num_minibatches": 2, "unroll_length": 4}
        networks = functools.partial(hosts.make_networks, policy=policy)
        return train.train(
            environment=envs.get_environment("fast"),
            num_timesteps=128,
            episode_length=16,
            num_updates_per_batch=1,
            num_evals=1,
            max_devices_per_host=1,
            network_factory=networks,
            **settings,
            **more,
        )[1]

    first = run(hosts.Policy())
    old, new = (run(policy, restore_params=first) for policy in (hosts.Policy(), hosts.Migrated()))
    num = require_equal_bits(old[1:], new[1:])
    return f"ppo.train, 128 steps of its environment `fast` from restored params: all {num} leaves have the same bits"


def _loaded(folder: Path, layer: Any) -> str:
    """What a policy with `layer` raises at its first call with what Brax saved and loaded; empty if nothing."""
    import hosts
    import jax
    import jax.numpy as jnp
    from brax.training.agents.ppo import checkpoint

    networks = hosts.make_networks(2, 1, policy=hosts.Policy(layer=layer))
    params = [part.init(jax.random.PRNGKey(0)) for part in (networks.policy_network, networks.value_network)]
    config = checkpoint.network_config(2, 1, True, hosts.make_networks)
    checkpoint.save(folder, 0, (_normalizer(), *params), config)
    normalizer, policy, _ = checkpoint.load(folder / "000000000000")
    try:
        networks.policy_network.apply(normalizer, policy, jnp.ones((3, 2)))
    except Exception as error:  # noqa: BLE001 - whatever Brax or flax raise
        return f"{type(error).__name__}: {error}"
    return ""


def _normalizer() -> Any:
    import jax.numpy as jnp
    from brax.training.acme import running_statistics, specs

    return running_statistics.init_state(specs.Array((2,), jnp.dtype("float32")))


def _trained(policy: Any) -> tuple[Any, list[float]]:
    import hosts
    import jax
    import jax.numpy as jnp
    import optax
    from brax.training import gradients

    network = hosts.make_networks(2, 1, policy=policy).policy_network
    obs = jnp.linspace(-1, 1, 16).reshape(8, 2)
    params = hosts.Policy().init(jax.random.PRNGKey(0), obs)
    optimizer = optax.adam(1e-2)

    def loss(params: Any, obs: Any) -> Any:
        return jnp.mean((network.apply(None, params, obs) - 1.0) ** 2)

    update, state, losses = jax.jit(gradients.gradient_update_fn(loss, optimizer, None)), optimizer.init(params), []
    for _ in range(3):
        value, params, state = update(params, obs, optimizer_state=state)
        losses.append(float(value))
    return params, losses


PROOFS = {
    "layer": layer,
    "check": check,
    "collections": collections,
    "boxes": boxes,
    "modes": modes,
    "checkpoint": checkpoint,
    "training": training,
    "trainer": trainer,
}
