"""T5X: an NNX MLP in its scalable T5. The layers and the hosts are those of docs/pipelines/t5x.md."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.pipelines import t5x_trainer, typed
from tests.pipelines.compared import filled, require_equal_bits, shapes
from tests.pipelines.proofs import stubs
from tests.pipelines.proofs.source import Source

SOURCE = Source("t5x", "google-research/t5x", folder="t5x")
ABSENT = ("clu", "gin", "seqio", "tensorboard.backend.event_processing", "tensorflow")
stubs.stand_in(*t5x_trainer.STOOD_IN)
if t5x_trainer.missing():
    stubs.stand_in(*ABSENT)
    stubs.local_gfile()
stubs.own_cached_property()

AXES = "layer.wrapper=runner.bridge.layers.axes.AxesToLinen"
HOST = ("host.target=hosts.Encoder", "host.layer_name=null")
INPUT = ("input=tokens", "input.high=64", "input_shape=[2,6]")
TYPED = ("pipeline=t5x", "layer=custom", *HOST, *INPUT)
RULES = "rules=faulty:overrides()"
NOT_RUN = {"trainer": missing} if (missing := t5x_trainer.missing()) else {}


@functools.cache
def checked(target: str, *words: str) -> typed.Checked:
    """What the checks that trace say; those that compile take minutes a layer."""
    return typed.check(*TYPED, f"layer.target={target}", *words, "--traced")


@functools.cache
def started() -> tuple[Any, Any]:
    """The variables of T5X's model and of the new one."""
    import hosts
    import jax

    keys = {"params": jax.random.key(0)}
    return tuple(jax.jit(model.init)(keys, tokens()) for model in (hosts.T5(), hosts.Migrated()))


def layer(folder: Path) -> str:
    """The tree of the new model is that of the old one, axis names too, and so are its bits."""
    import hosts
    import jax

    old, new = started()
    assert shapes(old) == shapes(new)
    assert jax.tree.structure(old["params_axes"]) == jax.tree.structure(new["params_axes"])
    params = {"params": old["params"]}
    outputs = [
        jax.jit(lambda v, x, model=model: model.apply(v, x, enable_dropout=False))(params, tokens())
        for model in (hosts.T5(), hosts.Migrated())
    ]
    require_equal_bits(*outputs)
    return (
        f"{len(shapes(old['params']))} params under the old names in its scan over layers, with the same entries in "
        "params_axes; on the old variables the same bits as with its own MLP"
    )


def check(folder: Path) -> str:
    """A healthy layer passes."""
    found = typed.check(*TYPED, "layer.target=layers.Mlp", AXES)
    assert found.code == 0 and not found.failed(), {name: found.details[name] for name in found.failed()}
    eager = checked("faulty.Eager", AXES)
    assert eager.verdicts["streams"] == "fail", eager.details["streams"]
    healthy = f"healthy, by AxesToLinen: exit 0, {typed.counted(found)}"
    return f"{healthy}; Dropout(rngs=rngs): *streams* fails: {eager.details['streams']}"


def collections(folder: Path) -> str:
    """T5X's scan carries params and cache alone."""
    faulty = checked("faulty.Stats", AXES)
    failed = [name for name in faulty.failed() if "norm" in faulty.details[name]]
    assert failed, faulty.details
    assert not checked("layers.Mlp", AXES).failed()
    return f"BatchNorm in its scan: *{failed[0]}* fails: {faulty.details[failed[0]]}; the healthy twin passes"


def rules(folder: Path) -> str:
    """Overrides of axis names by path meet the old names alone; the others keep what they have, without a word."""
    import faulty as layers_of_page
    import hosts
    import jax
    from flax import nnx
    from t5x import utils

    from runner.bridge.layers.axes import AxesToLinen

    host = hosts.Encoder(layer=lambda name=None: AxesToLinen(layers_of_page.Renamed, name=name))
    with nnx.use_eager_sharding(False):
        variables = jax.eval_shape(host.init, {"params": jax.random.key(0)}, tokens())
    assert utils.override_params_axes_names(variables, layers_of_page.OVERRIDES) == variables
    faulty = checked("faulty.Renamed", AXES, RULES)
    assert faulty.verdicts["rules"] != "pass", faulty.details["rules"]
    twin = checked("layers.Mlp", AXES, RULES)
    assert twin.verdicts["rules"] == "pass", twin.details["rules"]
    return f"up, down: *rules* {faulty.verdicts['rules']}: {faulty.details['rules']}; wi, wo: {twin.details['rules']}"


def axes(folder: Path) -> str:
    """The train state refuses params without axis names; the check says so, and its fix is taken."""
    import flax
    import hosts
    import jax
    from flax import nnx
    from flax.nnx import bridge
    from layers import Mlp
    from t5x import train_state

    bare = hosts.T5(layer=lambda name=None: bridge.to_linen(Mlp, name=name, metadata_fn=None))
    with nnx.use_eager_sharding(False):
        variables = jax.eval_shape(bare.init, {"params": jax.random.key(0)}, tokens())
    try:
        train_state.InferenceState.create(flax.core.freeze(variables))
    except ValueError as error:
        refused = str(error)
    assert refused.startswith("Missing axis names for parameters"), refused
    faulty = checked("layers.Mlp", "layer.metadata_fn=none")
    assert faulty.verdicts["axes"] == "fail", faulty.details["axes"]
    assert "AxesToLinen" in faulty.fixes["axes"], faulty.fixes["axes"]
    assert checked("layers.Mlp", AXES).verdicts["axes"] == "pass"
    return f"*axes* fails: {faulty.details['axes']}; with AxesToLinen it passes, and T5X makes its train state"


