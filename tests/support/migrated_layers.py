"""Linen nets on the way to NNX, each in its old and its new form: migrations that are right, and some that are not."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge

WIDTH = 8


def linear(name: str | None = None, **kwargs: Any) -> nn.Module:
    return bridge.to_linen(nnx.Linear, WIDTH, WIDTH, name=name, **kwargs)


class TwoKinds(nn.Module):
    """A norm and a layer replaced at once; the same kinds follow."""

    new: bool = False
    names: tuple = (None, None, None, None)

    @nn.compact
    def __call__(self, x):
        norm, layer, last, late = self.names
        x = bridge.to_linen(nnx.LayerNorm, WIDTH, name=norm)(x) if self.new else nn.LayerNorm()(x)
        x = linear(layer)(x) if self.new else nn.Dense(WIDTH)(x)
        return nn.Dense(WIDTH, name=last)(nn.LayerNorm(name=late)(nn.relu(x)))


class ThreeAtOnce(nn.Module):
    """Two layers and a norm replaced, among others of the same shapes."""

    new: bool = False
    names: tuple = (None,) * 7

    @nn.compact
    def __call__(self, x):
        one, norm, two, three, late, four, five = self.names
        x = nn.relu(nn.Dense(WIDTH, name=one)(x))
        x = bridge.to_linen(nnx.LayerNorm, WIDTH, name=norm)(x) if self.new else nn.LayerNorm()(x)
        x = nn.relu(linear(two)(x) if self.new else nn.Dense(WIDTH)(x))
        x = nn.relu(nn.Dense(WIDTH, name=three)(x))
        x = nn.LayerNorm(name=late)(x)
        x = nn.relu(linear(four)(x) if self.new else nn.Dense(WIDTH)(x))
        return nn.Dense(WIDTH, name=five)(x)


class Holder(nnx.Module):
    """Its Linear is one level deeper."""

    def __init__(self, *, rngs):
        self.lin = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return self.lin(x)


class Wraps(nn.Module):
    new: bool = False
    names: tuple = (None, None)

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(WIDTH)(x))
        x = nn.relu(bridge.to_linen(Holder, name=self.names[0])(x) if self.new else nn.Dense(WIDTH)(x))
        return nn.Dense(WIDTH, name=self.names[1])(x)


class Flat(nn.Module):
    """A whole net, at the root."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="out")(nn.relu(nn.Dense(WIDTH, name="hid")(x)))


class FlatNnx(nnx.Module):
    def __init__(self, *, rngs):
        self.hid, self.out = nnx.Linear(WIDTH, WIDTH, rngs=rngs), nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hid(x)))


class WholeNet(nn.Module):
    """The net as one NNX layer."""

    @nn.compact
    def __call__(self, x):
        return bridge.to_linen(FlatNnx, name="net")(x)


class Outer(nnx.Module):
    def __init__(self, *, rngs):
        self.core = FlatNnx(rngs=rngs)

    def __call__(self, x):
        return self.core(x)


class TwoDeeper(nn.Module):
    @nn.compact
    def __call__(self, x):
        return bridge.to_linen(Outer, name="net")(x)


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Flat(name="net")(x)


class Setup(nn.Module):
    """Modules in setup(): named by their attributes."""

    new: bool = False

    def setup(self):
        self.first = linear() if self.new else nn.Dense(WIDTH)
        self.second = nn.Dense(WIDTH)

    def __call__(self, x):
        return self.second(nn.relu(self.first(x)))


class SetupRenamed(nn.Module):
    def setup(self):
        self.enter = linear()
        self.second = nn.Dense(WIDTH)

    def __call__(self, x):
        return self.second(nn.relu(self.enter(x)))


class SetupSwapped(nn.Module):
    """The two of equal shape have each other's names."""

    def setup(self):
        self.second = linear()
        self.first = nn.Dense(WIDTH)

    def __call__(self, x):
        return self.first(nn.relu(self.second(x)))


class Block(nn.Module):
    new: bool = False

    @nn.compact
    def __call__(self, x, _):
        x = nn.relu(nn.Dense(WIDTH)(x))
        x = nn.relu(linear()(x) if self.new else nn.Dense(WIDTH)(x))
        return nn.Dense(WIDTH)(x), None


