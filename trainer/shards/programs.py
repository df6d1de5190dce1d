"""The programs of a cut: each shard's own, and what crosses between them. Pure, and without what cuts a run.

A peer looks at them before it stakes, in a process that holds no PyTorch. (SPEC.md 4.17)
"""

from dataclasses import dataclass

from verification.manifest import Crossing
from verification.program import Program
from verification.units import Count


@dataclass(frozen=True)
class Part:
    """One shard's programs; `parameters` are the places in a state of those that it holds, ascending."""

    prologue: Program
    inner: Program
    epilogue: Program
    parameters: tuple[Count, ...]


@dataclass(frozen=True)
class Parts:
    """All shards of a cut, and what crosses between their inner programs, in the order of the whole program."""

    shards: tuple[Part, ...]
    crossings: tuple[Crossing, ...]
