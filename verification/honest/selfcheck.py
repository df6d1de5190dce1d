"""How often a peer makes a step of its own twice, before it signs what came of it. (SPEC.md 9.6)"""

from collections.abc import Callable

from verification.digest import tagged
from verification.units import Digest

SHARE = 50
"""A fiftieth of a machine's work goes into checking itself."""
RAREST = 16
"""... but a step in one of so many rounds is checked, however short they are."""
DRAWN_BYTES = 8


def checked_step(beacon: Digest, steps: int, cost: int, below: Callable[[int], int]) -> int:
    """Return which of a round's inner steps is made twice, from 1 on; 0 for none.

    `cost`: what that takes, in thousandths of a step as it usually runs; `below(n)` draws from 0 .. n - 1. The rounds
    follow from their beacons: machines alike check themselves in the same ones, so that nobody is late by it.
    """
    drawn = int.from_bytes(tagged("self-check", beacon)[:DRAWN_BYTES], "big")
    is_drawn = drawn * one_in(steps, cost) < 1 << 8 * DRAWN_BYTES
    return 1 + below(steps) if is_drawn else 0


def one_in(steps: int, cost: int) -> int:
    """Return in one of how many rounds a step is checked."""
    return min(RAREST, max(1, -(-SHARE * cost // (1000 * steps))))
