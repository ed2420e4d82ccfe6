"""Kauldron: an NNX MLP in its pre-norm block. The layers and the model are those of docs/pipelines/kauldron.md."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.pipelines import typed
from tests.pipelines.compared import require_equal_bits, shapes
from tests.pipelines.proofs.source import Source

SOURCE = Source("kauldron", "kauldron")
HOST = ("host.target=hosts.Checked", "host.layer_name=null")
TYPED = ("pipeline=kauldron", "layer=custom", *HOST, "input_shape=[2,3,8]")
TOLD = "layer.wrapper=hosts.ToldToLinen"
OWN = "layer.wrapper=kauldron.contrib.modules.nnx_wrapper.LinenFromNnxDef"


@functools.cache
def checked(target: str, *words: str) -> typed.Checked:
    return typed.check(*TYPED, f"layer.target={target}", *words)


def layer(folder: Path) -> str:
    """The tree of the new model is that of the old one, and so are its bits."""
    import hosts
    import jax

    old, new = (_started(model) for model in (hosts.Model(), hosts.Migrated()))
    assert shapes(old) == shapes(new)
    outputs = [
        jax.jit(lambda v, x, model=model: model.apply(v, x, is_training_property=False))(old, _arrays()["tokens"])
        for model in (hosts.Model(), hosts.Migrated())
    ]
    require_equal_bits(*outputs)
    return f"{len(shapes(old))} leaves under Kauldron's names; on the old variables the same bits as with its own MLP"


def check(folder: Path) -> str:
    """A healthy layer passes, with statistics too: Kauldron keeps every collection."""
    found = checked("layers.Mlp", TOLD)
    assert found.code == 0 and not found.failed(), {name: found.details[name] for name in found.failed()}
    moded = checked("faulty.Moded", TOLD)
    assert moded.code == 0 and not moded.failed(), {name: moded.details[name] for name in moded.failed()}
    return "healthy, and with BatchNorm and dropout that are told the mode: exit 0 for both"


def modes(folder: Path) -> str:
    """Kauldron's property reaches no NNX layer."""
    faulty = checked("faulty.Silent")
    failed = faulty.failed()
    assert set(failed) & {"traps", "mode", "pipeline"}, (faulty.verdicts, faulty.details)
    twin = checked("faulty.Moded", TOLD)
    assert not twin.failed(), twin.details
    own = checked("faulty.Silent", OWN)
    assert own.code == 0 and not own.failed(), {name: own.details[name] for name in own.failed()}
    _require_kept_statistics()
    told = "told by ToldToLinen, or by Kauldron's own LinenFromNnxDef, which keeps the statistics, it passes"
    return f"unaware of the mode: *{failed[0]}* fails: {faulty.details[failed[0]]}; {told}"


def _require_kept_statistics() -> None:
    """Kauldron's own wrapper: updates reach the next apply, and evaluation draws nothing and changes nothing."""
    import faulty
    import jax
    import jax.numpy as jnp
    from kauldron import kd
    from kauldron.contrib.modules.nnx_wrapper import LinenFromNnxDef

    layer, x = LinenFromNnxDef(nnx_class=faulty.Silent), jnp.asarray(_arrays()["tokens"])

    def apply(variables: Any, seed: Any, train: bool) -> Any:
        keys = {name: jax.random.fold_in(seed, num) for num, name in enumerate(("dropout", "default"))}
        with kd.nn.set_train_property(train):
            return layer.apply(variables, x, rngs=keys, mutable=True)

    run, seeds = jax.jit(apply, static_argnums=2), [jax.random.key(num) for num in range(2)]
    start = jax.jit(lambda: layer.init({name: jax.random.key(0) for name in ("params", "dropout", "default")}, x))()
    (one, after), (other, _) = (run(start, seed, True) for seed in seeds)
    assert not jnp.array_equal(one, other), "dropout draws nothing in training"
    (one, kept), (other, _) = (run(after, seed, False) for seed in seeds)
    require_equal_bits(one, other)
    assert not jnp.array_equal(one, run(start, seeds[0], False)[0]), "evaluation does not read the statistics"
    require_equal_bits(kept["nnx"]["attributes"], after["nnx"]["attributes"])