def boxes(folder: Path) -> str:
    """Numbers as keys, and flax's box, break functions of T5X's that join paths."""
    listed = checked("faulty.Listed", AXES)
    assert listed.code == 1 and listed.failed(), listed.details
    boxed = checked("layers.Mlp")
    assert boxed.code == 1, boxed.details
    assert not checked("layers.Mlp", AXES).failed()
    name, names = listed.failed()[0], ", ".join(f"*{name}*" for name in boxed.failed())
    return f"nnx.List: *{name}* fails: {listed.details[name]}; flax's own box: {names} fail; AxesToLinen's pass"


def modes(folder: Path) -> str:
    """Dropout that ignores `deterministic`."""
    faulty = checked("faulty.Stuck", AXES)
    assert faulty.verdicts["mode"] == "fail", (faulty.verdicts, faulty.details)
    twin = checked("layers.Mlp", AXES)
    assert twin.verdicts["mode"] == "pass" and not twin.failed(), twin.details
    return f"dropout that ignores `deterministic`: *mode* fails: {faulty.details['mode']}; the healthy twin passes"


def checkpoint(folder: Path) -> str:
    """A checkpoint of T5X's own is compared, and restored by it into the train state of the new model."""
    from t5x import checkpoints

    old, new = started()
    state = _train_state({**old, "params": filled(old["params"])}).replace_step(_step(1))
    checkpoints.Checkpointer(state, _partitioner(), str(folder)).save(state)
    said = typed.run(
        "diff", "hosts:T5()@checkpoint_1", "hosts:Migrated()", "--input", "[2,6]", "--input-dtype", "int32",
        "--call", "enable_dropout=False",
    )  # fmt: skip
    assert said.code == 0, said.text
    restored = checkpoints.Checkpointer(_train_state(new), _partitioner(), str(folder)).restore(step=1)
    num = require_equal_bits(restored.params, state.params)
    require_equal_bits(restored.param_states, state.param_states)
    return f"its checkpoint_1 of {num} params and their Adafactor slots: diff exits 0 with a proof; all bits come back"


def training(folder: Path) -> str:
    """Three steps of T5X's train_with_lr and Adafactor, without dropout, from the same params."""
    import hosts

    old, new = started()
    states = [_train_state({**variables, "params": filled(old["params"])}) for variables in (old, new)]
    ends = [_trained(model, state) for model, state in zip((hosts.T5(), hosts.Migrated()), states, strict=True)]
    num = require_equal_bits(ends[0].params, ends[1].params)
    require_equal_bits(ends[0].param_states, ends[1].param_states)
    return f"trainer.train_with_lr with Adafactor, dropout off: all {num} params and the slots have the same bits"


def trainer(folder: Path) -> str:
    """Its train.train, with dropout off in both."""
    import hosts
    from t5x.examples.scalable_t5 import network

    from runner.bridge.layers.axes import AxesToLinen

    @contextlib.contextmanager
    def host(layer: Any = None) -> Iterator[Any]:
        with hosts.replaced(layer):
            yield network.Transformer(hosts.config(dropout_rate=0.0))

    mlp = functools.partial(AxesToLinen, hosts.Mlp, args=(16, 32, 0.0))
    return t5x_trainer.proved(host, functools.partial(host, mlp), folder)


def tokens() -> Any:
    import numpy as np

    return 1 + np.arange(12, dtype=np.int32).reshape(2, 6)


def _step(number: int) -> Any:
    import jax.numpy as jnp

    return jnp.int32(number)


def _partitioner() -> Any:
    from t5x import partitioning

    return partitioning.PjitPartitioner(num_partitions=1)


def _train_state(variables: Any) -> Any:
    import flax
    from t5x import adafactor, train_state

    rules = adafactor.standard_logical_factor_rules()
    optimizer = adafactor.Adafactor(1e-3, logical_factor_rules=rules)
    return train_state.FlaxOptimTrainState.create(optimizer, flax.core.freeze(variables))


def _trained(model: Any, state: Any) -> Any:
    """The state after three steps."""
    import jax
    import jax.numpy as jnp
    from t5x import trainer

    class Loss:
        """What train_with_lr asks of a model."""

        def loss_fn(self, params: Any, batch: Any, key: Any, flax_mutables: Any = None) -> Any:
            logits = model.apply({"params": params}, batch["tokens"], enable_dropout=False)
            picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["tokens"][..., None], axis=-1)
            return -picked.mean(), {}

    def step(state: Any) -> Any:
        return trainer.train_with_lr(state, {"tokens": tokens()}, jnp.float32(1e-2), None, Loss(), None)[0]

    compiled = jax.jit(step)
    for _ in range(3):
        state = compiled(state)
    return state


PROOFS = {
    "layer": layer,
    "check": check,
    "collections": collections,
    "rules": rules,
    "axes": axes,
    "boxes": boxes,
    "modes": modes,
    "checkpoint": checkpoint,
    "training": training,
    **({} if NOT_RUN else {"trainer": trainer}),
}
