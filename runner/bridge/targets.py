"""Resolves names in a config to Python objects: dotted paths and initialisers; which of them a record may name."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from runner.bridge import own_modules
from runner.bridge.products import taken_apart
from runner.config.serialize import canonical_digest
from runner.config.settings.run import Run
from runner.errors import NO_EXIT, LayerError, is_of_signal, nearest, text_of

# What an untrusted record may name: module classes of these packages, factories of these files, and as arguments
# functions of these modules. Nothing else of ours or jax's: `jax.numpy.load` can run code from a pickle.
TRUSTED_PACKAGES = ("runner", "flax")
TRUSTED_FACTORIES = "runner.bridge.layers."
TRUSTED_FUNCTIONS = re.compile(r"flax\.(nnx|linen)\.|jax\.(_src\.)?(nn|numpy|lax|random|scipy)\b")
FILE_FUNCTIONS = frozenset({"load", "save", "savez", "fromfile"})

# What may be a dotted path: a function by name, or the `_target_` of a nested object.
DOTTED = re.compile(r"[A-Za-z_]\w*([.:][A-Za-z_]\w*)+")


@functools.cache
def source_digest(path: str, key: str = "layer.target") -> str | None:
    """SHA-256 of the source of a layer, host or wrapper; None for flax's own, which its version identifies.

    The user's modules that its own imports are part of it.
    """
    found = import_path(path, key=key)
    product = taken_apart(found)
    found = found if product is None else product.nnx_class
    # What a partial binds stands where it is made, not where what it calls is.
    is_partial = isinstance(found, functools.partial)
    module = own_modules.module_of(path) if is_partial else inspect.getmodule(found)
    if module is None or module.__name__.split(".")[0] == "flax":
        return None
    try:
        text = inspect.getsource(module)
    except (OSError, TypeError):
        return None
    more = own_modules.helpers(module)
    return canonical_digest({"": text} | more) if more else hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def resolve_initializer(text: str) -> Callable[..., jax.Array]:
    """Resolves the initialiser named by `text`: `zeros`, `lecun_normal`, `normal(stddev=0.02)`.

    Cached, so that equal configs share one function: a new one each time would cause retracing.
    """
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?", text.strip())
    known = {name: value for name, value in vars(nnx.initializers).items() if callable(value) and name[0].islower()}
    if match is None or not ({match[1], f"{match[1]}_init"} & known.keys()):
        raise ValueError(nearest(text, known) or "lecun_normal")
    # `zeros` is an initialiser; `zeros_init` returns one, as does `normal`.
    factory = known.get(f"{match[1]}_init") or known[match[1]]
    try:
        arguments = dict(_argument(part) for part in (match[2] or "").split(",") if part.strip())
    except ValueError:
        raise TypeError(f"the arguments of {match[1]} are name=number, not ({match[2]})") from None
    return factory(**arguments)


def _argument(part: str) -> tuple[str, float]:
    name, _, value = part.partition("=")
    return name.strip(), float(value)


def import_path(path: str, *, key: str = "layer.target") -> Any:
    """Imports the object at a dotted path, `pkg.mod.Class` or `pkg.mod:Class`.

    Args:
      path: The dotted path.
      key: The config key that names it, for error messages.

    Raises:
      LayerError: The path can't be imported.
    """
    if not DOTTED.fullmatch(path):
        raise LayerError(f"{key}={path}: a dotted path is wanted", f"{key}=my_pkg.MyLayer")
    module_path, _, names = path.partition(":")
    parts = module_path.split(".") if not names else [module_path, *names.split(".")]
    first = len(parts) - 1 if not names else 1
    for cut in range(first, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            found = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                continue
            _require_no_stranger(f"{key}={path}", error.name)
            raise LayerError(f"{key}={path}: importing {module_name} failed: {error}") from error
        except BaseException as error:
            exits = not isinstance(error, Exception)
            if exits and is_of_signal(error):
                raise
            _require_no_stranger(f"{key}={path}", getattr(error, "name", None))
            what = f"{key}={path}: importing {module_name} failed: {type(error).__name__}: {text_of(error)}"
            raise LayerError(what.removesuffix(": "), NO_EXIT if exits else None) from None
        return _attribute(f"{key}={path}", found, parts[cut:])
    suggestion = "run from the folder that holds the module, or install its package"
    raise LayerError(f"{key}={path}: there is no module {parts[0]}", suggestion)


def foreign_paths(run: Run) -> list[str]:
    """Dotted paths in a config that name third-party code (not ours, flax's or jax's); none of it is imported."""
    targets = [path for path in (run.layer.target, run.layer.wrapper, run.host.target) if path]
    foreign = [path for path in targets if not _is_trusted(path, _is_own_module)]
    for kwargs in (run.layer.kwargs, run.layer.call, run.host.kwargs, run.host.call, run.layer.metadata_fn):
        foreign += [path for path in _may_be_imported(kwargs) if not _is_trusted(path, _is_own_function)]
    return list(dict.fromkeys(foreign))


def _may_be_imported(value: Any) -> list[str]:
    """Every dotted path in a config's value: which of them a constructor wants as text, only its signature says."""
    if isinstance(value, Mapping):
        return [path for item in value.values() for path in _may_be_imported(item)]
    if isinstance(value, (list, tuple)):
        return [path for item in value for path in _may_be_imported(item)]
    return [value] if isinstance(value, str) and DOTTED.fullmatch(value.split("(")[0]) else []


