"""The one door through which a run's programs enter the law, and what stands for a program's failure. (SPEC.md 2.5)"""

import functools
from dataclasses import dataclass
from typing import Protocol

from verification.digest import integer, tagged
from verification.errors import ProofswarmError
from verification.program import Program, ProgramHead
from verification.units import Digest, Millis


class StepFailed(ProofswarmError):
    """The arithmetic ends a program at `node` (NaN, infinity, division by zero): a result like any other, no fault."""

    def __init__(self, node: int, reason: str = "") -> None:
        super().__init__(f"step failed at node {node}: {reason}")
        self.node = node


class Library(Protocol):
    """Knows programs by digest."""

    def program(self, digest: Digest) -> Program:
        """Return a checked program; raises Unavailable when its bytes are not at hand, Malformed when they are none."""
        ...


@dataclass(frozen=True)
class Now:
    """What the law is given beside a statement: the ledger's time, and the run's programs."""

    time: Millis
    library: Library


def failed(program: Digest, number: int) -> Digest:
    """Return the digest that stands for a program's failure at a node. (SPEC.md 2.5)"""
    return tagged("failed", program, integer(number))


def failures(program: Digest, head: ProgramHead) -> frozenset[Digest]:
    """Return the digests that stand for a program's failures, one for each of its nodes. (SPEC.md 2.5)"""
    return _failures(program, head.first, int(head.nodes))


@functools.lru_cache(maxsize=16)
def _failures(program: Digest, first: int, nodes: int) -> frozenset[Digest]:
    return frozenset(failed(program, number) for number in range(first, first + nodes))
