"""How the user's own sources of two sides differ. Pure: kept texts in, lines out."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner.report.compare.pairing import Entry, Pair

# The kept source of a run with this digest; None if it is lost.
ReadSource = Callable[[Entry, str], str | None]

# Lines around what differs.
CONTEXT = 2


@dataclass(frozen=True, kw_only=True)
class SourceDiff:
    """A module of the user's whose source differs between the runs of a pair.

    Attributes:
      module: Its name.
      a: SHA-256 of the first side's source; None if that side has no such module.
      b: The same for the second side.
      lost: The sides whose source is not kept.
      lines: A unified diff, if both are kept.
      num_pairs: Pairs that differ so.
    """

    module: str
    a: str | None
    b: str | None
    lost: Sequence[str]
    lines: Sequence[str]
    num_pairs: int


def source_diffs(pairs: Sequence[Pair], read: tuple[ReadSource, ReadSource]) -> list[SourceDiff]:
    """The modules whose sources differ, each pair of versions once.

    Args:
      pairs: The paired runs.
      read: Read a kept source of either side.
    """
    counts: Counter[tuple[str, str | None, str | None]] = Counter()
    examples: dict[tuple[str, str | None, str | None], Pair] = {}
    for pair in pairs:
        for module in dict.fromkeys((*pair.a.sources, *pair.b.sources)):
            versions = module, pair.a.sources.get(module), pair.b.sources.get(module)
            if versions[1] != versions[2]:
                counts[versions] += 1
                examples.setdefault(versions, pair)
    return [_diff(*versions, examples[versions], read, num) for versions, num in counts.items()]


def _diff(
    module: str, a: str | None, b: str | None, pair: Pair, read: tuple[ReadSource, ReadSource], num_pairs: int
) -> SourceDiff:
    texts = [
        "" if digest is None else one(entry, digest)
        for one, entry, digest in zip(read, (pair.a, pair.b), (a, b), strict=True)
    ]
    old, new = texts
    lines: list[str] = []
    if old is not None and new is not None:
        found = difflib.unified_diff(old.splitlines(), new.splitlines(), n=CONTEXT, lineterm="")
        lines = list(found)[2:]  # without the names of the files
    lost = [name for name, text in zip("AB", texts, strict=True) if text is None]
    return SourceDiff(module=module, a=a, b=b, lost=lost, lines=lines, num_pairs=num_pairs)
