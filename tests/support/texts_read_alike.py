"""Compares two readers of JSON, one of them the usual one, on texts that are damaged at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

NUM_DAMAGED = 400


def outcome(text: bytes, reads: Callable[[bytes], Any]) -> str:
    """What a reader makes of a text, so that 1, 1.0 and true differ, as does the order of keys."""
    try:
        return repr(reads(text))
    except ValueError:
        return "refused"


def require_alike_where_damaged(
    reads: Callable[[bytes], Any], usual: Callable[[bytes], Any], texts: Sequence[bytes], *, likely: bytes
) -> None:
    """Damages texts, half of the time just after `likely`: both readers read or refuse each alike."""
    chance, outcomes = random.Random(0), set()
    for _ in range(NUM_DAMAGED):
        text = chance.choice(texts)
        place = chance.choice([chance.randrange(len(text)), text.index(likely) + chance.randrange(99)])
        piece = chance.choice([b"", b"{", b"}", b'"', b",", b"\n", b"0", text[place : place + 40]])
        text = text[:place] + piece + text[place + chance.randrange(3) :]
        found = outcome(text, reads)
        assert found == outcome(text, usual), text
        outcomes.add(found == "refused")
    assert outcomes == {True, False}
