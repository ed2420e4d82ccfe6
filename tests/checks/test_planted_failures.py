"""The twenty failures of the bridge, in the order of `bridge-facts.md`: each is planted, and the right check says so.

Ten are silent, seven are errors, three are traps. What fixes each is tested beside its check.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flax
import jax
import jax.numpy as jnp
import pytest
from flax import errors, nnx
from flax import linen as nn
from flax.nnx import bridge
from packaging.version import Version

import runner
from runner.records.record import Verdict

KEY = jax.random.key(0)
BOTH = {"params": KEY, "carry": KEY}
X = jnp.ones((2, 8))
TOKEN = jnp.ones((1, 1, 8))
SEQUENCE = jnp.ones((2, 3, 8))

LINEAR = bridge.to_linen(nnx.Linear, 8, 8)
# Made outside of what uses it; zeros, since random kernels take seconds to compile.
ZEROS = nnx.initializers.zeros_init()
CELL = nnx.LSTMCell(8, 8, kernel_init=ZEROS, recurrent_kernel_init=ZEROS, rngs=nnx.Rngs(0))
BATCH_NORM = bridge.to_linen(nnx.BatchNorm, 8)
DROPOUT = bridge.to_linen(nnx.Dropout, 0.0, deterministic=False)
KERNEL = {"params": {"kernel": jnp.ones((8, 8))}}
NARROW = {"params": {"kernel": jnp.ones((8, 5)), "bias": jnp.ones(5)}}
ELSEWHERE = {"weights": {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)}}

# Flax made the scales of its WeightNorm Params.
RAW_SCALES = Version(flax.__version__) < Version("0.12.12")


class Old(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.Dense(8)(x)
        return x


class New(nn.Module):
    """`Old` with an NNX layer in the middle, to which nobody gave a name."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(bridge.to_linen(nnx.Linear, 8, 8)(nn.Dense(8)(x)))


class TwoDropouts(nn.Module):
    @nn.compact
    def __call__(self, x):
        return [bridge.to_linen(nnx.Dropout, 0.5, deterministic=False)(x) for _ in range(2)]


class DropsThenDense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(bridge.to_linen(nnx.Dropout, 0.0, deterministic=False)(x))


class CalledTwice(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = bridge.to_linen(nnx.Linear, 8, 8)
        return layer(layer(x))


class LinenInside(nnx.Module):
    def __init__(self, *, rngs):
        self.dense = bridge.ToNNX(nn.Dense(8), rngs=rngs)

    def __call__(self, x):
        return self.dense(x)


def sharded(*, rngs):
    init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("data", "model"))
    return nnx.Linear(8, 8, kernel_init=init, rngs=rngs)


class RawKernel(nnx.Module):
    def __init__(self, *, rngs):
        self.kernel = nnx.data(jax.random.normal(rngs.params(), (8, 8)))

    def __call__(self, x):
        return x @ self.kernel


def weight_norm(*, rngs):
    return nnx.WeightNorm(nnx.Linear(8, 8, rngs=rngs), rngs=rngs)


def spectral_norm(*, rngs):
    return nnx.SpectralNorm(nnx.Linear(8, 8, rngs=rngs), rngs=rngs, update_stats=False)


def sequential(*, rngs):
    return nnx.Sequential(nnx.Linear(8, 8, rngs=rngs))


def rnn(*, rngs):
    return nnx.RNN(nnx.LSTMCell(8, 8, rngs=rngs), rngs=rngs)


class Decodes(nnx.Module):
    def __init__(self, *, rngs):
        self.attention = nnx.MultiHeadAttention(2, 8, decode=True, rngs=rngs)

    def __call__(self, x):
        if self.attention.cached_key is None:
            self.attention.init_cache((1, 4, 8))
        return self.attention(x)