class Scanned(nn.Module):
    """A stack by `nn.scan`, a layer of which is replaced."""

    new: bool = False

    @nn.compact
    def __call__(self, x):
        stack = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(WIDTH)(stack(new=self.new)(x, None)[0])


class Straight(nn.Module):
    """Four layers of one shape."""

    @nn.compact
    def __call__(self, x):
        for _ in range(4):
            x = nn.relu(nn.Dense(WIDTH)(x))
        return x


class Half(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(linear()(nn.relu(nn.Dense(WIDTH)(x))))


class Split(nn.Module):
    """The net in two modules."""

    @nn.compact
    def __call__(self, x):
        return Half(name="decoder")(Half(name="encoder")(x))


class PairNnx(nnx.Module):
    def __init__(self, *, rngs):
        self.up, self.down = nnx.Linear(WIDTH, WIDTH, rngs=rngs), nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.down(nnx.relu(self.up(x))))


class Fused(nn.Module):
    """The two in the middle as one NNX layer."""

    @nn.compact
    def __call__(self, x):
        x = bridge.to_linen(PairNnx)(nn.relu(nn.Dense(WIDTH)(x)))
        return nn.relu(nn.Dense(WIDTH)(x))


class Transposed(nnx.Module):
    def __init__(self, *, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (WIDTH, WIDTH)))
        self.bias = nnx.Param(jnp.zeros(WIDTH))

    def __call__(self, x):
        return x @ self.kernel.T + self.bias


class Right(Transposed):
    def __call__(self, x):
        return x @ self.kernel + self.bias


class Kernel(nn.Module):
    """One layer, right or with its kernel transposed."""

    layer: str | None = None

    @nn.compact
    def __call__(self, x):
        made = {"transposed": Transposed, "right": Right}
        return bridge.to_linen(made[self.layer], name="dense")(x) if self.layer else nn.Dense(WIDTH, name="dense")(x)


class Heads(nnx.Module):
    """Attention whose heads come out in another order, if they are reordered."""

    def __init__(self, reordered, *, rngs):
        self.query, self.key, self.value = (nnx.LinearGeneral(WIDTH, (2, 4), rngs=rngs) for _ in range(3))
        self.out = nnx.LinearGeneral((2, 4), WIDTH, axis=(-2, -1), rngs=rngs)
        self.step = -1 if reordered else 1

    def __call__(self, x):
        heads = nnx.dot_product_attention(self.query(x), self.key(x), self.value(x))
        return self.out(heads[..., :: self.step, :])


class Attention(nn.Module):
    new: bool = False
    reordered: bool = False

    @nn.compact
    def __call__(self, x):
        if self.new:
            return bridge.to_linen(Heads, self.reordered, name="part")(x)
        return nn.MultiHeadDotProductAttention(2, name="part")(x)


class ZeroMlp(nnx.Module):
    def __init__(self, factor, *, rngs):
        self.up, self.down = nnx.Linear(WIDTH, 16, rngs=rngs), nnx.Linear(16, WIDTH, rngs=rngs)
        self.factor = factor

    def __call__(self, x):
        return self.factor * self.down(nnx.gelu(self.up(x)))


class LinenMlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH, name="down")(nn.gelu(nn.Dense(16, name="up")(x)))


class ZeroHead(nn.Module):
    """The head starts from zeros: what is before it does not show."""

    factor: float | None = None
    zero: float = 1.0

    @nn.compact
    def __call__(self, x):
        x = bridge.to_linen(ZeroMlp, self.factor, name="mlp")(x) if self.factor else LinenMlp(name="mlp")(x)
        return self.zero * nn.Dense(5, kernel_init=nn.initializers.zeros, name="head")(x)


class Norm(nn.Module):
    """BatchNorm with its statistics, at two paces."""

    momentum: float | None = None

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Dense(WIDTH, name="dense")(x)
        if self.momentum is None:
            return nn.BatchNorm(use_running_average=not train, name="norm")(x)
        made = {"momentum": self.momentum, "use_running_average": not train}
        return bridge.to_linen(nnx.BatchNorm, WIDTH, **made, name="norm")(x)


