"""Text in a given width: folded at words, and columns that share what a line has. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

GAP = 2

# A line may end after any of these: paths, dotted keys and lists of values have no blanks.
_WORDS = re.compile(r"[^\s,./_=-]*[\s,./_=-]?")

# A column gets no narrower than its longest word, up to this: words cut in pieces can't be read.
MAX_WORD = 12


def fold(text: str, width: int) -> list[str]:
    """`text` as lines of at most `width` characters, ended at words; a longer word is cut."""
    if len(text) <= width:
        return [text]
    lines = [""]
    tokens = re.findall(r"\S+\s*", text)
    words = [part for one in tokens for part in ([one] if len(one.rstrip()) <= width else _WORDS.findall(one))]
    for word in words:
        if len(lines[-1]) + len(word.rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += word
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines if line.strip()] or [""]


def paragraph(left: str, text: str, width: int) -> list[str]:
    """`text` behind `left`, on lines of `width` characters that begin below each other."""
    body = textwrap.wrap(text, max(20, width - len(left)), break_on_hyphens=False) or [""]
    return [f"{left}{body[0]}".rstrip(), *(" " * len(left) + line for line in body[1:])]


def widths(columns: Mapping[str, Sequence[str]], width: int, *, whole: Sequence[str] = ()) -> dict[str, int]:
    """How wide each column becomes on lines of `width` characters: headings are folded first, then the widest cells.

    Many columns may need more than that, each its least.

    Args:
      columns: The cells, by heading.
      width: Characters per line.
      whole: Columns whose cells are never folded.
    """
    cells = {heading: max((len(text) for text in column), default=0) for heading, column in columns.items()}
    words = {heading: max(len(word) for word in _WORDS.findall(heading)) for heading in columns}
    sizes = {heading: max(cells[heading], words[heading]) for heading in columns}
    left = width + GAP - sum(size + GAP for size in sizes.values())
    for heading, size in sizes.items():  # headings in one piece as far as there is room
        more = min(max(len(heading) - size, 0), max(left, 0))
        sizes[heading] += more if size + more == len(heading) else 0
        left -= sizes[heading] - size
    least = {
        heading: min(max(len(word) for text in (heading, *column) for word in _WORDS.findall(text)), MAX_WORD)
        for heading, column in columns.items()
    }
    least |= {heading: sizes[heading] for heading in whole}
    while left < 0:
        heading = max(sizes, key=lambda one: sizes[one] if sizes[one] > least[one] else 0)
        if sizes[heading] <= least[heading]:
            break
        sizes[heading] -= 1
        left += 1
    return sizes


def fits(columns: Mapping[str, Sequence[str]], width: int) -> bool:
    """Whether the columns fit on lines of `width` characters without folding a cell or cutting a word."""
    needed = (
        max([len(text) for text in column] + [len(word) for word in _WORDS.findall(heading)])
        for heading, column in columns.items()
    )
    return sum(size + GAP for size in needed) - GAP <= width
