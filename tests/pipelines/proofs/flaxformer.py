"""Flaxformer: an NNX MLP in its T5. The layers and the hosts are those of docs/pipelines/flaxformer.md.

Its trainer, train state and checkpoints are T5X's: T5X has to lie beside it.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

from tests.pipelines import t5x_trainer, typed
from tests.pipelines.proofs import stubs, t5x
from tests.pipelines.proofs.source import Source

SOURCE = Source("flaxformer", "google/flaxformer", folder="flaxformer", path=(".", "../t5x"))
stubs.stand_in("aqt", *(["chex"] if t5x.NOT_RUN else []))

HOST = ("host.target=hosts.Encoder", "host.layer_name=null")
TYPED = ("pipeline=flaxformer", "layer=custom", *HOST, *t5x.INPUT)
NOT_RUN = t5x.NOT_RUN


@functools.cache
def checked(target: str, *words: str) -> typed.Checked:
    """What the checks that trace say; those that compile take minutes a layer."""
    return typed.check(*TYPED, f"layer.target={target}", *words, "--traced")


def check(folder: Path) -> str:
    """A healthy layer passes."""
    found = typed.check(*TYPED, "layer.target=layers.Mlp", t5x.AXES)
    assert found.code == 0 and not found.failed(), {name: found.details[name] for name in found.failed()}
    return f"healthy, by AxesToLinen: exit 0, {typed.counted(found)}"


def collections(folder: Path) -> str:
    """Its scan carries params, cache and intermediates alone."""
    faulty = checked("faulty.Stats", t5x.AXES)
    failed = [name for name in faulty.failed() if "norm" in faulty.details[name]]
    assert failed, faulty.details
    assert not checked("layers.Mlp", t5x.AXES).failed()
    return f"BatchNorm in its scan: *{failed[0]}* fails: {faulty.details[failed[0]]}; the healthy twin passes"


def axes(folder: Path) -> str:
    """Its own tests of layouts want as many names as axes; the check says so, and its fix is taken."""
    import hosts
    import jax
    from flax import nnx
    from flax.nnx import bridge
    from flaxformer import testing_utils
    from layers import Mlp

    def described(mlp: Any) -> Any:
        with nnx.use_eager_sharding(False):
            variables = jax.eval_shape(hosts.T5(layer=mlp).init, {"params": jax.random.key(0)}, t5x.tokens())
        return testing_utils.param_dtypes_shapes_axes(variables["params"], variables["params_axes"])

    try:
        described(lambda name=None: bridge.to_linen(Mlp, name=name, metadata_fn=None))
        refused = ""
    except ValueError as error:
        refused = str(error)
    assert refused
    assert described(hosts.mlp) == described(hosts.own_mlp)
    faulty = checked("layers.Mlp", "layer.metadata_fn=none")
    assert faulty.verdicts["axes"] == "fail", faulty.details["axes"]
    assert "AxesToLinen" in faulty.fixes["axes"], faulty.fixes["axes"]
    assert checked("layers.Mlp", t5x.AXES).verdicts["axes"] == "pass"
    said = faulty.details["axes"]
    return f"*axes* fails: {said}; by AxesToLinen its param_dtypes_shapes_axes gives what its own MLP gives"


def boxes(folder: Path) -> str:
    """Numbers as keys break functions that join paths."""
    listed = checked("faulty.Listed", t5x.AXES)
    assert listed.code == 1 and listed.failed(), listed.details
    assert not checked("layers.Mlp", t5x.AXES).failed()
    name = listed.failed()[0]
    return f"nnx.List: *{name}* fails: {listed.details[name]}; the healthy twin passes"


def modes(folder: Path) -> str:
    """Dropout that ignores `enable_dropout`."""
    faulty = checked("faulty.Stuck", t5x.AXES)
    assert faulty.verdicts["mode"] == "fail", faulty.details
    twin = checked("layers.Mlp", t5x.AXES)
    assert twin.verdicts["mode"] == "pass" and not twin.failed(), twin.details
    return f"dropout that ignores `enable_dropout`: *mode* fails: {faulty.details['mode']}; the healthy twin passes"


def trainer(folder: Path) -> str:
    """T5X's train.train, with dropout off in both MLPs."""
    import hosts
    from flaxformer.architectures.t5 import t5_architecture

    from runner.bridge.layers.axes import AxesToLinen

    def host(mlp: Any) -> Any:
        module = t5_architecture.EncoderDecoder(
            shared_token_embedder_factory=hosts.embedding,
            encoder_factory=functools.partial(hosts.encoder, mlp=mlp),
            decoder_factory=functools.partial(hosts.decoder, mlp=mlp),
            scan_layers=True,
        )
        return contextlib.nullcontext(module)

    own = functools.partial(hosts.common.mlp_block, 32, 0.0, ("relu",), dtype=hosts.jnp.float32)
    new = functools.partial(AxesToLinen, hosts.Mlp, args=(16, 32, 0.0))
    return t5x_trainer.proved(functools.partial(host, own), functools.partial(host, new), folder)


PROOFS = {
    "layer": t5x.layer,
    "check": check,
    "collections": collections,
    "axes": axes,
    "boxes": boxes,
    "modes": modes,
    "checkpoint": t5x.checkpoint,
    "training": t5x.training,
    **({} if NOT_RUN else {"trainer": trainer}),
}