class Drop(nn.Module):
    """Dropout, which draws from other keys in NNX."""

    rate: float | None = None

    @nn.compact
    def __call__(self, x, deterministic: bool):
        x = nn.Dense(WIDTH, name="dense")(x)
        if self.rate is None:
            x = nn.Dropout(0.5)(x, deterministic=deterministic)
        else:
            x = bridge.to_linen(nnx.Dropout, self.rate, deterministic=deterministic, name="drop")(x)
        return (linear("last") if self.rate is not None else nn.Dense(WIDTH, name="last"))(x)


class Clipped(nn.Module):
    """An activation that is clipped where activations seldom are."""

    new: bool = False
    clip: bool = True

    @nn.compact
    def __call__(self, x):
        x = (linear("dense") if self.new else nn.Dense(WIDTH, name="dense"))(x)
        return nn.relu6(x) if self.clip else nn.relu(x)


class Boxed(nn.Module):
    """A kernel with axis names: in no box, Linen's, or what NNX makes of them."""

    box: str = "logical"

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(self._layer()(x))

    def _layer(self) -> nn.Module:
        init, axes = nn.initializers.lecun_normal(), ("embed", "mlp")
        if self.box == "none":
            return nn.Dense(WIDTH, name="dense")
        if self.box == "logical":
            return nn.Dense(WIDTH, kernel_init=nn.with_logical_partitioning(init, axes), name="dense")
        if self.box == "plain":
            return linear("dense", kernel_init=nnx.with_partitioning(init, axes), metadata_fn=None)
        if self.box == "kept":
            return linear("dense", kernel_init=nnx.with_partitioning(init, axes), metadata_fn=logical)
        return linear("dense", kernel_init=nnx.with_partitioning(init, axes))


def logical(variable):
    """The box that Linen puts around a leaf with axis names."""
    names = variable.get_metadata().get("out_sharding")
    return nn.LogicallyPartitioned(variable.get_value(), names) if names else variable.get_value()


class Critic(nn.Module):
    """A head called `value`."""

    new: bool = False

    @nn.compact
    def __call__(self, x):
        return bridge.to_linen(nnx.Linear, WIDTH, 1, name="value")(x) if self.new else nn.Dense(1, name="value")(x)


class ScaleNnx(nnx.Module):
    """One parameter, called `value`."""

    def __init__(self, *, rngs):
        self.value = nnx.Param(jax.random.normal(rngs.params(), (WIDTH,)))

    def __call__(self, x):
        return x * self.value


class Scale(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param("value", nn.initializers.normal(), (WIDTH,))


class Scaled(nn.Module):
    new: bool = False

    @nn.compact
    def __call__(self, x):
        return bridge.to_linen(ScaleNnx, name="scale")(x) if self.new else Scale(name="scale")(x)


class Unused(nn.Module):
    """A replaced layer whose output is dropped."""

    new: bool = False

    @nn.compact
    def __call__(self, x):
        aside = (linear("aside") if self.new else nn.Dense(WIDTH, name="aside"))(x)
        return nn.Dense(WIDTH, name="dense")(x) + 0 * aside


class OwnNorm(nn.Module):
    """The same as `Norm`; the mode is an argument of the constructor, in evaluation where it is left alone."""

    momentum: float | None = None
    train: bool = False

    @nn.compact
    def __call__(self, x):
        return Norm(self.momentum, name="net")(x, self.train)


NUM = 70


class ScalarsNnx(nnx.Module):
    def __init__(self, last, *, rngs):
        self.last = last
        for num in range(NUM):
            setattr(self, f"w{num}", nnx.Param(jnp.ones(())))

    def __call__(self, x):
        return x * sum(jnp.sin(num * getattr(self, f"w{num}")) for num in range(self.last))


class Scalars(nn.Module):
    @nn.compact
    def __call__(self, x):
        ones = nn.initializers.ones
        return x * sum(jnp.sin(num * self.param(f"w{num}", ones, ())) for num in range(NUM))


class Many(nn.Module):
    """One module of many leaves; the new one may leave out the last."""

    last: int | None = None

    @nn.compact
    def __call__(self, x):
        if self.last is None:
            return Scalars(name="many")(x)
        return bridge.to_linen(ScalarsNnx, self.last, name="many")(x)


class LearnsNnx(nnx.Module):
    """A dense layer whose output says nothing of what it learns."""

    def __init__(self, kind, *, rngs):
        self.lin = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.kind = kind

    def __call__(self, x):
        kernel = self.lin.kernel[...]
        x = jax.lax.stop_gradient(x) if self.kind == "stopped before" else x
        return x @ (jax.lax.stop_gradient(kernel) if self.kind == "stopped" else kernel) + self.lin.bias[...]


class LearnsLinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH, name="lin")(x)


