"""What EasyLM's `StreamingCheckpointer` writes: one pair a leaf, of its path and of `flax.serialization.to_bytes`."""

from __future__ import annotations

from pathlib import Path

from runner.arrays import trees
from runner.arrays.formats.contents import Contents, DamagedError
from runner.arrays.formats.msgpack_bytes import Buffer, Reader, Span, as_tree

FORMAT = "EasyLM's stream"

# A list of two, the first of which is a list.
PAIR = 0x92
LISTS = (*range(0x90, 0xA0), 0xDC, 0xDD)


def is_stream(start: bytes) -> bool:
    """Whether the first bytes are those of a pair whose first half is a path."""
    return len(start) > 1 and start[0] == PAIR and start[1] in LISTS


def read(path: Path) -> Contents:
    """Opens the file.

    Raises:
      DamagedError: It is cut off, or no such stream.
    """
    buffer = Buffer(path)
    reader, leaves = Reader(buffer), []
    try:
        while reader:
            key, span = reader.value()
            if isinstance(span, str):  # bytes that happen to be text, from an old msgpack
                span = Span(reader.at - len(span.encode()), len(span.encode()))
            inner = Reader(buffer, span.start, span.start + span.size)
            leaves.append((tuple(map(str, key)), as_tree(inner.value())))
    except (RecursionError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedError(f"no leaf ends at byte {reader.at}") from error
    return Contents(format=FORMAT, place=path, tree=trees.nest((key, leaf) for key, leaf in leaves if leaf is not None))
