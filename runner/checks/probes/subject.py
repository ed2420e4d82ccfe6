"""What checks are tested on: a Linen module as a pipeline calls it, with all that it is given."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx

from runner.arrays import tree_diff, tree_moves, trees
from runner.arrays.tree_diff import LeafDiff
from runner.bridge import lifts, wrap
from runner.bridge.calling.calls import METHOD
from runner.bridge.needs import Needs
from runner.bridge.rngs import PARAMS, apply_keys, root_key
from runner.bridge.rules import sources
from runner.bridge.rules.sources import PathRules
from runner.bridge.tracing import captured, hosted
from runner.bridge.tracing.captured import Captured, Traced
from runner.bridge.tracing.hosted import HostedCall
from runner.bridge.wrap import Bridged
from runner.checks.programs import flow, hlo
from runner.checks.programs.draws import Draws, find
from runner.checks.user_code import first_traces, python_state
from runner.checks.user_code.first_traces import FirstTraces
from runner.checks.user_code.python_state import Native
from runner.config.settings.pipeline import PipelineSettings
from runner.config.settings.train import expanded
from runner.errors import UserError

# The stream that NNX draws from where the one that it asks for was not given.
DEFAULT = "default"

# Numbers in variables and input up to which a program that is called a few times is not worth optimising.
MAX_RUN_ONCE = 1_000_000

# What draws that come from variables have as their source; no stream can have this name.
VARIABLES = "its variables"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A Linen module as a pipeline calls it.

    Attributes:
      label: What it is called in a sentence.
      model: What the pipeline calls: a wrapped layer, or a host with one in it.
      layer: The wrapped layer alone, if it is known.
      needs: What `model` wants, found by tracing.
      x: The input, on the device.
      given: Variables that apply gets; None where they are init's own. Arrays or `jax.ShapeDtypeStruct`.
      rngs: Streams that apply gets (`params` is never passed on).
      init_rngs: Streams that init gets; None where they are all that it needs.
      mutable: Collections that apply may change.
      trained: Collections that the optimiser gets.
      trains: Whether the pipeline trains at all.
      key: The root key, `jax.random.PRNGKey(0)` by default.
      compiled_init: `(key, x) -> variables`, compiled; None compiles it for the first check that wants it.
      compiled_apply: `(variables, key, x) -> (output, updated collections)`, the same way.
      traced_init: The trace that `compiled_init` is of; None traces it for the first check that wants it.
      traced_apply: The trace that `compiled_apply` is of, the same way.
      first_traces: Digests of earlier traces of both; None if the layer has to be traced again for comparison.
      again: Builds `layer` (`model` where that is None) from its settings a second time, if they are known.
      rules: What the pipeline does by path; None if it is not given.
      pipeline: What else it does with a layer; None for no pipeline in particular.
      reseeded: Builds `model` as another seed would, if an argument of the layer follows the seed.
    """

    label: str
    model: Bridged
    layer: Bridged | None = None
    needs: Needs
    x: jax.Array
    given: Any = None
    rngs: tuple[str, ...]
    init_rngs: tuple[str, ...] | None = None
    mutable: tuple[str, ...]
    trained: tuple[str, ...] = (PARAMS,)
    trains: bool = False
    key: jax.Array = field(default_factory=lambda: root_key(0))
    compiled_init: Callable[..., Any] | None = None
    compiled_apply: Callable[..., Any] | None = None
    traced_init: jax.stages.Traced | None = None
    traced_apply: jax.stages.Traced | None = None
    first_traces: FirstTraces | None = None
    again: Callable[[], Bridged] | None = None
    rules: PathRules | None = None
    pipeline: PipelineSettings | None = None
    reseeded: Callable[[], Bridged] | None = None

    def replaced(self, **changes: Any) -> Subject:
        """The same with `changes`; what was traced or compiled before them is left out."""
        programs = ("compiled_init", "compiled_apply", "traced_init", "traced_apply", "first_traces")
        return dataclasses.replace(self, **{**dict.fromkeys(programs), **changes})

    @functools.cached_property
    def variables(self) -> Any:
        """The variables that apply gets, as arrays: those given, or what a jitted init makes."""
        return self.init_variables if self.given is None else self.given

    @functools.cached_property
    def init_variables(self) -> Any:
        """What a jitted init makes."""
        return self.make()

    @functools.cached_property
    def shapes(self) -> Any:
        """Shapes and dtypes of the variables that apply gets; nothing is computed."""
        return self.needs.variables if self.given is None else trees.shapes(self.given)

    @property
    def applied(self) -> Any:
        """The jaxpr of apply as the pipeline calls it: `(variables, key, x) -> (output, updated collections)`."""
        return self._traced[0]

    @property
    def returned(self) -> Any:
        """Shapes and dtypes of what apply returns: the output and the updated collections."""
        return self._traced[1]

    @functools.cached_property
    def initialised(self) -> Any:
        """The jaxpr of init: `(key, x) -> variables`."""
        return self.trace_init() if self.traced_init is None else self.traced_init.jaxpr

    def trace_init(self) -> Any:
        """Traces init again: `(key, x) -> variables`."""
        key = jax.ShapeDtypeStruct(self.key.shape, self.key.dtype)
        return jax.make_jaxpr(lambda key, x: self.model.init(key, self.needs.streams, x))(key, trees.shapes(self.x))

    def trace_apply(self) -> Any:
        """Traces apply again: see `applied`."""
        return self._trace()[0]

    @functools.cached_property
    def _traced(self) -> tuple[Any, Any]:
        traced = self.traced_apply
        return self._trace() if traced is None else (traced.jaxpr, traced.out_info)

    def _trace(self) -> tuple[Any, Any]:
        key = jax.ShapeDtypeStruct(self.key.shape, self.key.dtype)

        # A function of its own: JAX remembers what it traced of one.
        def apply(variables: Any, key: jax.Array, x: jax.Array) -> Any:
            return self.apply(variables, key, x)

        return jax.make_jaxpr(apply, return_shape=True)(self.shapes, key, trees.shapes(self.x))

    @functools.cached_property
    def layer_calls(self) -> list[Captured]:
        """Every call of a wrapped layer in init, as the host makes it; empty where the model is the layer itself."""
        return [] if lifts.is_wrapped(self.model) else captured.calls(self.model, self.needs.streams, self.x)

    @functools.cached_property
    def natives(self) -> dict[str, Native]:
        """What the native module of each wrapped layer shows, by its path in the host, '' for the layer alone."""
        if lifts.is_wrapped(self.model):
            return {"": python_state.find(self.model.model, (self.x,), self.model.call)}
        return {
            call.path: python_state.find(call.layer, call.args, {**call.kwargs, METHOD: call.method})
            for call in {call.path: call for call in reversed(self.layer_calls)}.values()
        }

    @functools.cached_property
    def host_apply(self) -> Traced:
        """What a host's apply does on init's variables, given every stream and free to change every collection."""
        return captured.applied(self.model, self.needs.streams, trees.shapes(self.x), self.needs.variables)

    @functools.cached_property
    def make(self) -> Callable[[], Any]:
        """Makes init's variables, compiled."""
        init = self.compiled_init or self.jit(lambda key, x: self.model.init(key, self.needs.streams, x))
        return lambda: init(self.key, self.x)

    @functools.cached_property
    def init_draws(self) -> Draws:
        """What init draws; its outputs are the leaves of the variables."""
        return find(self.initialised, ["the root key", "its input"])

    @functools.cached_property
    def differences(self) -> list[LeafDiff]:
        """How the variables given differ from those that init makes; what is only sown need not be given."""
        if self.given is None:
            return []
        wanted = {
            collection: tree
            for collection, tree in self.needs.variables.items()
            if collection in self.given or not trees.is_sown(tree)
        }
        return tree_diff.diff_trees(self.given, wanted, moves=tree_moves.likely).changed

    @functools.cached_property
    def draws(self) -> Draws:
        """What apply draws, as the pipeline calls it; sources are names of streams."""
        num_leaves = len(jax.tree.leaves(self.shapes))
        # No stream can have these names.
        names = [*[VARIABLES] * num_leaves, "the root key", "its input"]
        shapes = self.shapes, jax.ShapeDtypeStruct(self.key.shape, self.key.dtype), trees.shapes(self.x)
        streams = [stream for stream in self.rngs if stream != PARAMS]
        keys = {
            stream: jax.make_jaxpr(lambda variables, key, x, s=stream: apply_keys(key, [s])[s])(*shapes)
            for stream in streams
        }
        return find(self.applied, names, keys)

    @functools.cached_property
    def wanted_streams(self) -> list[str]:
        """Streams that the output or an update depends on, once apply is given all that there are."""
        known = {*self.needs.streams, *self.rngs}
        enough = known <= {PARAMS, *self.rngs} or self._falls_back
        whole = self if enough else self.replaced(rngs=tuple(sorted(known)))
        return sorted(known & whole.draws.used)

    @property
    def _falls_back(self) -> bool:
        """Whether the stream `default` stands in for all that are not given, as it does for NNX and not for Linen."""
        if DEFAULT not in self.rngs:
            return False
        try:
            return not self.draws.invented
        except Exception:  # noqa: BLE001 - what a Linen layer raises without its stream
            return False

    @functools.cached_property
    def hosted_calls(self) -> list[HostedCall]:
        """Every call of a wrapped layer during apply, in order."""
        return hosted.calls(self.model, self.needs.streams, self.x, read=flow.read, variables=self.needs.variables)

    @functools.cached_property
    def run(self) -> Callable[..., Any]:
        """`apply`, compiled, for variables like `variables`."""
        return self.compiled_apply or self.jit(self.apply)

    def jit(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """`jax.jit` with the compiler options of `make` and `run`: other ones may round otherwise."""
        return jax.jit(function, compiler_options=self.compiler_options, **options)

    @functools.cached_property
    def compiler_options(self) -> dict[str, Any] | None:
        """What its own programs are compiled with; None for JAX's own options, as programs are that were given."""
        if self.compiled_init is not None or self.compiled_apply is not None:
            return None
        sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves((self.shapes, self.x))]
        return hlo.RUN_ONCE if sum(sizes) <= MAX_RUN_ONCE else None

    def apply(self, variables: Any, key: jax.Array, x: jax.Array) -> Any:
        """The output and the updated collections, as the pipeline gets them."""
        return self.model.apply(variables, apply_keys(key, self.rngs), self.mutable, x)


