"""Goodput: contributions that the law counts, for each second of a worker whom the plan leaves alive and connected.

One definition for the simulator and for real swarms. Time is what passed outside, not the ledger's, which stands still
while nobody serves it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from simulator.plan import Fault, there


@dataclass(frozen=True)
class Ended:
    """A round was sealed at `at` milliseconds, with so many contributions that count."""

    at: int
    counted: int


@dataclass(frozen=True)
class Span:
    """What happened from the first round's end at or after one time to that at or after another.

    `worker_ms` are milliseconds of workers alive and connected, `longest` is the longest time between two ends.
    """

    begin: int
    end: int
    rounds: int
    counted: int
    worker_ms: int
    longest: int

    @property
    def rate(self) -> float:
        """Return counted contributions for each second of a worker that is there."""
        return 1000 * self.counted / self.worker_ms


def measure(
    ended: Sequence[Ended], workers: Sequence[int], faults: Sequence[Fault], begin: int, end: int
) -> Span:
    """Return a span between two times; what a fault holds up beyond `end` counts in it.

    Raises ValueError where no round ended at or after each of the two times.
    """
    first = next((at for at, one in enumerate(ended) if one.at >= begin), None)
    last = next((at for at, one in enumerate(ended) if one.at >= end), None)
    if first is None or last is None or first >= last:
        raise ValueError(f"no two rounds ended that bound {begin / 1000:g} to {end / 1000:g} s")
    inside = ended[first : last + 1]
    longest = max(later.at - early.at for early, later in itertools.pairwise(inside))
    begin, end = inside[0].at, inside[-1].at
    counted = sum(one.counted for one in inside[1:])
    return Span(begin, end, len(inside) - 1, counted, there(faults, workers, begin, end), longest)


def kept(disturbed: Sequence[Span], quiet: Sequence[Span]) -> float:
    """Return the goodput of some spans over that of others."""
    rates = [
        sum(span.counted for span in spans) / sum(span.worker_ms for span in spans)
        for spans in (disturbed, quiet)
    ]
    return rates[0] / rates[1]
