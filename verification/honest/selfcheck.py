"""How often a peer makes a step of its own twice, before it signs what came of it. (SPEC.md 9.6)"""

from collections.abc import Callable

SHARE = 50
"""A fiftieth of a machine's work goes into checking itself."""
RAREST = 16
"""... but a step in one of so many rounds is checked, however short they are."""


def checked_step(steps: int, cost: int, below: Callable[[int], int]) -> int:
    """Return which of a round's inner steps is made twice, from 1 on; 0 for none.

    `cost`: what that takes, in thousandths of a step as it usually runs; `below(n)` draws from 0 .. n - 1.
    """
    one_in = min(RAREST, max(1, -(-SHARE * cost // (1000 * steps))))
    return 0 if below(one_in) else 1 + below(steps)