class Learns(nn.Module):
    """A layer behind another one, and what it becomes."""

    kind: str | None = None

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(WIDTH)(x)
        return LearnsLinen(name="net")(x) if self.kind is None else bridge.to_linen(LearnsNnx, self.kind, name="net")(x)


class OfKind(nn.Module):
    """A Linen layer, or one of NNX in its place once a kind of it is given."""

    kind: str | None = None

    @nn.compact
    def __call__(self, x):
        return (self.LINEN(name="net") if self.kind is None else bridge.to_linen(self.NNX, self.kind, name="net"))(x)


class ComplexNnx(nnx.Module):
    """A complex kernel; some kinds lose what is imaginary, in the gradient or of the input."""

    def __init__(self, kind, *, rngs):
        self.kernel = nnx.Param(nnx.initializers.normal()(rngs.params(), (WIDTH, WIDTH), jnp.complex64))
        self.kind = kind

    def __call__(self, x):
        y = (jnp.real(x) if self.kind == "real input" else x) @ self.kernel[...]
        return jax.lax.complex(y.real, jax.lax.stop_gradient(y.imag)) if self.kind == "stopped" else y


class ComplexLinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", nn.initializers.normal(), (WIDTH, WIDTH), jnp.complex64)


class Complex(OfKind):
    LINEN, NNX = ComplexLinen, ComplexNnx


class PickedNnx(nnx.Module):
    """Picks by a bool input, or does not look at it."""

    def __init__(self, kind, *, rngs):
        self.weight = nnx.Param(jax.random.normal(rngs.params(), (WIDTH,)))
        self.kind = kind

    def __call__(self, x):
        return self.weight[...] * (jnp.ones_like(x) if self.kind == "all" else x)


class PickedLinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return self.param("weight", nn.initializers.normal(), (WIDTH,)) * x


class Picked(OfKind):
    LINEN, NNX = PickedLinen, PickedNnx


class Sows(nn.Module):
    """Its loss is sown, in init too."""

    kind: str | None = None

    @nn.compact
    def __call__(self, x):
        y = (nn.Dense(WIDTH, name="net") if self.kind is None else linear("net"))(x)
        loss = jnp.sum(y**2) * (2 if self.kind == "twice" else 1)
        self.sow("losses", "l2", jax.lax.stop_gradient(loss) if self.kind == "stopped" else loss)
        return y


class SowsNorm(nn.Module):
    """A norm before what sows; the norm may be NNX's already, which takes its constructor's statistics for none."""

    kind: str | None = None
    norm: str = "linen"

    @nn.compact
    def __call__(self, x, train=False):
        is_nnx = self.norm == "nnx"
        norm = bridge.to_linen(nnx.BatchNorm, WIDTH, name="norm") if is_nnx else nn.BatchNorm(name="norm")
        return Sows(self.kind, name="rest")(norm(x, use_running_average=not train))


class ClippedFar(nn.Module):
    """A layer between norms whose output may be clipped at what only large weights reach."""

    new: bool = False
    limit: float | None = None

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(x)
        x = linear("net")(x) if self.new else nn.Dense(WIDTH, name="net")(x)
        return nn.LayerNorm()(x if self.limit is None else jnp.clip(x, -self.limit, self.limit))


class TableNnx(nnx.Module):
    """An embedding that may know two rows only."""

    def __init__(self, last, *, rngs):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (50, WIDTH)))
        self.last = last

    def __call__(self, x):
        return jnp.take(self.embedding[...], jnp.minimum(x, self.last), axis=0)


class Table(nn.Module):
    last: int | None = None

    @nn.compact
    def __call__(self, x):
        x = x.astype(jnp.int32)
        if self.last is None:
            return nn.Embed(50, WIDTH, name="table")(x)
        return bridge.to_linen(TableNnx, self.last, name="table")(x)