def subject_of(
    model: Any,
    x: Any,
    *,
    variables: Any = None,
    rngs: Iterable[str] | str | None = None,
    init_rngs: Iterable[str] | str | None = None,
    mutable: Iterable[str] | str | bool | None = None,
    call: Mapping[str, Any] | None = None,
    trained: Iterable[str] | str | None = None,
    label: str | None = None,
    again: Callable[[], Any] | None = None,
    rules: Any = None,
    pipeline: PipelineSettings | None = None,
) -> Subject:
    """Any Linen module as a subject.

    Args:
      model: A `flax.linen.Module` that is called with `x`.
      x: Input.
      variables: Variables given to apply; None for init's own.
      rngs: Streams given to apply; None for all that it needs.
      init_rngs: Streams given to init; None for all that it needs.
      mutable: Collections that apply may change, as flax takes them; None for all that it changes.
      call: Keyword arguments of every call.
      trained: Collections that the optimiser gets, `all` for all that init returns; None for params.
      label: What it is called; by default its class's name.
      again: Builds the module a second time, as a script does that makes it for every call.
      rules: The pipeline's rules by path, as `runner.check` takes them.
      pipeline: What else the pipeline does.

    Raises:
      LayerError: The module refuses its arguments or the input.
      UserError: What is given is no Linen module, no array, or no variable dict.
    """
    _require_module(model)
    _require_variables(variables)
    bridged = wrap.called(model, dict(call or {}))
    by_path = sources.given_rules(rules)
    name = label or type(model).__name__
    x = _as_array(x)
    needs = first_traces.find_needs(bridged, x, name)
    rngs = needs.streams if rngs is None else _names(rngs)
    init_rngs = None if init_rngs is None else _names(init_rngs)
    mutable = needs.mutable if mutable is None or mutable is True else _names(mutable or ())
    earlier = first_traces.digested(needs, rngs=rngs, init_rngs=init_rngs, mutable=mutable)
    return Subject(
        label=name,
        model=bridged,
        layer=None,
        needs=needs.without_traces(),
        x=x,
        given=variables,
        rngs=rngs,
        init_rngs=init_rngs,
        mutable=mutable,
        first_traces=earlier if variables is None else None,
        trained=expanded((PARAMS,) if trained is None else _names(trained), needs.variables),
        again=None if again is None else lambda: dataclasses.replace(bridged, model=again()),
        rules=by_path,
        pipeline=pipeline,
    )


