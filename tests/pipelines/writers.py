"""Checkpoints written by the pipelines' own code: `python -m tests.pipelines.writers NAME`, in an empty folder."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.core import freeze
from flax.linen import partitioning as flax_partitioning
from flax.training import train_state

from tests.pipelines.proofs import stubs
from tests.pipelines.proofs.source import Source

SOURCES = {
    "easylm": Source(package="EasyLM", repository="young-geng/EasyLM", folder="easylm"),
    "t5x": Source(package="t5x", repository="google-research/t5x", folder="t5x"),
    "big_vision": Source(package="big_vision", repository="google-research/big_vision", folder="big_vision"),
    "brax": Source(package="brax", repository="brax"),
}

STATS = {"norm": {"mean": np.arange(3, dtype=np.float32)}}


def params() -> dict[str, Any]:
    """The params that every pipeline writes."""
    values = np.random.default_rng(0)
    return {
        "encoder": {
            "layers_0": {"mlp": {"kernel": _drawn(values, 8, 16), "bias": np.zeros(16, np.float32)}},
            "norm": {"scale": _drawn(values, 8)},
        },
        "embed": {"embedding": _drawn(values, 32, 8)},
    }


def halved(tree: Any) -> Any:
    """`tree` in bfloat16."""
    return jax.tree.map(lambda leaf: np.asarray(jnp.asarray(leaf, jnp.bfloat16)), tree)


def easylm() -> None:
    """Streams of a train state and of its params, in both types that EasyLM has for them."""
    stubs.stand_in(*_absent("mlxu", "ml_collections", "transformers"))
    import mlxu

    mlxu.open_file = lambda path, mode="rb": Path(path).open(mode)  # noqa: SIM115 - EasyLM closes it
    from EasyLM.checkpoint import StreamingCheckpointer

    variables = {"params": params(), "batch_stats": STATS}
    state = train_state.TrainState.create(apply_fn=None, params=variables, tx=optax.adamw(1e-3))
    for dtype in ("fp32", "bf16"):
        StreamingCheckpointer.save_train_state_to_file(state, f"streaming_train_state_{dtype}", None, dtype)
        StreamingCheckpointer.save_train_state_to_file(params(), f"streaming_params_{dtype}", None, dtype)


def t5x() -> None:
    """Folders of a train state with Adafactor's slots and mutable collections."""
    stubs.stand_in("airio", "clu", "gin", "jestimator", "seqio", "tensorboard.backend.event_processing", "tensorflow")
    stubs.local_gfile()
    stubs.own_cached_property()
    from t5x import adafactor, checkpoints, partitioning
    from t5x import train_state as states

    axes = {"params_axes": _axes(params()), "batch_stats_axes": _axes(STATS)}
    optimizer = adafactor.Adafactor(1e-3, logical_factor_rules=adafactor.standard_logical_factor_rules())
    variables = freeze({"params": params(), "batch_stats": STATS, **axes})
    state = states.FlaxOptimTrainState.create(optimizer, variables)
    for name, dtype in (("own", None), ("half", jnp.bfloat16)):
        Path(name).mkdir()
        partitioner = partitioning.PjitPartitioner(num_partitions=1)
        checkpoints.Checkpointer(state, partitioner, os.path.abspath(name), save_dtype=dtype).save(state)


def big_vision() -> None:
    """An npz with big_vision's names, and two steps as tensorstore's arrays."""
    stubs.stand_in("big_vision.pp", *_absent("tensorflow", "einops", "ml_collections"))
    stubs.local_gfile()
    from big_vision import utils
    from jax.experimental.array_serialization import serialization

    saved = {"params": params(), "opt": {"mu": params(), "count": np.int32(3)}, "extra": {"step": np.int32(1)}}
    for name, tree in (("state", saved), ("half", halved(params()))):
        names, leaves = zip(*utils.tree_flatten_with_names(tree)[0], strict=True)
        np.savez(f"{name}.npz", **dict(zip(names, leaves, strict=True)))
    manager = serialization.GlobalAsyncCheckpointManager()
    for step in (1, 2):
        utils.save_checkpoint_ts(manager, jax.tree.map(jnp.asarray, saved), "steps", step, keep=True)
        manager.wait_until_finished()


def brax() -> None:
    """Two steps of PPO's tuple: the normaliser, the policy and the value, the policy with our params."""
    from brax.training import checkpoint
    from brax.training.acme import running_statistics, specs
    from brax.training.agents.ppo import networks

    made = networks.make_ppo_networks(4, 2)
    normalizer = running_statistics.init_state(specs.Array((4,), jnp.dtype("float32")))
    config = checkpoint.network_config(
        observation_size=4, action_size=2, normalize_observations=True, network_factory=networks.make_ppo_networks
    )
    state = (normalizer, {"params": params()}, made.value_network.init(jax.random.key(0)))
    for step in (0, 100):
        checkpoint.save(os.path.abspath("steps"), step, state, config)


def _drawn(values: np.random.Generator, *shape: int) -> np.ndarray:
    return values.standard_normal(shape).astype(np.float32)


def _axes(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key if isinstance(child, Mapping) else f"{key}_axes": _axes(child)
        if isinstance(child, Mapping)
        else flax_partitioning.AxisMetadata(("embed", "mlp")[: child.ndim])
        for key, child in tree.items()
    }


def _absent(*names: str) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


WRITERS: Mapping[str, Callable[[], None]] = {"easylm": easylm, "t5x": t5x, "big_vision": big_vision, "brax": brax}


if __name__ == "__main__":
    SOURCES[sys.argv[1]].enter()
    WRITERS[sys.argv[1]]()
