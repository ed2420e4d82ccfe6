"""Values of a config as a constructor wants them: dtypes, initialisers, activations, nested objects; others as is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import FrozenDict

from runner.bridge import targets
from runner.bridge.calling.arguments import Arguments, Nested
from runner.bridge.calling.calls import Drawn
from runner.bridge.calling.wanted import Wanted, parameters, takes, wanted
from runner.errors import ConfigError, LayerError, literal, nearest

# Where neither annotation nor default says more, arguments of these names take functions.
ACTIVATIONS = re.compile(r"(activation|act|nonlinearity)(_fn)?|\w+_fn")
LISTS_OF_THEM = re.compile(r"(activation|act|nonlinearit(y|ie))(_fn)?s|\w+_fns")
INITIALIZERS = re.compile(r"\w*_init|initializer|init")

# How alike a name and the one that was meant are at least, by difflib's ratio.
MEANT = 0.75

TEXT, FUNCTION, TARGET, RNG = "_text_", "_function_", "_target_", "_rng_"
ARGS, PARTIAL = "_args_", "_partial_"


def resolve_all(
    target: Callable[..., Any], kwargs: Mapping[str, Any], *, prefix: str = "layer.kwargs"
) -> dict[str, Any]:
    """The keyword arguments of `target`, each as it is wanted.

    Args:
      target: The class or factory.
      kwargs: Its arguments in the config.
      prefix: Their config key.

    Raises:
      ConfigError: A value can't be resolved to what it names.
    """
    known = parameters(target)
    return {
        key: resolve(key, value, wanted(target, known.get(key)), path=f"{prefix}.{key}")
        for key, value in kwargs.items()
    }


def resolve(key: str, value: Any, want: Wanted, *, path: str) -> Any:
    """One value as it is wanted: text as a dtype, function or text; lists and dicts as they are, in every depth.

    Args:
      key: The argument's name.
      value: Its value in the config.
      want: What is known of the argument.
      path: Its config key.

    Raises:
      ConfigError: The value can't be resolved to what it names.
    """
    if isinstance(value, dict):
        return _from_dict(value, want, path)
    if isinstance(value, (list, tuple)):
        name = "activation" if LISTS_OF_THEM.fullmatch(key) else ""
        items = [_element(name, value, index, want.element, path) for index in range(len(value))]
        return tuple(items) if want.tuple else items
    return _from_text(key, value, want, path) if isinstance(value, str) else value


def _element(name: str, items: Sequence[Any], index: int, want: Wanted, path: str) -> Any:
    place = f"{path}[{index}]"
    try:
        return resolve(name, items[index], want, path=place)
    except ConfigError as error:
        # Hydra sets no single element.
        fixed, _, more = (error.suggestion or "").partition(", or ")
        if more or not fixed.startswith(f"{place}="):
            raise
        whole = [*items[:index], fixed.partition("=")[2].strip("'"), *items[index + 1 :]]
        raise ConfigError(place, items[index], error.reason, f"'{path}={literal(whole)}'") from None


def resolve_call(value: Any, *, path: str) -> Any:
    """A call argument: as it is, or a key that each call draws, `{_rng_: STREAM}`.

    Raises:
      ConfigError: As in `resolve`.
    """
    if isinstance(value, dict) and set(value) == {RNG} and isinstance(value[RNG], str):
        return Drawn(value[RNG])
    return resolve("", value, Wanted(), path=path)


def _from_text(key: str, value: str, want: Wanted, path: str) -> Any:
    if key.endswith("dtype") and not want.only_text and not want.function:
        try:
            return jnp.dtype(value)
        except TypeError:
            raise ConfigError(path, value, "no such dtype", f"{path}=bfloat16") from None
    if want.text:
        return value
    is_initializer = INITIALIZERS.fullmatch(key) is not None
    if not (is_initializer or want.function or ACTIVATIONS.fullmatch(key)):
        return value
    try:
        if _is_dotted(value):
            return _dotted(path, value)
        if is_initializer:
            return _initializer(path, value)
        return function(path, value) if want.function else _activation(path, value, _activations())
    except ConfigError as error:
        if want.function:
            raise
        suggestion = f"'{path}={{{TEXT}:{value}}}' for the text itself"
        suggestion = f"{error.suggestion}, or {suggestion}" if error.suggestion else suggestion
        raise ConfigError(path, value, error.reason, suggestion) from None


def function(path: str, value: str) -> Any:
    """The function, class or initialiser that text names.

    Raises:
      ConfigError: There is none.
    """
    if _is_dotted(value):
        return _dotted(path, value)
    known = _functions()
    if "(" in value or value in _initializers() - known.keys():
        return _initializer(path, value)
    return _activation(path, value, known)


def _from_dict(value: Mapping[Any, Any], want: Wanted, path: str) -> Any:
    if TARGET in value:
        return _nested(value, path)
    if RNG in value:
        reason = f"{RNG} names the stream of a key in layer.call, alone"
        raise ConfigError(path, value, reason, f"'layer.call.key={{{RNG}:noise}}'")
    for marker in (TEXT, FUNCTION):
        if marker in value:
            found = value[marker]
            if len(value) > 1 or not isinstance(found, str):
                suggestion = f"'{path}={{{marker}:{'relu' if marker == FUNCTION else 'fan'}}}'"
                raise ConfigError(path, value, f"{marker} stands alone, with text", suggestion)
            return found if marker == TEXT else function(path, found)
    inner = want.element if "dict" in want.kinds else Wanted()
    return {key: resolve("", item, inner, path=f"{path}.{key}") for key, item in value.items()}


def frozen(value: Any) -> Any:
    """`value` as a field of a Linen module, which has no lists and dicts: tuples and `FrozenDict`s."""
    if isinstance(value, (list, tuple)):
        return tuple(frozen(item) for item in value)
    if isinstance(value, dict):
        return FrozenDict({key: frozen(item) for key, item in value.items()})
    return value


def _nested(value: Mapping[Any, Any], path: str) -> Nested:
    given = {str(key): item for key, item in value.items()}
    target_path, args = given.pop(TARGET), given.pop(ARGS, [])
    partial = given.pop(PARTIAL, False)
    if unknown := [key for key in given if re.fullmatch(r"_\w+_", key)]:
        reason = f"besides {TARGET} there are {ARGS}, {PARTIAL} and the arguments by name"
        raise ConfigError(f"{path}.{unknown[0]}", given[unknown[0]], reason, f"the same without {unknown[0]}")
    if not isinstance(target_path, str) or not isinstance(args, list) or not isinstance(partial, bool):
        reason = f"{TARGET} is a dotted path, {ARGS} a list, {PARTIAL} true or false"
        raise ConfigError(path, value, reason, f"{path}.{TARGET}=my_pkg.Config")
    target = targets.import_path(target_path, key=f"{path}.{TARGET}")
    if not callable(target):
        kind = type(target).__name__
        raise ConfigError(
            f"{path}.{TARGET}", target_path, f"a {kind} can't be called", f"{path}.{TARGET}=my_pkg.Config"
        )
    known = parameters(target)
    for key, item in given.items():
        if known and not takes(known, key):
            close = nearest(key, known)
            reason = f"{target_path} takes {', '.join(known)}"
            suggestion = f"{path}.{close}={literal(item)}" if close else f"~{path}.{key}"
            raise ConfigError(f"{path}.{key}", item, reason, suggestion)
    by_place = [item for item in known.values() if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
    wants = [wanted(target, by_place[index]) if index < len(by_place) else Wanted() for index in range(len(args))]
    positional = [
        resolve(by_place[index].name if index < len(by_place) else "", item, want, path=f"{path}.{ARGS}[{index}]")
        for index, (item, want) in enumerate(zip(args, wants, strict=True))
    ]
    return Nested(
        target_path,
        target,
        Arguments(resolve_all(target, given, prefix=path)),
        Arguments({str(index): item for index, item in enumerate(positional)}),
        partial,
    )


def _is_dotted(text: str) -> bool:
    return "." in text.split("(")[0]


def _initializers() -> set[str]:
    return {name for name, value in vars(nnx.initializers).items() if callable(value) and name[0].islower()}


def _initializer(path: str, text: str) -> Any:
    try:
        return targets.resolve_initializer(text)
    except ValueError as error:
        raise ConfigError(path, text, "no such initialiser in flax.nnx.initializers", f"{path}={error}") from None
    except TypeError as error:
        raise ConfigError(path, text, str(error), f"{path}='normal(stddev=0.02)'") from None


def _activations() -> dict[str, Any]:
    known = {key: value for key, value in vars(jax.nn).items() if callable(value) and not key.startswith("_")}
    return known | {"tanh": jnp.tanh, "identity": _identity}


def _functions() -> dict[str, Any]:
    """What text may name where a function or class is surely wanted: of jax.nn, flax.nnx and jax.numpy."""
    modules = {
        key: value for key, value in vars(nnx).items() if isinstance(value, type) and issubclass(value, nnx.Module)
    }
    arrays = {key: value for key, value in vars(jnp).items() if callable(value) and key[0].islower()}
    arrays = {key: value for key, value in arrays.items() if not isinstance(value, type)}
    return {**arrays, **modules, **_activations()}


def _activation(path: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known or name in targets.FILE_FUNCTIONS:
        close = _close(path, name, known)
        raise ConfigError(path, name, "no such activation in jax.nn", f"{path}={close}" if close else None)
    return known[name]


def _close(path: str, name: str, known: Mapping[str, Any]) -> str | None:
    """The known name that was likely meant; any activation where one is wanted, for nothing else would work there."""
    names = [one for one in known if one not in targets.FILE_FUNCTIONS]
    activations = [one for one in _activations() if one in known]
    close = nearest(name, activations, cutoff=MEANT) or nearest(name, names, cutoff=MEANT)
    key = path.rpartition(".")[2].partition("[")[0]
    if close or not (ACTIVATIONS.fullmatch(key) or LISTS_OF_THEM.fullmatch(key)):
        return close
    return nearest(name, activations) or "relu"


def _identity(x: jax.Array) -> jax.Array:
    return x


def _dotted(path: str, value: str) -> Any:
    try:
        found = targets.import_path(value, key=path)
    except LayerError as error:
        suggestion = _undotted(path, value) or error.suggestion
        raise ConfigError(path, value, error.what.partition(": ")[2], suggestion) from None
    if not callable(found):
        raise ConfigError(path, value, f"a {type(found).__name__} can't be called", _undotted(path, value))
    return found


def _undotted(path: str, value: str) -> str | None:
    """An override with what a wrong dotted path was likely meant to name: `nnx.RMSNorm` is RMSNorm."""
    name = re.split(r"[.:]", value)[-1]
    if "init" in path:
        return f"{path}={nearest(name, _initializers(), cutoff=MEANT) or 'lecun_normal'}"
    close = _close(path, name, _functions())
    return f"{path}={close}" if close else None
