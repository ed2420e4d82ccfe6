"""A pipeline's own wrapper that keeps the contract of Kauldron's; others as healthy, and twins that break it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import core, nnx
from flax import linen as nn
from pipeline_standins.train_property import is_training, training

DRAWN = nnx.Any(nnx.RngKey, nnx.RngCount)
STATE = nnx.Not(nnx.Any(nnx.Param, nnx.RngKey, nnx.RngCount))


class Told(nnx.Module):
    """Drops and counts, and is told nothing at its call."""

    def __init__(self, features: int = 8, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(features, features, rngs=rngs)
        self.norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.norm(self.linear(x)))


class Counts(Told):
    """Counts alone."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.linear(x))


class Weighs(Told):
    """Weights alone."""

    def __init__(self, features: int = 8, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(features, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear(x)


class Merging(nn.Module):
    """As Kauldron's: graph, keys and state lie in a collection `nnx`, as `nnx.Variable`s, and are merged at apply."""

    nnx_class: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = core.FrozenDict()

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        module = self.fresh() if self.is_initializing() else self.restored()
        output = module(x)
        graph, weights, keys, state = nnx.split(module, nnx.Param, DRAWN, ...)
        if self.is_initializing():
            for name, part in weights.raw_mapping.items():
                self.put_variable("params", name, part)
            self.put_variable("nnx", "graph", graph)
            self.put_variable("nnx", "keys", keys.raw_mapping)
        self.keep(state)
        return output

    def fresh(self) -> Any:
        key = self.make_rng("params") if self.is_initializing() else 0
        return self.nnx_class(*self.args, rngs=nnx.Rngs(key), **self.kwargs)

    def restored(self) -> Any:
        keys = nnx.clone(self.get_variable("nnx", "keys"))
        rngs = {name: self.make_rng(name) for name in ("dropout",) if self.has_rng(name)}
        for path, leaf in nnx.to_flat_state(nnx.State(keys)):
            if isinstance(leaf, nnx.RngKey) and rngs:
                leaf.set_value(jax.random.fold_in(rngs["dropout"], len(path)))
        module = nnx.merge(self.get_variable("nnx", "graph"), self.variables["params"], keys, self.kept())
        self.set_mode(module)
        return module

    def set_mode(self, module: Any) -> None:
        module.train() if is_training() else module.eval()

    def keep(self, state: Any) -> None:
        if self.is_mutable_collection("nnx"):
            self.put_variable("nnx", "state", state.raw_mapping)

    def kept(self) -> Any:
        return self.get_variable("nnx", "state")


class Bare(Merging):
    """Keeps arrays, in a collection of its own."""

    def keep(self, state: Any) -> None:
        if self.is_mutable_collection("running"):
            self.put_variable("running", "state", nnx.to_pure_dict(state))

    def kept(self) -> Any:
        state = nnx.state(self.fresh(), STATE)
        nnx.replace_by_pure_dict(state, dict(self.get_variable("running", "state")))
        return state


class Numbered(Merging):
    """Keeps arrays by number."""

    def keep(self, state: Any) -> None:
        if self.is_mutable_collection("running"):
            for number, leaf in enumerate(jax.tree.leaves(state)):
                self.put_variable("running", f"leaf{number}", leaf)

    def kept(self) -> Any:
        leaves, structure = jax.tree.flatten(nnx.state(self.fresh(), STATE))
        return jax.tree.unflatten(structure, [self.get_variable("running", f"leaf{num}") for num in range(len(leaves))])


class Switching(Merging):
    """Sets the mode of each layer by itself."""

    def set_mode(self, module: Any) -> None:
        module.norm.use_running_average = not is_training()
        module.dropout.deterministic = not is_training()


class Forgetting(Merging):
    """Stores the state, and makes it again at each apply."""

    def kept(self) -> Any:
        return nnx.state(self.fresh(), STATE)


class Frozen(Merging):
    """Writes the state at init alone."""

    def keep(self, state: Any) -> None:
        if self.is_initializing():
            super().keep(state)

    def kept(self) -> Any:
        return jax.tree.map(lambda leaf: leaf, super().kept())  # merged, the stored ones would change in place


class Stateless(Forgetting):
    """Stores no state."""

    def keep(self, state: Any) -> None: ...


class ForgettingByNumber(Numbered):
    """Stores arrays by number, and makes them again at each apply."""

    def kept(self) -> Any:
        return nnx.state(self.fresh(), STATE)


class AlwaysTraining(Merging):
    """Takes no notice of the train property."""

    def set_mode(self, module: Any) -> None:
        module.train()


class DropoutOnly(Merging):
    """Leaves the batch norm counting."""

    def set_mode(self, module: Any) -> None:
        module.set_attributes(nnx.Dropout, deterministic=not is_training())


class ModeLess(Merging):
    """Sets no mode."""

    def set_mode(self, module: Any) -> None: ...


class Host(nn.Module):
    """The layer before a head: [..., 8] to [..., 2].

    Attributes:
      wrapper: Its wrapper.
      layer: Its class.
    """

    wrapper: Any = Merging
    layer: Any = Told

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        """`train=False` is its evaluation."""
        with training(train):
            return nn.Dense(2, name="head")(self.wrapper(self.layer, name="block")(x))


class Stack(Host):
    """Two of the layer, by `nn.scan`."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        """`train=False` is its evaluation."""
        blocks = nn.scan(
            lambda block, carry, _: (block(carry), None),
            variable_axes={"params": 0, "nnx": 0, "running": 0},
            split_rngs={"params": True, "dropout": True},
            length=2,
        )
        with training(train):
            return blocks(self.wrapper(self.layer, name="block"), x, None)[0]
