"""big_vision: an NNX MLP in its ViT. The layers and the host are those of docs/pipelines/big_vision.md."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from tests.pipelines import typed
from tests.pipelines.compared import require_equal_bits, shapes
from tests.pipelines.proofs import stubs
from tests.pipelines.proofs.source import Source

SOURCE = Source("big_vision", "google-research/big_vision", folder="big_vision", needs=("ml_collections", "einops"))
HAS_DATA = importlib.util.find_spec("tensorflow") is not None and importlib.util.find_spec("clu") is not None
if not HAS_DATA:
    stubs.stand_in("tensorflow", "clu")  # of TensorFlow only gfile is called
    stubs.local_gfile()

# The head starts from zeros unless it is told otherwise, and then nothing can be said of the layers before it.
HOST = ("host.target=hosts.ViT", "host.layer_name=null", "host.kwargs.head_zeroinit=false", "input_shape=[2,8,8,3]")
TYPED = ("pipeline=big_vision", "layer=custom", *HOST)

TINY = {"width": 16, "depth": 2, "mlp_dim": 32, "num_heads": 2}
NOT_RUN = {} if HAS_DATA else {"trainer": "train.py reads its data by tf.data, and TensorFlow is a stand-in here"}


def layer(folder: Path) -> str:
    """The tree of the new model is that of the old one, and so are its bits, in a loop and scanned."""
    import hosts
    import jax

    num = 0
    for scan in (False, True):
        old, new = (model(scan=scan, head_zeroinit=False) for model in (hosts.ViT, hosts.Migrated))
        params = jax.jit(old.init)(jax.random.PRNGKey(0), _image())["params"]
        assert shapes(params) == shapes(jax.eval_shape(new.init, jax.random.PRNGKey(0), _image())["params"])
        outputs = [jax.jit(model.apply)({"params": params}, _image()) for model in (old, new)]
        num += require_equal_bits(*outputs) * len(shapes(params))
    return f"in a loop and scanned under remat, {num} leaves: its own names, and the same bits on the old variables"


def check(folder: Path) -> str:
    """A healthy layer passes, scanned."""
    found = typed.check(*TYPED, "host.kwargs.scan=true", "layer.target=layers.Mlp")
    assert found.code == 0 and not found.failed(), {name: found.details[name] for name in found.failed()}
    return f"healthy, in its scan: exit 0, {typed.counted(found)}"


def collections(folder: Path) -> str:
    """Its encoder's scan carries params alone."""
    words = (*TYPED, "host.kwargs.scan=true")
    faulty = typed.check(*words, "layer.target=faulty.Normed")
    assert faulty.verdicts["complete"] == "fail", faulty.details["complete"]
    twin = typed.check(*words, "layer.target=layers.Mlp")
    assert twin.verdicts["complete"] == "pass", twin.details["complete"]
    return f"BatchNorm in its scan: *complete* fails: {faulty.details['complete']}; the healthy twin passes"


def rules(folder: Path) -> str:
    """`wd_mults` know a kernel by its name, and joining names wants text."""
    faulty, listed = (typed.check(*TYPED, f"layer.target=faulty.{name}") for name in ("Named", "Listed"))
    assert faulty.verdicts["rules"] != "pass", faulty.details["rules"]
    assert listed.failed(), listed.details
    twin = typed.check(*TYPED, "layer.target=layers.Mlp")
    assert twin.verdicts["rules"] == "pass", twin.details["rules"]
    first = listed.failed()[0]
    return (
        f"w_in, w_out: *rules* {faulty.verdicts['rules']}: {faulty.details['rules']}; nnx.List: *{first}* fails: "
        f"{listed.details[first]}; the healthy twin passes"
    )


