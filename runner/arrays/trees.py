"""Flattens variable trees into named leaves, and digests them.

Digests cover values (dtype, shape, bytes in C order, little-endian), so they are the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from flax.core import meta

from runner.arrays import shards
from runner.records.record import ArraySummary, Leaf

# Threads pay off from this size on: a core hashes 1.5 GB per second.
PARALLEL_BYTES = 32 * 2**20
DIGEST_THREADS = 4

# Tuples occur as dict keys inside NNX modules: `nnx.SpectralNorm` has them.
Path = tuple[str | int | tuple[Any, ...], ...]


def array_digest(array: np.ndarray | jax.Array) -> str:
    """SHA-256 over the dtype, shape and bytes of `array`; a sharded one is never whole on the host."""
    if not shards.is_sharded(array):
        array = np.asarray(array)
    digest = hashlib.sha256(f"{array.dtype.name}{list(array.shape)}".encode())
    for block in shards.blocks(array):
        plain = block.astype(block.dtype.newbyteorder("<")) if block.dtype.byteorder == ">" else block
        digest.update(plain.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def same_bits(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether two arrays of the host have the same dtype, shape and bits."""
    return (one.dtype, one.shape) == (two.dtype, two.shape) and one.tobytes() == two.tobytes()


def tree_digest(leaves: Iterable[Leaf]) -> str:
    """SHA-256 over the paths and digests of `leaves`, independent of their order."""
    lines = sorted(f"{leaf.name}={leaf.digest}" for leaf in leaves)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def flatten(tree: Any, *, whole: type | tuple[type, ...] = meta.AxisMetadata) -> list[tuple[Path, Any]]:
    """Paths and leaves of `tree`; what is `whole`, metadata boxes (`nn.Partitioned`, `NNXMeta`), counts as a leaf."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, whole))
    return [(tuple(_key(part) for part in path), leaf) for path, leaf in pairs]


def spell(path: Iterable[Any]) -> str:
    """A path as one string: `params/layers/0/kernel`."""
    return "/".join(str(part) for part in path)


def spell_keys(keys: Iterable[Any]) -> str:
    """The path of a leaf, as `jax.tree_util` gives it, as one string."""
    return spell(_key(part) for part in keys)


def spell_each(paths: Iterable[Iterable[Any]]) -> list[str]:
    """Paths as text: `params/layers/0/kernel`."""
    return [spell(path) for path in paths]


def unbox(tree: Any) -> Any:
    """Replaces every metadata box in `tree` by its array, which stays on its devices (Flax would move it)."""
    return jax.tree.map(_unboxed, tree, is_leaf=meta.is_axis_metadata)


def shapes(tree: Any) -> Any:
    """`tree` with a `jax.ShapeDtypeStruct` for every array; metadata boxes stay."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), tree)


