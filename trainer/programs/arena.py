"""Places of buffers in one block of memory, from when each is needed: nothing is allocated while a program runs."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trainer.programs.fusion import Work

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector."""


class Life(NamedTuple):
    """A buffer of `size` bytes, needed from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int
    number: int


def last_steps(steps: Sequence[Work]) -> dict[int, int]:
    """Return the place of the last step that makes or reads each buffer."""
    return {number: place for place, work in enumerate(steps) for number in (*work.makes, *work.reads)}


def arrange(lives: Iterable[Life]) -> tuple[dict[int, int], int]:
    """Return each buffer's place in bytes and the size of the whole block.

    Greedy by size, as Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020): the
    largest first, each at the lowest place that is free throughout its life.
    """
    placed: list[tuple[int, int, Life]] = []
    for life in sorted(lives, reverse=True):
        size = -(-life.size // ALIGNMENT) * ALIGNMENT
        lowest = 0
        for start, stop, other in sorted(placed):
            if life.first <= other.last and other.first <= life.last:
                if start - lowest >= size:
                    break
                lowest = max(lowest, stop)
        placed.append((lowest, lowest + size, life))
    return {life.number: start for start, _, life in placed}, max((stop for _, stop, _ in placed), default=0)