def boxes(folder: Path) -> str:
    """A box is a dataclass, so big_vision's names end in `kernel/value`."""
    import faulty as layers
    import hosts
    import jax
    from big_vision import utils
    from flax.nnx import bridge

    words = (*TYPED, "layer.target=faulty.Boxed", "mesh.axes={embed:1,mlp:1}")
    boxed, bare = typed.check(*words), typed.check(*words, "layer.metadata_fn=none")
    assert boxed.failed(), boxed.details
    assert not bare.failed(), {name: bare.details[name] for name in bare.failed()}
    with jax.set_mesh(jax.make_mesh((1, 1), ("embed", "mlp"))):
        model = hosts.ViT(layer=lambda name=None: bridge.to_linen(layers.Boxed, name=name))
        params = jax.eval_shape(model.init, jax.random.PRNGKey(0), _image())["params"]
    names = [name for name, _ in utils.tree_flatten_with_names(params)[0] if name.endswith("value")]
    first = boxed.failed()[0]
    return f"axis names: big_vision sees {names[0]}; *{first}* fails: {boxed.details[first]}; bare arrays pass"


def modes(folder: Path) -> str:
    """Evaluation is train=False, which the block hands to the layer by position."""
    words = (*TYPED, "host.call.train=false")
    faulty = typed.check(*words, "layer.target=faulty.Dropped", "layer.init_rngs=[params,dropout]")
    assert faulty.verdicts["mode"] == "fail", faulty.details["mode"]
    twin = typed.check(*words, "layer.target=layers.Mlp")
    assert twin.verdicts["mode"] == "pass", twin.details["mode"]
    asked = typed.run("check", *TYPED, "layer.target=faulty.Dropped")
    assert asked.code, asked.text
    return (
        f"dropout that ignores `deterministic`: *mode* fails: {faulty.details['mode']}; without a dropout key for "
        "init, as in train.py, it is refused; the healthy twin passes"
    )


def checkpoint(folder: Path) -> str:
    """An npz as big_vision publishes them, and its own loader of them."""
    import hosts
    import jax
    import numpy as np
    from big_vision import utils
    from big_vision.models import vit

    params = hosts.ViT(head_zeroinit=False).init(jax.random.PRNGKey(0), _image())["params"]
    np.savez("vit.npz", **dict(utils.tree_flatten_with_names(jax.device_get(params))[0]))
    old, new = (f"hosts:{name}(head_zeroinit=False)" for name in ("ViT", "Migrated"))
    said = typed.run("diff", f"{old}@vit.npz", new, "--input", "[2,8,8,3]")
    assert said.code == 0, said.text
    fresh = hosts.Migrated(head_zeroinit=False).init(jax.random.PRNGKey(1), _image())["params"]
    restored = vit.load(fresh, str(folder / "vit.npz"), {"scan": False})
    num = require_equal_bits(restored, params)
    return f"npz of {num} leaves: diff exits 0 with a proof; vit.load gives all bits to the new model"


def training(folder: Path) -> str:
    """Three steps by the optimiser that big_vision's own optax.make gives, with weight decay."""
    import hosts

    (old, losses), (new, ours) = (_trained(model) for model in (hosts.ViT, hosts.Migrated))
    assert losses == ours, (losses, ours)
    num = require_equal_bits(old, new)
    return (
        f"optax.make with wd, scanned: losses {', '.join(f'{loss:.6f}' for loss in losses)}; all {num} leaves same bits"
    )


def trainer(folder: Path) -> str:
    """train.main on a data set of ours, from its own checkpoint of the old model, with the layer and without."""
    import shutil

    import hosts
    import tensorflow
    from big_vision import utils

    _main(folder / "old", None, steps=3)
    ends = []
    for name, layer in (("again", None), ("new", hosts.mlp)):
        shutil.copytree(folder / "old", folder / name)  # it goes on from what lies in its folder
        _main(folder / name, layer, steps=6)
        saved = utils.load_checkpoint_ts(str(folder / name / "checkpoint.bv"))
        ends.append({key: saved[key] for key in ("params", "opt")})
    num = require_equal_bits(*ends)
    return (
        "train.main, scanned, with a data set of ours by tf.data: it goes on from its checkpoint.bv for 3 steps, with "
        f"the layer and without: all {num} leaves of params and optimiser alike (TensorFlow {tensorflow.__version__})"
    )