class Sows(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        y = self.linear(x)
        self.sow(nnx.Intermediate, "seen", y)
        return y


class Block(nnx.Module):
    """Drops in every call, whatever is set from outside."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(8, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.linear(x), deterministic=False)


def normal():
    """Its initialiser is another function at every call."""
    return bridge.to_linen(nnx.Linear, 8, 8, kernel_init=nnx.initializers.normal(0.1))


def with_sown(model):
    variables = model.init(KEY, X)
    return {**variables, **model.apply(variables, X, mutable=["intermediates"])[1]}


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A failure: what is wrong, what flax does then, and which check says so in which words (or begins with them)."""

    model: Any
    x: Any = field(default_factory=lambda: X)
    given: Callable[[], dict[str, Any]] = dict
    does: Callable[[], Any]
    raises: tuple[type[Exception], str] | None = None
    check: str
    verdict: Verdict = Verdict.fail
    words: str
    around: Callable[[], Any] = contextlib.nullcontext


FAILURES = {
    "1 no variables": Planted(
        model=LINEAR,
        given=lambda: {"variables": {}},
        does=lambda: LINEAR.apply({}, X),
        check="nothing_invented",
        words="apply makes up params/bias, params/kernel, from key 0 whatever the seed",
    ),
    "1 a leaf missing": Planted(
        model=LINEAR,
        given=lambda: {"variables": KERNEL},
        does=lambda: LINEAR.apply(KERNEL, X),
        check="complete",
        words="of the 2 leaves that init makes, 1 is missing: params/bias",
    ),
    "2 other shapes": Planted(
        model=LINEAR,
        given=lambda: {"variables": NARROW},
        does=lambda: LINEAR.apply(NARROW, X),
        check="complete",
        words="of the 2 leaves that init makes, 2 are misshapen: params/bias (got float32[5], wanted float32[8]), "
        "params/kernel (got float32[8,5], wanted float32[8,8])",
    ),
    "2 another collection": Planted(
        model=LINEAR,
        given=lambda: {"variables": ELSEWHERE},
        does=lambda: LINEAR.apply(ELSEWHERE, X),
        check="complete",
        words="of the 2 leaves that init makes, 2 are misplaced: params/bias (lies at weights/bias), params/kernel "
        "(lies at weights/kernel)",
    ),
    "3 renamed neighbours": Planted(
        model=New(),
        given=lambda: {"variables": Old().init(KEY, X)},
        does=lambda: New().apply(Old().init(KEY, X), X),
        check="complete",
        words="of the 6 leaves that init makes, 2 are misplaced: params/ToLinen_0/bias (lies at params/Dense_2/bias), "
        "params/ToLinen_0/kernel (lies at params/Dense_2/kernel); Linen names the layers of this host again: what was "
        "Dense_1 is ToLinen_0, what was Dense_2 is Dense_1",
    ),
    "4 no key for a mask": Planted(
        model=TwoDropouts(),
        given=lambda: {"rngs": []},
        does=lambda: TwoDropouts().apply({}, X),
        check="streams",
        words="apply needs the stream dropout and is not given it; 2 draws of shape [2, 8] come from one key "
        "(test_planted_failures.py:",
    ),
    "4 one bare key": Planted(
        model=TwoDropouts(),
        given=lambda: {"rngs": ["params"]},
        does=lambda: TwoDropouts().apply({}, X, rngs=KEY),
        check="nothing_invented",
        words="apply is not given the stream dropout: what is drawn from there is the same at every call, from key 0",
    ),
    "5 a dropped update": Planted(
        model=BATCH_NORM,
        given=lambda: {"mutable": []},
        does=lambda: BATCH_NORM.apply(BATCH_NORM.init(KEY, X), X),
        check="mutable",
        words="apply changes batch_stats and is not asked for it: the update is dropped without a word",
    ),
    "6 called twice": Planted(
        model=CalledTwice(),
        does=lambda: CalledTwice().apply(CalledTwice().init(KEY, X), X),
        check="lifts",
        words="ToLinen_0 is called 2 times in one host: init draws its params at each call and keeps the last, so "
        "init's output is not apply's",
    ),
    "7 Linen inside NNX": Planted(
        model=bridge.to_linen(LinenInside),
        does=lambda: bridge.to_linen(LinenInside).init(KEY, X),
        check="nothing_invented",
        words="init leaves out params/dense/bias, params/dense/kernel: apply makes them again at every call, "
        "from key 0 whatever the seed",
    ),
    "8 a lost axis": Planted(
        model=bridge.to_linen(sharded),
        around=lambda: nnx.use_eager_sharding(False),
        does=lambda: nn.get_partition_spec(bridge.to_linen(sharded).init(KEY, X)),
        check="sharding",
        words="nn.scan and nn.vmap lose the added axis: params/kernel keeps the names (data, model) on 3 axes",
    ),
    "9 LoRA": Planted(
        model=bridge.to_linen(nnx.LoRALinear, 8, 8, lora_rank=2),
        does=lambda: bridge.to_linen(nnx.LoRALinear, 8, 8, lora_rank=2).init(KEY, X)["LoRAParam"],
        check="trained",
        words="LoRAParam/lora/lora_a, LoRAParam/lora/lora_b would never be trained: the optimiser gets only params",
    ),
    "10 raw arrays, trained": Planted(
        model=bridge.to_linen(RawKernel),
        does=lambda: jax.eval_shape(bridge.to_linen(RawKernel).init, KEY, X)["DynamicJaxprTracer"],
        check="trained",
        words="DynamicJaxprTracer/kernel would never be trained: the optimiser gets only params; "
        "DynamicJaxprTracer/kernel is a raw array, of no Variable",
    ),
    "10 raw arrays, restored": Planted(
        model=bridge.to_linen(weight_norm),
        does=lambda: bridge.to_linen(weight_norm).init(KEY, X)["ArrayImpl" if RAW_SCALES else "params"],
        check="checkpoint",
        verdict=Verdict.warn,  # loud where it happens
        words="raw array, no nnx.Variable: scales/('kernel',) (ArrayImpl eagerly, DynamicJaxprTracer jitted): an eager "
        "init's checkpoint does not fit a jitted one's tree"
        if RAW_SCALES
        else "tuple keys come back as strings without a target, and apply raises TypeError: ",
    ),
    "11 a stream left out of init": Planted(
        model=DROPOUT,
        given=lambda: {"init_rngs": ["params"]},
        does=lambda: DROPOUT.init(KEY, X),
        raises=(KeyError, "No RngStream named 'dropout'"),
        check="streams",
        words="init needs params, dropout, is given params and raises KeyError: \"No RngStream named 'dropout' found "
        'in Rngs."',
    ),
    "11 an RNN's carry": Planted(
        model=bridge.to_linen(rnn),
        x=SEQUENCE,
        given=lambda: {"init_rngs": ["params"]},
        does=lambda: bridge.to_linen(rnn).init(KEY, SEQUENCE),
        raises=(AttributeError, "No RngStream named 'carry'"),
        check="streams",
        words="init needs params, carry, is given params and raises AttributeError: No RngStream named 'carry' found",
    ),
    "11 default alone": Planted(
        model=DropsThenDense(),
        given=lambda: {"init_rngs": ["default"]},
        does=lambda: DropsThenDense().init({"default": KEY}, X),
        raises=(errors.InvalidRngError, 'needs PRNG for "params"'),
        check="streams",
        words="init needs params, dropout, is given default and raises InvalidRngError: Dense_0 needs PRNG for ",
    ),
    "12 no rngs in the constructor": Planted(
        model=bridge.to_linen(nnx.PReLU),
        does=lambda: bridge.to_linen(nnx.PReLU).init(KEY, X),
        raises=(TypeError, "unexpected keyword argument 'rngs'"),
        check="traps",
        words="the constructor of PReLU takes no rngs, which the wrapper passes",
    ),
    "13 a module instance as argument": Planted(
        model=bridge.to_linen(nnx.RNN, CELL),
        x=SEQUENCE,
        does=lambda: jax.jit(bridge.to_linen(nnx.RNN, CELL).init)(BOTH, SEQUENCE),
        raises=(ValueError, "Cannot extract graph node from different trace level"),
        check="traps",
        words="a module that was made outside was passed in (args[0]=LSTMCell), and jit traces it: ValueError: Cannot "
        "extract graph node from different trace level",
    ),
    "14 axis names and no mesh": Planted(
        model=bridge.to_linen(sharded),
        does=lambda: bridge.to_linen(sharded).init(KEY, X),
        raises=(ValueError, "An auto mesh context or metadata is required"),
        check="sharding",
        words="init and apply raise ValueError (An auto mesh context or metadata is required): a variable has the axis "
        "names data, model and no mesh is set; `with mesh:` does not count, jax.set_mesh does",
    ),
    "15 integer keys": Planted(
        model=bridge.to_linen(sequential),
        does=lambda: bridge.to_linen(sequential).apply({"params": {"layers": {"0": KERNEL["params"]}}}, X),
        raises=(KeyError, "Invalid key: 0"),
        check="checkpoint",
        verdict=Verdict.warn,  # loud where it happens
        words="integer keys come back as strings without a target, and apply raises KeyError: 'Invalid key: 0': "
        "params/layers/0/bias, params/layers/0/kernel",
    ),
    "15 tuple keys": Planted(
        model=bridge.to_linen(spectral_norm),
        does=lambda: with_string_keys(),
        raises=(TypeError, "not supported between instances"),
        check="checkpoint",
        verdict=Verdict.warn,  # loud where it happens
        words="tuple keys come back as strings without a target, and apply raises TypeError: '<' not supported between "
        "instances of 'str' and 'tuple': ",
    ),
    "16 a cache made by a call": Planted(
        model=bridge.to_linen(Decodes),
        x=TOKEN,
        does=lambda: decoded_twice(),
        raises=(ValueError, "Expected a subgraph for 'cache_index'"),
        check="mutable",
        words="cache/attention/cache_index, cache/attention/cached_key, cache/attention/cached_value are made by a "
        "call, not by the constructor: the next apply that is given them raises ValueError: Expected a subgraph for "
        "'cache_index', but got: Array(",
    ),
    "17 sown values as variables": Planted(
        model=bridge.to_linen(Sows),
        given=lambda: {"variables": with_sown(bridge.to_linen(Sows))},
        does=lambda: bridge.to_linen(Sows).apply(with_sown(bridge.to_linen(Sows)), X),
        raises=(ValueError, "assigned to static attribute 'seen'"),
        check="mutable",
        words="apply sows intermediates/seen/0; given as variables here they raise ValueError: ",
    ),
    "18 a mode out of reach": Planted(
        model=bridge.to_linen(Block),
        does=lambda: bridge.to_linen(Block).apply({}, nnx_method="eval"),
        check="traps",
        words="dropout is in training mode in every call, and nothing switches it",
    ),
    "19 a list among the arguments": Planted(
        model=bridge.to_linen(nnx.Conv, 8, 8, kernel_size=[3]),
        x=SEQUENCE,
        does=lambda: hash(bridge.to_linen(nnx.Conv, 8, 8, kernel_size=[3])),
        raises=(TypeError, "Failed to hash Flax Module"),
        check="traps",
        words="kernel_size (list) can't be hashed: as a static argument of jit the model raises ValueError",
    ),
    "19 an initialiser for each model": Planted(
        model=normal(),
        given=lambda: {"again": normal},
        does=lambda: normal() == normal(),
        check="traps",
        words="a second model of the same settings is traced again: kernel_init is made again for each",
    ),
    "20 what nobody captures": Planted(
        model=bridge.to_linen(nnx.MultiHeadAttention, 2, 8, decode=False),
        x=SEQUENCE,
        given=lambda: {"mutable": ["intermediates"]},
        does=lambda: jax.eval_shape(captured, KEY),
        check="traps",
        words="apply is asked for intermediates, and capture_intermediates sees __call__/0: none of key, out, query "
        "and 1 more inside the wrapper",
    ),
}


def decoded_twice():
    model = bridge.to_linen(Decodes)
    variables = model.init(KEY, TOKEN)
    _, cache = model.apply(variables, TOKEN, mutable=["cache"])
    return model.apply({**variables, **cache}, TOKEN)


def with_string_keys():
    model = bridge.to_linen(spectral_norm)
    shapes = jax.eval_shape(model.init, KEY, X)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    (name, tree), *_ = variables["batch_stats"].items()
    strings = {name: {str(key): leaf for key, leaf in tree.items()}}
    return model.apply({**variables, "batch_stats": strings}, X)


def captured(key):
    model = bridge.to_linen(nnx.MultiHeadAttention, 2, 8, decode=False)
    variables = model.init(key, SEQUENCE)
    return model.apply(variables, SEQUENCE, capture_intermediates=True, mutable=["intermediates"])


# Flax warns of variables that it has no place for before it raises; at a user's, nothing stops.
unknown_paths = pytest.mark.filterwarnings("ignore:Found unknown module paths", "ignore:Using 'Module.sow")


@unknown_paths
@pytest.mark.parametrize("planted", FAILURES.values(), ids=FAILURES.keys())
def test_the_right_check_says_no(planted):
    with planted.around():
        (check,) = runner.check(planted.model, planted.x, only=[planted.check], **planted.given())
    assert (check.name, check.verdict) == (planted.check, planted.verdict)
    assert check.detail.startswith(planted.words)
    assert check.fix


@pytest.mark.sampled
@unknown_paths
@pytest.mark.parametrize("planted", FAILURES.values(), ids=FAILURES.keys())
def test_flax_behaves_as_the_facts_state(planted):
    with planted.around():
        if planted.raises is None:
            planted.does()
        else:
            with pytest.raises(planted.raises[0], match=planted.raises[1]):
                planted.does()


def test_there_are_twenty_of_them():
    numbers = [int(name.split()[0]) for name in FAILURES]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 21))
