"""What every fuzz test draws by, and how it reports. `BRIDGE_RUNNER_FUZZ=SEED[:NUM]`: other draws, or more of them."""

from __future__ import annotations

import os
from collections.abc import Sequence

_SEED, _, _NUM = os.environ.get("BRIDGE_RUNNER_FUZZ", "15:").partition(":")
SEED = int(_SEED)


def num_drawn(usual: int) -> int:
    """How many draws a test makes."""
    return int(_NUM or usual)


def report_held(name: str, num_tried: int, faults: Sequence[str], *, num_refused: int | None = None) -> None:
    """Prints how many held of what was tried, and fails unless all did."""
    refused = "" if num_refused is None else f", refused {num_refused}"
    print(f"\n{name}: tried {num_tried} / held {num_tried - len(faults)}{refused}")
    assert not faults, "\n\n".join(faults)
