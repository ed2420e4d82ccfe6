"""MaxText: an NNX block in its Linen decoder. The layers and the host are those of docs/pipelines/maxtext.md."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tests.pipelines import typed
from tests.pipelines.compared import filled, named, require_equal_bits, shapes
from tests.pipelines.proofs import stubs
from tests.pipelines.proofs.source import Source

SOURCE = Source(
    "maxtext",
    "AI-Hypercomputer/maxtext",
    folder="maxtext",
    path=("src",),
    needs=("aqt", "qwix", "grain", "pathwaysutils", "huggingface_hub", "sympy", "tokenizers"),
)
# Kernels, readers of data, loggers and clouds, none of which a decoder on a CPU calls.
ABSENT = (
    "cloud_accelerator_diagnostics", "datasets", "drjax", "google.cloud", "ml_goodput_measurement", "sentencepiece",
    "tensorflow", "tensorflow_datasets", "tiktoken", "tokamax", "tpu_inference", "transformer_engine", "transformers",
)  # fmt: skip
stubs.stand_in(*ABSENT)

HOST = ("host.target=hosts.Decoder", "host.layer_name=null")
TYPED = ("pipeline=maxtext", "layer=custom", *HOST, "input=tokens", "input.high=64", "input_shape=[2,8]")
OWN = "layer.wrapper=maxtext.layers.nnx_wrappers.ToLinen"


@functools.cache
def checked(target: str, *words: str) -> typed.Checked:
    return typed.check(*TYPED, f"layer.target={target}", *words)


def layer(folder: Path) -> str:
    """The tree of the new model is that of the old one, boxes too, and so are its bits."""
    import hosts
    import jax

    old, new = (jax.jit(model.init)(_keys(), _tokens()) for model in (hosts.Decoder(), hosts.Migrated()))
    assert shapes(old) == shapes(new)
    outputs = [jax.jit(model.apply)(old, _tokens()) for model in (hosts.Decoder(), hosts.Migrated())]
    require_equal_bits(*outputs)
    return (
        f"{len(shapes(old))} leaves in LogicallyPartitioned under MaxText's names, in its scan; on the old variables "
        "the same bits as with its simple_mlp block"
    )


def check(folder: Path) -> str:
    """A healthy layer passes."""
    found = checked("layers.Mlp", OWN)
    assert found.code == 0 and not found.failed(), {name: found.details[name] for name in found.failed()}
    return "healthy, by its own ToLinen: exit 0"


def collections(folder: Path) -> str:
    """MaxText's scan carries seven collections, and none of one's own."""
    faulty = checked("faulty.Averaging", OWN)
    failed = [name for name in faulty.failed() if "average" in faulty.details[name].lower()]
    assert failed, faulty.details
    assert failed[0] not in checked("layers.Mlp", OWN).failed()
    return f"an nnx.Variable of one's own: *{failed[0]}* fails: {faulty.details[failed[0]]}; the healthy twin passes"


def boxes(folder: Path) -> str:
    """MaxText unwraps LogicallyPartitioned alone."""
    faulty = checked("layers.Mlp", "layer.metadata_fn=default")
    failed = [name for name in ("pipeline", "sharding") if faulty.verdicts.get(name) == "fail"]
    assert failed, faulty.details
    twin = checked("layers.Mlp", OWN)
    assert not [name for name in ("pipeline", "sharding") if twin.verdicts.get(name) == "fail"], twin.details
    return f"flax's own box: *{failed[0]}* fails: {faulty.details[failed[0]]}; MaxText's box passes"


def checkpoint(folder: Path) -> str:
    """A checkpoint by MaxText's manager is compared, and restored by it into the train state of the new model."""
    import hosts
    from maxtext.common import checkpointing

    state = _train_state(None)
    state = state.replace(params=filled(state.params))
    manager = checkpointing.create_orbax_checkpoint_manager(str(folder / "saved"), True, False, 1)
    checkpointing.save_checkpoint(manager, 0, state)
    manager.wait_until_finished()
    said = typed.run("diff", "hosts:Decoder()@saved", "hosts:Migrated()", "--input", "[2,8]", "--input-dtype", "int32")
    assert said.code == 0, said.text
    restored, _ = checkpointing.load_state_if_possible(manager, None, "", "", 8, _train_state(hosts.mlp))
    num = require_equal_bits(restored["items"].params, state.params)
    return f"step 0 of its manager: diff exits 0 with a proof; load_state_if_possible gives all {num} params back"


