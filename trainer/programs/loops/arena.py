"""Places of buffers in one block of memory, from when each is needed: nothing is allocated while a program runs."""

import bisect
import contextlib
import mmap
import weakref
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch

from trainer.exact.native import CannotCompile
from trainer.programs.loops.groups import LoopStep

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector."""
MAX_MEETINGS = 1 << 24
"""Pairs of buffers that live at the same time: some ten seconds of placing them; a large model's step has 10^5."""

Range = tuple[int, int]
"""From this byte to before that one."""


class Life(NamedTuple):
    """A buffer of `size` bytes, needed from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int
    number: int


class Ground:
    """Memory of programs of which one runs at a time: their arenas lie over each other, and blocks outside the heap, in
    whose small pieces they would leave holes that nothing else fits, are handed on from one to the next.

    Of each size one block in which no tensor lies any more is kept: the system clears every page that it gives.
    """

    def __init__(self) -> None:
        self._arena: mmap.mmap | None = None
        self._spare: dict[int, mmap.mmap] = {}

    def arena(self, size: int) -> mmap.mmap:
        """Return memory of `size` bytes or more, of any content; it is the same until somebody asks for more."""
        if self._arena is None or len(self._arena) < size:
            self._arena = mapped(size)
        return self._arena

    def block(self, size: int) -> torch.Tensor:
        """Return uint8 [size] of any content, which nobody else has until the last tensor in it has gone."""
        memory = self._spare.pop(size, None) or mapped(size)
        held = np.frombuffer(memory, np.uint8)
        weakref.finalize(held, self._spare.__setitem__, size, memory).atexit = False
        return torch.from_numpy(held)[:size]

    def rest(self) -> None:
        """Give the memory of the arena, and of blocks in which no tensor lies, back to the system."""
        self._spare.clear()
        if self._arena is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._arena.madvise(mmap.MADV_DONTNEED)


def mapped(size: int) -> mmap.mmap:
    """Return memory of this process alone, in large pages where the system has them: fewer to clear and to look up."""
    size = max(size, 1)
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared pages are small ones
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def last_steps(steps: Sequence[LoopStep]) -> dict[int, int]:
    """Return the place of the last step that makes or reads each buffer."""
    return {number: place for place, work in enumerate(steps) for number in (*work.makes, *work.reads)}


def arrange(lives: Collection[Life]) -> tuple[dict[int, int], int]:
    """Return each buffer's place in bytes and the size of the whole block.

    Greedy by size, as Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020): the
    largest first, each at the lowest place that is free throughout its life. Raises CannotCompile where too many
    buffers live at a time.
    """
    placed = _Placed(max((life.last for life in lives), default=0) + 1)
    starts: dict[int, int] = {}
    met = 0
    for life in sorted(lives, reverse=True):
        size = -(-life.size // ALIGNMENT) * ALIGNMENT
        taken = sorted(placed.during(life))
        met += len(taken)
        if met > MAX_MEETINGS:
            raise CannotCompile("the program keeps too many values at a time to plan its memory")
        lowest = 0
        for start, stop in taken:
            if start - lowest >= size:
                break
            lowest = max(lowest, stop)
        placed.add(life, (lowest, lowest + size))
        starts[life.number] = lowest
    return starts, placed.top


class _Placed:
    """Ranges of bytes by when they are taken: a segment tree of lives over steps, and all lives by their first step."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._spans: list[list[Range]] = [[] for _ in range(2 * steps)]
        self._begun: list[tuple[int, Range]] = []
        self.top = 0

    def add(self, life: Life, taken: Range) -> None:
        """Take a range of bytes throughout a life."""
        self.top = max(self.top, taken[1])
        bisect.insort(self._begun, (life.first, taken))
        low, high = life.first + self._steps, life.last + self._steps + 1
        while low < high:
            if low % 2:
                self._spans[low].append(taken)
                low += 1
            if high % 2:
                high -= 1
                self._spans[high].append(taken)
            low, high = low // 2, high // 2

    def during(self, life: Life) -> list[Range]:
        """Return the ranges that are taken at any time of a life: at its first step, or from a later one on."""
        found: list[Range] = []
        place = life.first + self._steps
        while place:
            found += self._spans[place]
            place //= 2
        low = bisect.bisect_left(self._begun, life.first + 1, key=_first)
        high = bisect.bisect_right(self._begun, life.last, key=_first)
        return found + [taken for _, taken in self._begun[low:high]]


def _first(begun: tuple[int, Range]) -> int:
    return begun[0]
