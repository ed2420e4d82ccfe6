"""Generates x with NumPy, so that its values are the same on every device and need no compilation."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.bridge.calling import calls
from runner.config.enums import InputKind
from runner.config.settings.layer import InputSettings
from runner.errors import ConfigError
from runner.records.disk import plain_files

# A seed of three numbers, the last of them not 0: a step has one of two, the seed of the input and its number.
EVALUATION = 0xE7A1

RANDOM_KINDS = frozenset({InputKind.normal, InputKind.tokens})


def make_input(settings: InputSettings, shape: Sequence[int]) -> np.ndarray:
    """Makes x of `shape`, on the host.

    Raises:
      ConfigError: A dtype that the kind or JAX does not support, or a file without an array of `shape`.
    """
    return _values(settings, shape, np.random.default_rng(settings.seed))


def make_batch(settings: InputSettings, shape: Sequence[int], step: int) -> np.ndarray:
    """Makes the x of a training step: a new draw for each step if x is random (normal, tokens), else the same x.

    Raises:
      ConfigError: As in `make_input`.
    """
    return _values(settings, shape, np.random.default_rng((settings.seed, step)))


def make_eval_batch(settings: InputSettings, shape: Sequence[int], num: int) -> np.ndarray:
    """Makes the x of a batch for evaluation, which no step takes: the same whatever the seeds of the run.

    Raises:
      ConfigError: As in `make_input`.
    """
    return _values(settings, shape, np.random.default_rng((EVALUATION, num, 1)))


def _values(settings: InputSettings, shape: Sequence[int], generator: np.random.Generator) -> np.ndarray:
    dtype = input_dtype(settings)
    kind = settings.kind
    if kind is InputKind.file:
        return _load(settings, shape, dtype)
    if kind is InputKind.normal:
        return generator.standard_normal(shape).astype(dtype)
    if kind is InputKind.tokens:
        return generator.integers(0, settings.high or 1, shape).astype(dtype)
    if kind is InputKind.arange:
        return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    return np.full(shape, 1 if kind is InputKind.ones else 0).astype(dtype)


def input_dtype(settings: InputSettings) -> np.dtype:
    """The dtype of x.

    Raises:
      ConfigError: An unknown dtype, one that JAX would silently narrow, or one that the kind does not support.
    """
    try:
        dtype = np.dtype(jnp.dtype(settings.dtype))
    except TypeError:
        raise ConfigError("input.dtype", settings.dtype, "no such dtype", "input.dtype=float32") from None
    if not (jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_):
        raise ConfigError("input.dtype", settings.dtype, "JAX has no such element type", "input.dtype=float32")
    if settings.kind is InputKind.normal and not jnp.issubdtype(dtype, jnp.inexact):
        raise ConfigError("input.dtype", settings.dtype, "normal values need a floating type", "input.dtype=float32")
    if settings.kind is InputKind.tokens and not jnp.issubdtype(dtype, jnp.integer):
        raise ConfigError("input.dtype", settings.dtype, "tokens are integers", "input.dtype=int32")
    narrowed = jax.dtypes.canonicalize_dtype(dtype)
    if narrowed != dtype:
        reason = "JAX would narrow it to 32 bits; set the environment variable JAX_ENABLE_X64=1"
        raise ConfigError("input.dtype", settings.dtype, reason, f"input.dtype={narrowed.name}")
    last = (settings.high or 1) - 1
    if settings.kind is InputKind.tokens and last > jnp.iinfo(dtype).max:
        most = jnp.iinfo(jnp.int32).max
        fitting = "input.dtype=int32" if last <= most else f"input.dtype=int32 input.high={most + 1}"
        raise ConfigError("input.dtype", settings.dtype, f"it holds no token up to {last}", fitting)
    return dtype


def more_inputs(settings: InputSettings) -> dict[str, Any]:
    """The arrays that every call gets besides x, by call argument; those of a dict in one.

    Raises:
      ConfigError: A dtype that does not exist, or that JAX would narrow.
    """
    tree: dict[str, Any] = {}
    for name, shape in settings.more.items():
        tree = calls.put(tree, name, _more(settings, name, shape))
    return tree


def _more(settings: InputSettings, name: str, shape: Sequence[int]) -> np.ndarray:
    is_mask = name.rpartition(".")[2].endswith("mask")
    wanted = settings.more_dtypes.get(name, "bool" if is_mask else settings.dtype)
    plain = dataclasses.replace(settings, kind=InputKind.ones, dtype=str(wanted), shapes={}, dtypes={})
    try:
        dtype = input_dtype(plain)
    except ConfigError as error:
        raise ConfigError(f"input.dtypes.{name}", wanted, error.reason, f"input.dtypes.{name}=float32") from None
    # By its name too, so that no two arrays have the same values.
    generator = np.random.default_rng((settings.seed, zlib.crc32(name.encode())))
    if settings.kind in (InputKind.ones, InputKind.zeros, InputKind.arange):
        return _values(dataclasses.replace(plain, kind=settings.kind), shape, generator)
    if jnp.issubdtype(dtype, jnp.inexact):
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, settings.high if settings.high and dtype != np.bool_ else 2, shape).astype(dtype)


def require(settings: InputSettings, shape: Sequence[int]) -> None:
    """Validates that x can be made, without making it unless it comes from a file.

    Raises:
      ConfigError: It can't be made.
    """
    input_dtype(settings)
    if settings.kind is InputKind.file:
        make_input(settings, shape)


def content_digest(settings: InputSettings) -> str | None:
    """SHA-256 of the input file; None if x is generated.

    Raises:
      ConfigError: The file can't be read.
    """
    if settings.kind is not InputKind.file:
        return None
    try:
        return hashlib.sha256(plain_files.read_bytes(_path(settings))).hexdigest()
    except OSError as error:
        raise _unreadable(settings, error) from error


def _path(settings: InputSettings) -> Path:
    return Path(os.path.expanduser(str(settings.path)))


def _unreadable(settings: InputSettings, error: Exception) -> ConfigError:
    if isinstance(error, FileNotFoundError):
        return ConfigError("input.path", settings.path, "there is no such file", "input.path=x.npy")
    words = str(error).splitlines()
    reason = f"not an .npy array ({words[0] if words else type(error).__name__})"
    return ConfigError("input.path", settings.path, reason, "numpy.save('x.npy', x), then input.path=x.npy")


def _load(settings: InputSettings, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    try:
        with plain_files.opened(
            _path(settings)
        ) as file:  # np.load leaves its own file open if it raises, and an archive too
            array = np.load(file, allow_pickle=False)
    except Exception as error:  # a damaged header raises whatever Python's tokenizer raises
        raise _unreadable(settings, error) from error
    if not isinstance(array, np.ndarray):
        raise ConfigError("input.path", settings.path, "an archive of arrays, not one array", "input.path=x.npy")
    if array.dtype.kind not in "biufc" or (array.dtype.kind == "c" and dtype.kind != "c"):
        raise ConfigError(
            "input.path",
            settings.path,
            f"an array of {array.dtype} can't become {dtype.name}",
            f"numpy.save('x.npy', x.astype('float32')), then input.path=x.npy input.dtype={dtype.name}",
        )
    if list(array.shape) != list(shape):
        found = "[" + ",".join(str(axis) for axis in array.shape) + "]"
        raise ConfigError(
            "input_shape", list(shape), f"{settings.path} holds an array of shape {found}", f"'input_shape={found}'"
        )
    return array.astype(dtype)
