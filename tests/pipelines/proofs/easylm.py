"""EasyLM: an NNX feed_forward in its LLaMA. The layers and the host are those of docs/pipelines/easylm.md."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.pipelines import typed
from tests.pipelines.compared import require_equal_bits, shapes
from tests.pipelines.proofs import stubs
from tests.pipelines.proofs.source import Source

SOURCE = Source("EasyLM", "young-geng/EasyLM", folder="easylm", needs=("mlxu", "transformers<5", "einops"))
stubs.stand_in("datasets")  # of Hugging Face: read by DatasetFactory alone

RULES = "rules=EasyLM.models.llama.llama_model:LLaMAConfigurator.get_partition_rules()"
TYPED = (
    "pipeline=easylm",
    "layer=custom",
    "host.layer_name=null",
    "input=tokens",
    "input.high=64",
    "input_shape=[2,8]",
)


def layer(folder: Path) -> str:
    """The tree of the new model is that of the old one, and so are its bits, with remat and in chunks."""
    import hosts
    import jax

    old = jax.jit(hosts.Llama().init)(_keys(), _tokens())
    new = jax.jit(hosts.Migrated().init)(_keys(), _tokens())
    assert shapes(old) == shapes(new)
    calls = [hosts.Llama(), hosts.Migrated(), hosts.Chunked(), hosts.Chunked(layer=hosts.swiglu)]
    whole, ours, chunked, ours_chunked = (
        jax.jit(lambda v, x, call=call: call.apply(v, x, deterministic=True))(old, _tokens()) for call in calls
    )
    require_equal_bits([whole, chunked], [ours, ours_chunked])
    return (
        f"{len(shapes(old))} leaves under EasyLM's own names, under its remat; on the old variables the same bits as "
        "with its own feed_forward, and with scan_mlp too"
    )


def check(folder: Path) -> str:
    """A healthy layer passes."""
    found = typed.check(*TYPED, "host.target=hosts.Llama", "layer.target=layers.SwiGLU", RULES)
    assert found.code == 0 and not found.failed(), {name: found.details[name] for name in found.failed()}
    return f"healthy: exit 0, {typed.counted(found)}"


def collections(folder: Path) -> str:
    """EasyLM's scan_mlp carries params alone."""
    faulty = typed.check(*TYPED, "host.target=hosts.Chunked", "layer.target=faulty.Normed")
    assert faulty.verdicts["complete"] == "fail", faulty.details["complete"]
    twin = typed.check(*TYPED, "host.target=hosts.Chunked", "layer.target=layers.SwiGLU")
    assert twin.verdicts["complete"] == "pass", twin.details["complete"]
    return f"BatchNorm inside scan_mlp: *complete* fails: {faulty.details['complete']}; the healthy twin passes"


def rules(folder: Path) -> str:
    """The catch-all of EasyLM's rules replicates what no other rule knows."""
    import hosts

    assert hosts.Renamed.layer is not hosts.Migrated.layer
    words = ("--input", "[2,8]", "--input-dtype", "int32", RULES)
    faulty = typed.run("diff", "hosts:Llama()", "hosts:Renamed()", *words)
    catch_all = [line for line in faulty.text.splitlines() if "catch-all" in line]
    assert catch_all, faulty.text
    twin = typed.run("diff", "hosts:Llama()", "hosts:Migrated()", *words)
    assert "catch-all" not in twin.text, twin.text
    return f"gate, up, down: diff with EasyLM's rules says: {' '.join(catch_all[0].split())}; not of w1, w2, w3"


def boxes(folder: Path) -> str:
    """A box ends in `kernel/value`, which no checkpoint of EasyLM has."""
    words = (*TYPED, "host.target=hosts.Llama", "layer.target=faulty.Boxed", "mesh.axes={fsdp:1,mp:1}")
    faulty, twin = typed.check(*words), typed.check(*words, "layer.metadata_fn=none")
    assert faulty.verdicts["sharding"] == "fail", faulty.details["sharding"]
    assert twin.verdicts["sharding"] == "pass", twin.details["sharding"]
    return f"axis names: *sharding* fails: {faulty.details['sharding']}; with layer.metadata_fn=none it passes"


def modes(folder: Path) -> str:
    """The block hands `deterministic` to the layer by position."""
    words = (*TYPED, "host.target=hosts.Llama", "host.call.deterministic=true")
    faulty, twin = typed.check(*words, "layer.target=faulty.Stuck"), typed.check(*words, "layer.target=layers.SwiGLU")
    assert faulty.verdicts["mode"] == "fail", faulty.details["mode"]
    assert twin.verdicts["mode"] == "pass", twin.details["mode"]
    return f"dropout that ignores `deterministic`: *mode* fails: {faulty.details['mode']}; the healthy twin passes"


def checkpoint(folder: Path) -> str:
    """A stream of EasyLM's own is compared, and restored by it into the train state of the new model."""
    import hosts
    import jax
    from EasyLM.checkpoint import StreamingCheckpointer

    state = _train_state(hosts.Llama())
    writer = StreamingCheckpointer({"float_dtype": "fp32"}, str(folder))
    gather = jax.tree.map(lambda _: jax.device_get, state)
    writer.save_all(state, gather)
    said = typed.run(
        "diff", "hosts:Llama()@streaming_params", "hosts:Migrated()", "--input", "[2,8]", "--input-dtype", "int32"
    )
    assert said.code == 0, said.text
    target = jax.eval_shape(lambda: _train_state(hosts.Migrated()))
    _, restored = StreamingCheckpointer.load_trainstate_checkpoint("params::streaming_params", target)
    num = require_equal_bits(restored, state.params)
    return f"its stream of {num} leaves: diff exits 0 with a proof; load_trainstate_checkpoint gives all bits back"


