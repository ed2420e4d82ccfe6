"""Explains in words and code where a run's random numbers come from; needs only its record, not JAX."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from runner.errors import literal

PARAMS = "params"

# What Linen names a wrapped layer by its wrapper: `ToLinen_0`, `LinearToLinen_0` in MaxText.
AUTOMATIC = re.compile(r"\w*ToLinen\w*_\d+")

# What a record doesn't tell, and the code below it takes for granted.
UNDER_A_HOST = (
    "# (right for a layer that its host calls outside nn.scan, nn.vmap and nn.map: under those, each slice has a key",
    "# of its own, and this code gives other values)",
)


def stream_number(path: Sequence[str] = (), *, separated: bool = False) -> int:
    """The number that the bridge folds into a stream's key for a layer at `path` in its host.

    The first four bytes of the SHA-1 of the path's parts and 1, since the wrapper is the first in its scope to request
    a stream; matches how `flax.core.scope` folds paths.

    Args:
      path: Names from the outermost Linen module down to the layer.
      separated: Flax's flag `flax_fix_rng_separator`: each part is preceded by a zero byte.
    """
    separator = b"\x00" if separated else b""
    parts = [*(name.encode() for name in path), b"\x01"]
    digest = hashlib.sha1(b"".join(separator + part for part in parts), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4], "big")


def key_number(when: str, stream: str) -> int:
    """The number folded into the root key for a stream other than `params`; `when` is `init` or `apply`."""
    return int.from_bytes(hashlib.sha256(f"{when}/{stream}".encode()).digest()[:4], "big")


def story(record: Mapping[str, Any]) -> list[str]:
    """Explains how a run's seed becomes its random numbers, line by line.

    Args:
      record: The record as JSON data.
    """
    return [root(record["settings"]["seed"]), *draws(record)]


def root(seed: int) -> str:
    """The one line of the explanation that depends on the seed."""
    return f"key = jax.random.PRNGKey({seed})"


def draws(record: Mapping[str, Any]) -> list[str]:
    """The remaining lines, which are the same for every seed of a program.

    Args:
      record: The record as JSON data.
    """
    if not record["takes_rngs"]:
        return [
            "# the layer's constructor takes no rngs: none of its variables come from the seed",
            _made(record),
            *_in_linen(record),
        ]
    path = layer_path(record)
    others = [stream for stream in record["streams"] if stream != PARAMS]
    lines = [
        f"{stream} = {_folded('key', key_number('apply', stream))}  # init: {_hex('init', stream)}" for stream in others
    ]
    where = f"at {'/'.join(path)} in its host" if path else "at the root"
    lines.append(f"# the layer {where} draws from each stream's key folded with {stream_number(path):#010x}:")
    if path:
        lines += UNDER_A_HOST
    rngs = [f"{PARAMS}={_folded('key', stream_number(path))}"]
    rngs += [f"{stream}={_folded(stream, stream_number(path))}" for stream in others]
    return [*lines, _made(record, f"nnx.Rngs({', '.join(rngs)})"), *_in_linen(record)]


def _made(record: Mapping[str, Any], rngs: str = "") -> str:
    """The code that makes the layer."""
    layer = record["settings"]["layer"]
    kwargs = [f"{key}={_python(value)}" for key, value in layer["kwargs"].items()]
    kwargs += [record["takes_rngs"].replace("{rngs}", rngs)] if rngs else []
    return f"layer = {record.get('nnx_class') or str(layer['target']).replace(':', '.')}({', '.join(kwargs)})"


def _in_linen(record: Mapping[str, Any]) -> list[str]:
    return [f"model = {record['linen']}  # the same in Linen"] if record.get("linen") else []


def layer_path(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The layer's path in its host, inferred from its variables' paths; empty without a host."""
    host = record["settings"].get("host") or {}
    if not host.get("target"):
        return ()
    for leaf in record["variables"]:
        parts = [str(part) for part in leaf["path"][1:]]
        for index, part in enumerate(parts):
            if part == host["layer_name"] or (host["layer_name"] is None and AUTOMATIC.fullmatch(part)):
                return tuple(parts[: index + 1])
    return ()


def nnx_path(path: Sequence[str | int], layer: Sequence[str] = ()) -> str:
    """The native module's attribute for a leaf: `layers[0].kernel`; `–` for a leaf outside the layer.

    Args:
      path: Path of the leaf, its collection first.
      layer: Path of the layer in its host.
    """
    inside = list(path[1:])
    if [str(part) for part in inside[: len(layer)]] != list(layer):
        return "–"
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inside[len(layer) :])
    return text.removeprefix(".")


def _folded(key: str, number: int) -> str:
    return f"jax.random.fold_in({key}, {number:#010x})"


def _hex(when: str, stream: str) -> str:
    return f"{key_number(when, stream):#010x}"


def _python(value: Any) -> str:
    return repr(value) if isinstance(value, (str, float, int, bool, type(None))) else literal(value)