def _names(given: Iterable[str] | str) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _as_array(x: Any) -> jax.Array:
    try:
        return jax.numpy.asarray(x)
    except (TypeError, ValueError) as error:
        raise UserError(f"x is a {type(x).__name__}, and an array is wanted", "x=jnp.ones((2, 8))") from error


def _require_module(model: Any) -> None:
    if wrap.is_linen(type(model)):
        return
    kind = model if isinstance(model, type) else type(model)
    name = f"nnx.{kind.__name__}" if getattr(nnx, kind.__name__, None) is kind else kind.__name__
    what = f"model is {'the class' if kind is model else 'a'} {name}, and an object of a flax.linen.Module is wanted"
    raise UserError(what, f"{name}(…)" if wrap.is_linen(kind) else f"bridge.to_linen({name}, …)")


def _require_variables(variables: Any) -> None:
    if isinstance(variables, nnx.State):
        code = "flax.nnx.bridge.variables.nnx_attrs_to_linen_vars(dict(nnx.state(module, nnx.Not(nnx.RngState))))"
        raise UserError("variables is an nnx.State, and a Linen variable dict is wanted", code)
    if variables is not None and not isinstance(variables, Mapping):
        what = f"variables is a {type(variables).__name__}, and a Linen variable dict is wanted"
        raise UserError(what, "variables={'params': …}")
