"""Where numbers stand: an operator's inputs and result by dtype and shape, and ways from one flat index to another.

A flat index counts a tensor's numbers in C order, from 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

BLOCK = 1024
"""Elements of a block: what opens of a tensor at once."""

MAX_DIMENSIONS = 8
"""Dimensions that a tensor may have."""


class Spec(NamedTuple):
    """What is known of a value before anything runs."""

    dtype: str
    shape: tuple[int, ...]


Attributes = Mapping[str, tuple[int, ...]]


class Way:
    """A way from flat indices over `sizes` to flat indices elsewhere: `start` and one stride for each size."""

    def __init__(self, sizes: Sequence[int], strides: Sequence[int], start: int = 0) -> None:
        self._start = start
        steps: list[tuple[int, int]] = []
        for size, stride in zip(sizes, strides, strict=True):
            if size == 1:
                continue
            if steps and steps[-1][1] == stride * size:
                size *= steps.pop()[0]
            steps.append((size, stride))
        self._steps = tuple(reversed(steps))

    def at(self, index: int) -> int:
        """Return where an index leads."""
        place = self._start
        for size, stride in self._steps:
            index, rest = divmod(index, size)
            place += rest * stride
        return place


def rows_of(shape: Sequence[int]) -> int:
    """Return how many rows a tensor has: one for each place of its first dimension, or one in all. (SPEC.md 2.2)"""
    return shape[0] if len(shape) > 1 else 1


def strides_of(shape: Sequence[int]) -> list[int]:
    """Return how far apart neighbours along each dimension stand in C order."""
    return [math.prod(shape[place + 1 :]) for place in range(len(shape))]


@dataclass(frozen=True)
class Site:
    """An operator as one node applies it: its attributes, its inputs and its result."""

    attributes: Attributes
    inputs: tuple[Spec, ...]
    result: Spec

    def one(self, name: str) -> int:
        """Return the single integer of an attribute."""
        (number,) = self.attributes[name]
        return number

    @cached_property
    def broadcast(self) -> tuple[Way, ...]:
        """The way from the result to each input, whose missing and single dimensions repeat."""
        return tuple(_repeating(spec.shape, self.result.shape) for spec in self.inputs)

    @cached_property
    def moved(self) -> Way:
        """The way from a result of `permute` or `slice` to its input."""
        shape = self.inputs[0].shape
        strides, start = strides_of(shape), 0
        if "dims" in self.attributes:
            strides = [strides[dim] for dim in self.attributes["dims"]]
        else:
            dim = self.one("dim")
            start = self.one("start") * strides[dim]
            strides[dim] *= self.one("step")
        return Way(self.result.shape, strides, start)

    @cached_property
    def reduced(self) -> tuple[Way, Way, int]:
        """The ways to the first input from the result's numbers and from the terms of each, and how many these are."""
        shape = self.inputs[0].shape
        dims = self.attributes.get("dims") or self.attributes["dim"]
        strides = strides_of(shape)
        kept = [place for place in range(len(shape)) if place not in dims]
        rows, terms = (
            Way([shape[place] for place in places], [strides[place] for place in places])
            for places in (kept, dims)
        )
        return rows, terms, math.prod(shape[dim] for dim in dims)


def _repeating(shape: tuple[int, ...], to: tuple[int, ...]) -> Way:
    missing = len(to) - len(shape)
    strides = [0 if size == 1 else stride for size, stride in zip(shape, strides_of(shape), strict=True)]
    return Way(to, [0] * missing + strides)