def _is_trusted(path: str, is_own: Callable[[Any], bool]) -> bool:
    # Importing runs code: only paths whose first name is ours, flax or jax are inspected.
    if re.split(r"[.:]", path)[0] not in (*TRUSTED_PACKAGES, "jax"):
        return False
    try:
        found = import_path(path)
    except LayerError:
        return True  # there is nothing to run; building the layer reports it
    return is_own(found)


def _is_own_module(found: Any) -> bool:
    # `jax.….os.system` starts with jax but is not jax's.
    module = str(getattr(found, "__module__", ""))
    return module.split(".")[0] in TRUSTED_PACKAGES if isinstance(found, type) else module.startswith(TRUSTED_FACTORIES)


def _is_own_function(found: Any) -> bool:
    module, name = str(getattr(found, "__module__", "")), getattr(found, "__name__", "")
    return TRUSTED_FUNCTIONS.match(module) is not None and name not in FILE_FUNCTIONS


def _require_no_stranger(setting: str, module: str | None, names: Sequence[str] = ()) -> None:
    """Raises if our package shadows a `runner.py` or folder `runner` of the user's.

    Args:
      setting: The override that could not be resolved.
      module: The module in which the lookup failed.
      names: The names looked up, if `setting` itself has them.

    Raises:
      LayerError: The lookup was in our package, and the working directory has another `runner`.
    """
    if (module or "").partition(".")[0] != "runner":
        return
    ours = Path(__file__).resolve().parents[1]
    for path in (Path("runner.py"), Path("runner")):
        if path.exists() and path.resolve() != ours:
            what = f"{setting}: runner is the name of our package, so {path.absolute()} can't be imported"
            renamed = Path(f"my_{path.name}")
            key, new = setting.partition("=")[0], ".".join([renamed.stem, *names])
            then = f"{key}={new}" if names else f"import {renamed.stem} instead of runner"
            raise LayerError(what, f"mv {path} {renamed}, then {then}")


def _attribute(setting: str, found: Any, names: Sequence[str]) -> Any:
    for index, name in enumerate(names):
        if not hasattr(found, name):
            _require_no_stranger(setting, getattr(found, "__name__", None), names)
            close = nearest(name, dir(found))
            where = getattr(found, "__name__", str(found))
            suggestion = (
                ".".join([setting.partition("=")[0] + "=" + where, close, *names[index + 1 :]]) if close else None
            )
            raise LayerError(f"{setting}: {where} has no {name}", suggestion)
        found = getattr(found, name)
    return found