def training(folder: Path) -> str:
    """Three of MaxText's train steps from the same params."""
    import hosts

    start = filled(_train_state(None).params)
    old, new = (_trained(layer, start) for layer in (None, hosts.mlp))
    num = require_equal_bits(old.params, new.params)
    require_equal_bits(old.opt_state, new.opt_state)
    return (
        f"trainers.pre_train.train.train_step, AdamW: after 3 steps all {num} params and the moments have the same bits"
    )


def trainer(folder: Path) -> str:
    """train.main on its synthetic data, from its own checkpoint of the old model, with the layer and without."""
    import shutil

    import hosts

    _main(folder, "old", None, steps=3)
    ends = []
    for name, layer in (("again", None), ("new", hosts.mlp)):
        shutil.copytree(folder / "old", folder / name)  # it goes on from what lies in its folder
        _main(folder, name, layer, steps=6)
        ends.append(_saved(folder / name, step=5))
    num = require_equal_bits(*ends)
    before, after = (named(_saved(folder / "new", step=step)["params"]) for step in (2, 5))
    assert all((before[name] != after[name]).any() for name in before)
    return f"train.main goes on from its step 2 for 3 steps, with the layer and without: all {num} saved leaves alike"


def _main(folder: Path, name: str, layer: Any, *, steps: int) -> None:
    """MaxText's `python -m maxtext.trainers.pre_train.train`, with a checkpoint at each step."""
    import hosts
    import maxtext
    from maxtext.trainers.pre_train import train

    own = {"run_name", "base_output_directory", "enable_checkpointing", "steps"}
    words = [word for word in hosts.TINY.split() if word.partition("=")[0] not in own]
    words += [f"run_name={name}", f"base_output_directory={folder}", f"steps={steps}", "enable_checkpointing=True"]
    base = Path(next(iter(maxtext.__path__))) / "configs" / "base.yml"
    with hosts.replaced(layer) if layer else nullcontext():
        train.main([None, str(base), *words, "checkpoint_period=1"])


def _saved(folder: Path, *, step: int) -> Any:
    import orbax.checkpoint as ocp

    return ocp.PyTreeCheckpointer().restore(folder / "checkpoints" / str(step) / "items")


def _keys() -> dict[str, Any]:
    import jax

    return {name: jax.random.PRNGKey(number) for number, name in enumerate(("params", "dropout", "aqt"))}


def _tokens() -> Any:
    import numpy as np

    return 1 + np.arange(16, dtype=np.int32).reshape(2, 8)


def _decoding(layer: Any) -> Any:
    """MaxText's names for axes, and `layer` as its block."""
    import contextlib

    import flax.linen as nn
    import hosts

    stack = contextlib.ExitStack()
    stack.enter_context(hosts.replaced(layer) if layer else nullcontext())
    stack.enter_context(hosts.mesh())
    stack.enter_context(nn.logical_axis_rules(hosts.config().logical_axis_rules))
    return stack


@functools.cache
def _model(layer: Any) -> tuple[Any, Any]:
    import hosts
    from maxtext.models import models
    from maxtext.optimizers import optimizers
    from maxtext.utils import maxtext_utils

    model = models.transformer_as_linen(hosts.config(), hosts.mesh(), None)
    rate = maxtext_utils.create_learning_rate_schedule(hosts.config())
    return model, optimizers.get_optimizer(hosts.config(), rate, model)


def _train_state(layer: Any) -> Any:
    """As MaxText sets it up: without boxes."""
    import hosts
    import jax
    from maxtext.utils import max_utils, maxtext_utils

    model, optimizer = _model(layer)
    with _decoding(layer):
        create = functools.partial(maxtext_utils.init_initial_state, model, optimizer, hosts.config(), True)
        return max_utils.unbox_logicallypartioned(jax.jit(create)(jax.random.PRNGKey(0)))


def _trained(layer: Any, params: Any) -> Any:
    """The state after three steps from `params`."""
    import hosts
    import jax
    from maxtext.trainers.pre_train import train

    model, _ = _model(layer)
    names = [f"{side}{part}" for side in ("inputs", "targets") for part in ("", "_position", "_segmentation")]
    data = {name: _tokens() if name in ("inputs", "targets") else 0 * _tokens() + 1 for name in names}
    state = _train_state(layer).replace(params=params)
    with _decoding(layer):
        step = jax.jit(
            lambda state, key: train.train_step(model, hosts.config(), None, None, state, dict(data), key)[0]
        )
        for number in range(3):
            state = step(state, jax.random.PRNGKey(number))
    return state


PROOFS = {
    "layer": layer,
    "check": check,
    "collections": collections,
    "boxes": boxes,
    "checkpoint": checkpoint,
    "training": training,
    "trainer": trainer,
}