def is_sown(tree: Any) -> bool:
    """Whether every leaf of the collection `tree` is inside a tuple, as stored by Linen's `sow`."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    return bool(paths) and all(any(isinstance(part, jax.tree_util.SequenceKey) for part in path) for path in paths)


def with_keys_of(tree: Any, expected: Any) -> Any:
    """`tree` in the structure of `expected`, as far as their leaves have the same paths as strings.

    A checkpoint holds arrays by name: integer and tuple keys come back as strings, tuples as dicts, typed rng keys as
    their data, and None not at all. Leaves that `expected` has not are kept.

    Args:
      tree: Nested dicts of arrays.
      expected: Variable dict; arrays or `jax.ShapeDtypeStruct`, in boxes or not.
    """
    found = {spell(path): (path, leaf) for path, leaf in flatten(tree)}
    filled = _filled(expected, (), found)
    return nest(found.values(), {} if filled is _ABSENT else filled)


_ABSENT = object()


def _filled(expected: Any, path: Path, found: dict[str, tuple[Path, Any]]) -> Any:
    """`expected` with the leaves of `found`, which are taken out of it; without what is not all there."""
    if isinstance(expected, Mapping):
        parts = {key: _filled(child, (*path, key), found) for key, child in expected.items()}
        kept = {key: part for key, part in parts.items() if part is not _ABSENT}
        return kept if kept or not parts else _ABSENT
    wanted = {spell((*path, *rest)): leaf for rest, leaf in flatten(expected)}
    if not wanted.keys() <= found.keys():
        return _ABSENT
    structure = jax.tree.structure(expected, is_leaf=meta.is_axis_metadata)
    return jax.tree.unflatten(structure, [_typed(found.pop(name)[1], unbox(leaf)) for name, leaf in wanted.items()])


def _typed(leaf: Any, wanted: Any) -> Any:
    """`leaf` as a typed rng key where `wanted` is one, and `leaf` its data."""
    if not is_key(wanted) or is_key(leaf):
        return leaf
    impl: dict[str, Any] = {}

    def opened(key: jax.Array) -> jax.Array:
        impl["is"] = jax.random.key_impl(key)
        return jax.random.key_data(key)

    data = jax.eval_shape(opened, wanted)
    fits = (np.shape(leaf), leaf.dtype) == (data.shape, data.dtype)
    return jax.random.wrap_key_data(leaf, impl=impl["is"]) if fits else leaf


def is_key(leaf: Any) -> bool:
    """Whether `leaf`, or what has its shape and dtype, is an array of typed rng keys."""
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_packed(leaf: Any) -> bool:
    """Whether several elements of `leaf` share a byte."""
    return hasattr(leaf, "dtype") and leaf.dtype.name in ("int2", "uint2", "int4", "uint4", "float4_e2m1fn")


def select(tree: Any, wanted: Callable[[Path], bool]) -> Any:
    """Selects the leaves of `tree` with a wanted path, as nested dicts."""
    return nest((path, leaf) for path, leaf in flatten(tree) if wanted(path))


def nest(pairs: Iterable[tuple[Path, Any]], within: dict[Any, Any] | None = None) -> Any:
    """Builds nested dicts from paths and leaves: the inverse of `flatten`; added to `within`, if given."""
    found: dict[Any, Any] = {} if within is None else within
    for (*parents, last), leaf in pairs:
        node = found
        for key in parents:
            if not isinstance(node.setdefault(key, {}), dict):
                node[key] = {}
            node = node[key]
        node[last] = leaf
    return found


def axis_names(boxed: Any) -> tuple[Any, ...] | None:
    """Axis names in a metadata box (`nn.Partitioned`, `NNXMeta`), in partition-spec form, or None."""
    names = getattr(boxed, "names", None)
    if names is None and isinstance(getattr(boxed, "metadata", None), dict):
        names = boxed.metadata.get("out_sharding") or boxed.metadata.get("sharding_names")
    names = getattr(names, "spec", names)  # of a NamedSharding
    return None if names is None else tuple(names)


def to_host(tree: Any) -> Any:
    """Unboxes `tree` and converts it to NumPy leaves; all arrays are copied from the device in one transfer."""
    return jax.tree.map(_as_numpy, jax.device_get(unbox(tree)))


def to_save(tree: Any) -> Any:
    """Unboxes `tree`, with NumPy leaves; on a mesh, arrays stay sharded, so that each device saves its own shards."""
    plain = jax.tree.map(_without_key, unbox(tree))
    return plain if any(map(shards.is_sharded, jax.tree.leaves(plain))) else to_host(plain)


def leaves(variables: Mapping[str, Any]) -> list[Leaf]:
    """The leaves of a Linen variable dict with their digests, in order."""
    pairs = [(path, boxed, _without_key(_unboxed(boxed))) for path, boxed in flatten(variables)]
    arrays = [leaf if shards.is_sharded(leaf) else _as_numpy(leaf) for _, _, leaf in pairs]
    return [
        Leaf(
            path=[part if isinstance(part, (str, int)) else str(part) for part in path],
            shape=list(array.shape),
            dtype=array.dtype.name,
            num_bytes=array.nbytes,
            digest=digest,
            box=type(boxed).__name__ if isinstance(boxed, meta.AxisMetadata) else None,
            names=_axis_names(boxed),
            spec=shards.spec(leaf),
        )
        for (path, boxed, leaf), array, digest in zip(pairs, arrays, _digests(arrays), strict=True)
    ]


def _digests(arrays: Sequence[np.ndarray | jax.Array]) -> Iterable[str]:
    """`array_digest` of each; large ones in parallel, since hashing releases the GIL."""
    if len(arrays) < 2 or sum(array.nbytes for array in arrays) < PARALLEL_BYTES:
        return map(array_digest, arrays)
    with ThreadPoolExecutor(DIGEST_THREADS) as pool:
        return list(pool.map(array_digest, arrays))


def named_arrays(output: Any) -> dict[str, np.ndarray]:
    """The arrays of an output by path; a single array has the path ''."""
    return {spell(path): _as_numpy(leaf) for path, leaf in flatten(output)}


def unboxed_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of variables by path, without their metadata boxes."""
    return named_arrays(unbox(tree))