def checkpoint(folder: Path) -> str:
    """What Kauldron's trainer leaves is compared, and loaded by Kauldron into the new model."""
    import hosts

    _, place = first_run()
    sides = (f"hosts:Checked()@{place}", "hosts:CheckedMigrated()")
    said = typed.run("diff", *sides, "--input", "[2,3,8]", "--call", "train=False")
    assert said.code == 0, said.text
    # The trainer's last state is one step further than its last checkpoint.
    trainers = [_trainer(model, place.parents[1]) for model in (hosts.Model(), hosts.Migrated())]
    kept, loaded = (one.checkpointer.restore(one.init_state()) for one in trainers)
    num = require_equal_bits(loaded.params, kept.params)
    require_equal_bits(loaded.opt_state, kept.opt_state)
    given = f"Kauldron's Checkpointer gives its {num} params to the new model"
    return f"{place.name} of its trainer: diff exits 0 with a proof; {given}"


def training(folder: Path) -> str:
    """Its train step with Adam from the same params, with the layer and without."""
    old, new = second_runs()
    num = require_equal_bits(old.params, new.params)
    require_equal_bits(old.opt_state, new.opt_state)
    return f"Adam by kd.train.TrainStep: after 3 more steps all {num} params and the moments have the same bits"


def trainer(folder: Path) -> str:
    """kd.train.Trainer.train, from its own data pipeline to its own checkpoints."""
    _, new = second_runs()
    started, _ = first_run()
    assert int(new.step) > int(started.step)
    more = int(new.step) - int(started.step)
    return f"Trainer.train goes on from the old model's checkpoint, {more} steps of the new one"


STEPS = 3


@functools.cache
def _place() -> Path:
    return Path(tempfile.mkdtemp(prefix="kauldron-"))


@functools.cache
def first_run() -> tuple[Any, Path]:
    """The state of Kauldron's own model after training, and its last checkpoint."""
    import hosts

    state, _ = _trainer(hosts.Model(), _place() / "old").train()
    places = (_place() / "old" / "checkpoints").glob("ckpt_*")
    return state, max(places, key=lambda place: int(place.name.removeprefix("ckpt_")))


@functools.cache
def second_runs() -> tuple[Any, Any]:
    """The states of both models, trained on from that checkpoint."""
    import hosts

    _, checkpoint = first_run()
    ends = []
    for name, model in {"again": hosts.Model(), "new": hosts.Migrated()}.items():
        shutil.copytree(checkpoint.parents[1], _place() / name)  # a trainer goes on from what lies in its folder
        ends.append(_trainer(model, _place() / name, num_steps=2 * STEPS).train()[0])
    return ends[0], ends[1]


def _arrays() -> dict[str, Any]:
    import numpy as np

    draw = np.random.default_rng(0).standard_normal
    return {"tokens": draw((16, 3, 8)).astype(np.float32), "target": draw((16, 2)).astype(np.float32)}


def _started(model: Any) -> Any:
    import jax

    keys = {name: jax.random.key(number) for number, name in enumerate(("params", "dropout", "default"))}
    return jax.jit(lambda keys: model.init(keys, _arrays()["tokens"], is_training_property=True))(keys)


def _trainer(model: Any, folder: Path, num_steps: int = STEPS) -> Any:
    import optax
    from kauldron import kd
    from kauldron.train import metric_writer, setup_utils

    return kd.train.Trainer(
        model=model,
        train_ds=kd.data.InMemoryPipeline(loader=_arrays, batch_size=8, seed=0),
        train_losses={"l2": kd.losses.L2(preds="preds", targets="batch.target")},
        optimizer=optax.adam(1e-2),
        num_train_steps=num_steps,
        checkpointer=kd.ckpts.Checkpointer(save_interval_steps=STEPS),
        writer=metric_writer.NoopWriter(),
        setup=setup_utils.Setup(),
        workdir=folder,
    )


PROOFS = {
    "layer": layer,
    "check": check,
    "modes": modes,
    "checkpoint": checkpoint,
    "training": training,
    "trainer": trainer,
}