def _main(folder: Path, layer: Any, *, steps: int) -> None:
    """`python -m big_vision.train --config … --workdir folder`."""
    import contextlib
    from types import SimpleNamespace
    from unittest import mock

    import big_vision.train as train
    import ml_collections
    from big_vision import utils
    from big_vision.models import vit

    _add_data()
    config = ml_collections.ConfigDict(
        {
            "input": {"data": {"name": "bv:ours"}, "batch_size": 4, "pp": 'keep("image","labels")'},
            "pp_modules": ["ops_general"],
            "num_classes": 5,
            "model_name": "vit",
            "model": {**TINY, "patch_size": (4, 4), "head_zeroinit": False, "scan": True},
            "optax_name": "scale_by_adam",
            "lr": 0.01,
            "wd": 0.1,
            "schedule": {"decay_type": "cosine"},
            "total_steps": steps,
            "ckpt_steps": 1,
            "log_training_steps": 1,
            "evals": {},
        }
    )
    typed_flags = SimpleNamespace(config=config, workdir=str(folder), cleanup=False)
    with contextlib.ExitStack() as stack:
        # It waits for other hosts by PositionalSharding, which JAX has taken away.
        stack.enter_context(mock.patch.object(utils, "sync"))
        stack.enter_context(mock.patch.object(train.flags, "FLAGS", typed_flags))
        if layer is not None:
            stack.enter_context(mock.patch.object(vit, "MlpBlock", functools.partial(_block, layer)))
        train.main([])


def _block(layer: Any, **_: Any) -> Any:
    return layer(name="MlpBlock_0")


def _add_data() -> None:
    """A data set `bv:ours` of eight images, as big_vision.datasets.core asks for one."""
    import sys
    from types import ModuleType

    import numpy as np
    import tensorflow as tf

    class DataSource:
        total_examples = 8

        def get_tfdata(self, ordered: bool, **_: Any) -> Any:
            draw = np.random.default_rng(0)
            images, labels = draw.standard_normal((8, 8, 8, 3)), np.eye(5)[draw.integers(0, 5, 8)]
            parts = {"image": images.astype("float32"), "labels": labels.astype("float32")}
            return tf.data.Dataset.from_tensor_slices(parts)

    module = ModuleType("big_vision.datasets.ours")
    vars(module)["DataSource"] = DataSource
    sys.modules[module.__name__] = module


def _image() -> Any:
    import jax.numpy as jnp

    return jnp.linspace(-1.0, 1.0, 2 * 8 * 8 * 3).reshape(2, 8, 8, 3)


def _trained(kind: Any) -> tuple[Any, list[float]]:
    """Params and losses of three steps, as train.py's update_fn takes them."""
    import hosts
    import jax
    import jax.numpy as jnp
    import ml_collections
    import optax
    from big_vision import optax as bv_optax
    from big_vision import utils

    model = kind(scan=True, head_zeroinit=False)
    settings = {"optax_name": "scale_by_adam", "lr": 0.01, "wd": 0.1, "schedule": {"decay_type": "cosine"}}
    config = ml_collections.ConfigDict(settings)
    params = hosts.ViT(scan=True, head_zeroinit=False).init(jax.random.PRNGKey(0), _image())["params"]
    sizes = {"total_steps": 3, "batch_size": 2, "data_size": 6}
    tx, _ = bv_optax.make(config, params, sched_kw=sizes)
    labels = jnp.eye(5)[:2]

    def step(params: Any, opt: Any, rng: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = model.apply({"params": params}, _image(), train=True, rngs={"dropout": rng})
            return utils.sigmoid_xent(logits=logits, labels=labels)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, value

    step, opt, losses = jax.jit(step), tx.init(params), []
    for rng in jax.random.split(jax.random.PRNGKey(1), 3):
        params, opt, value = step(params, opt, rng)
        losses.append(float(value))
    return params, losses


PROOFS = {
    "layer": layer,
    "check": check,
    "collections": collections,
    "rules": rules,
    "boxes": boxes,
    "modes": modes,
    "checkpoint": checkpoint,
    "training": training,
} | ({"trainer": trainer} if HAS_DATA else {})