def summarize_array(path: str, array: np.ndarray) -> ArraySummary:
    """Dtype, shape and value statistics of `array`; statistics are in float64 over its finite values."""
    values = as_float64(array).ravel()
    finite = values[np.isfinite(values)]
    some = finite.size > 0
    return ArraySummary(
        path=path,
        shape=list(array.shape),
        dtype=array.dtype.name,
        digest=array_digest(array),
        num_elements=array.size,
        num_non_finite=int(values.size - finite.size),
        norm=float(np.linalg.norm(finite)) if some else None,
        mean=float(finite.mean()) if some else None,
        std=float(finite.std()) if some else None,
        min=float(finite.min()) if some else None,
        max=float(finite.max()) if some else None,
    )


def as_float64(array: np.ndarray) -> np.ndarray:
    """`array` as float64; complex numbers by magnitude."""
    return np.abs(array).astype(np.float64) if np.iscomplexobj(array) else array.astype(np.float64)


def ulp_distance(first: np.ndarray, second: np.ndarray) -> int:
    """The largest number of representable values between two arrays of the same shape and dtype.

    0 means equal bits, except that 0.0 and -0.0 count as equal and NaN equals NaN. Integers and booleans are compared
    by difference. Method: bit patterns mapped to a monotone integer line
    (https://randomascii.wordpress.com/2012/02/25/comparing-floating-point-numbers-2012-edition/).
    """
    if first.size == 0:
        return 0
    if not jax.numpy.issubdtype(first.dtype, np.floating):
        if first.dtype.kind == "c":
            return max(ulp_distance(first.real, second.real), ulp_distance(first.imag, second.imag))
        return int(np.max(np.abs(first.astype(object) - second.astype(object))))
    one, two = _ordered(first), _ordered(second)
    both_nan = np.isnan(as_float64(first)) & np.isnan(as_float64(second))
    distance = np.where(both_nan, 0, np.abs(one - two))
    return int(distance.max())


def _ordered(array: np.ndarray) -> np.ndarray:
    """Maps bit patterns to integers on a monotone line through zero; Python's own where 64 bits can't hold them."""
    bits = array.dtype.itemsize * 8
    raw = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").astype(np.int64 if bits < 64 else object)
    sign = 1 << (bits - 1)
    return np.where(raw >= sign, -(raw - sign), raw)


def _unboxed(leaf: Any) -> Any:
    if not isinstance(leaf, meta.AxisMetadata):
        return leaf
    return unbox(leaf.unbox(apply_constraint=False) if isinstance(leaf, meta.Partitioned) else leaf.unbox())


def _without_key(leaf: Any) -> Any:
    """The data of a typed key, on its devices; any other leaf as it is."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _as_numpy(leaf: Any) -> np.ndarray:
    return shards.whole(_without_key(leaf))


def _axis_names(boxed: Any) -> list[Any] | None:
    names = axis_names(boxed)
    return None if names is None else [one if one is None or isinstance(one, (str, int)) else str(one) for one in names]


def _key(part: Any) -> str | int | tuple[Any, ...]:
    for attribute in ("key", "idx", "name"):
        if hasattr(part, attribute):
            value = getattr(part, attribute)
            return value if isinstance(value, (str, int, tuple)) else str(value)
    return str(part)