def training(folder: Path) -> str:
    """Three steps of EasyLM's AdamW over its TrainState, sharded by its rules, from the same params."""
    import hosts

    start = hosts.Llama().init(_keys(), _tokens())
    old, losses = _trained(hosts.Llama(), start)
    new, ours = _trained(hosts.Migrated(), start)
    assert losses == ours, (losses, ours)
    num = require_equal_bits(old.params, new.params)
    require_equal_bits(old.opt_state, new.opt_state)
    return f"losses {', '.join(f'{loss:.6f}' for loss in losses)}; all {num} params and the moments have the same bits"


def trainer(folder: Path) -> str:
    """llama_train.main, with a data set of ours and no logger: first from scratch, then on from what that left."""
    import hosts

    _train(folder / "first", None)
    load = f"params::{folder}/first/streaming_params"
    plain, ours = (_train(folder / name, part, load) for name, part in (("old", None), ("new", hosts.swiglu)))
    num = require_equal_bits(plain, ours)
    return (
        "llama_train.main with a data set of ours: 3 steps on from its own stream, with the layer and without; the "
        f"streams that it leaves have the same bits in all {num} leaves"
    )


def _keys() -> dict[str, Any]:
    import jax
    from EasyLM.models.llama.llama_model import LLaMAConfigurator

    return dict(zip(LLaMAConfigurator.rng_keys(), jax.random.split(jax.random.PRNGKey(0), 3), strict=True))


def _tokens() -> Any:
    import numpy as np

    return np.arange(16, dtype=np.int32).reshape(2, 8)


@functools.cache
def _optimizer() -> Any:
    from EasyLM.optimizers import OptimizerFactory

    adamw = {"lr": 0.01, "lr_warmup_steps": 1, "init_lr": 0.01}
    return OptimizerFactory.get_optimizer({"adamw_optimizer": adamw})[0]


def _train_state(model: Any) -> Any:
    from flax.training.train_state import TrainState

    return TrainState.create(params=model.init(_keys(), _tokens()), tx=_optimizer(), apply_fn=None)


def _trained(model: Any, params: Any) -> tuple[Any, list[float]]:
    """The state and the losses of three steps from `params`, as llama_train.py takes them."""
    import jax
    from EasyLM.jax_utils import cross_entropy_loss_and_accuracy, match_partition_rules
    from EasyLM.models.llama.llama_model import LLaMAConfigurator
    from flax.training.train_state import TrainState
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = LLaMAConfigurator.get_jax_mesh("1,-1,1")

    def create(params: Any) -> Any:
        return TrainState.create(params=params, tx=_optimizer(), apply_fn=None)

    specs = match_partition_rules(LLaMAConfigurator.get_partition_rules(), jax.eval_shape(create, params))
    placed = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda node: isinstance(node, PartitionSpec)
    )

    def step(state: Any, rng: Any) -> Any:
        def loss(params: Any) -> Any:
            rngs = dict(zip(LLaMAConfigurator.rng_keys(), jax.random.split(rng, 3), strict=True))
            logits = model.apply(params, _tokens(), deterministic=False, rngs=rngs)
            return cross_entropy_loss_and_accuracy(logits, _tokens() + 1)[0]

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    with mesh:
        state = jax.jit(create, out_shardings=placed)(params)
        step = jax.jit(step, out_shardings=(placed, None))
        losses = []
        for rng in jax.random.split(jax.random.PRNGKey(1), 3):
            state, value = step(state, rng)
            losses.append(float(value))
    return state, losses


class _Data:
    """What llama_train.main asks of a data set: batches of tokens, each with its metrics."""

    seq_length = 8
    tokenizer = None

    def __iter__(self) -> Iterator[Any]:
        batch = {"input_tokens": _tokens(), "target_tokens": _tokens() + 1, "loss_masks": _tokens() * 0 + 1.0}
        while True:
            yield batch, {}

    def get_state_dict(self) -> dict[str, Any]:
        return {}


def _train(folder: Path, part: Any, load: str = "") -> Any:
    """What llama_train.main leaves after three steps from `load`, with `part` in the place of each feed_forward."""
    import hosts
    import mlxu
    from EasyLM.checkpoint import StreamingCheckpointer

    with mock.patch("sys.argv", ["llama_train"]):
        from EasyLM.models.llama import llama_train
    folder.mkdir()
    flags = llama_train.FLAGS
    flags(["llama_train"])
    flags.total_steps, flags.save_model_freq, flags.load_checkpoint = 3, 3, load
    flags.llama.update(hosts.TINY)
    flags.checkpointer.float_dtype = "fp32"
    flags.optimizer.adamw_optimizer.lr_warmup_steps = 1
    logger = SimpleNamespace(output_dir=str(folder), log=lambda values: None)
    with (
        hosts.replaced(part),
        mock.patch.object(mlxu, "WandBLogger", return_value=logger),
        mock.patch.object(llama_train, "AutoTokenizer", mock.MagicMock()),
        mock.patch.object(llama_train.DatasetFactory, "load_dataset", return_value=_Data()),
    ):
        llama_train.main(None)
    return StreamingCheckpointer.load_checkpoint(str(folder / "streaming_params"))


PROOFS = {
    "layer": layer,
    "check": check,
    "collections": collections,
    "rules": rules,
    "boxes": boxes,
    "modes": modes,
    "checkpoint": checkpoint,
    "training": training,
    "trainer": trainer,
}
