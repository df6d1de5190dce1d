"""The one door through which training enters the law: execute a node on tensors. (SPEC.md 6.5)"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from verification.digest import integer, tagged
from verification.errors import ProofswarmError
from verification.program import Node, Program, ProgramHead
from verification.tensors import Tensor, tensor_digest
from verification.units import Digest, Millis


class StepFailed(ProofswarmError):
    """The arithmetic ends a program at `node` (NaN, infinity, division by zero): a result like any other, no fault."""

    def __init__(self, node: int, reason: str = "") -> None:
        super().__init__(f"step failed at node {node}: {reason}")
        self.node = node


class Executor(Protocol):
    """Knows programs by digest and executes nodes; the same inputs give the same bytes everywhere."""

    def program(self, digest: Digest) -> Program:
        """Return a checked program; raises Unavailable when its bytes are not at hand, Malformed when they are none."""
        ...

    def execute_node(self, arithmetic: str, number: int, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Return what node `number` makes of its inputs under a version of the arithmetic.

        Raises StepFailed with that number; a Violation for inputs that the operator does not take or that no honest
        execution can hold (a quantised integer over its bits), since their result would differ between machines;
        Unavailable for an unknown arithmetic.
        """
        ...


@dataclass(frozen=True)
class Now:
    """What the law is given beside a statement: the ledger's time, and who executes nodes for it."""

    time: Millis
    executor: Executor


def failed(program: Digest, number: int) -> Digest:
    """Return the digest that stands for a program's failure at a node. (SPEC.md 6.5)"""
    return tagged("failed", program, integer(number))


def failures(program: Digest, head: ProgramHead) -> frozenset[Digest]:
    """Return the digests that stand for a program's failures, one for each of its nodes. (SPEC.md 2.5)"""
    return _failures(program, head.first, int(head.nodes))


@functools.lru_cache(maxsize=16)
def _failures(program: Digest, first: int, nodes: int) -> frozenset[Digest]:
    return frozenset(failed(program, number) for number in range(first, first + nodes))


def result_of(
    executor: Executor, arithmetic: str, number: int, node: Node, inputs: Sequence[Tensor], is_output: bool
) -> Digest | None:
    """Return the digest of a node's result; None when it fails, as outputs with NaN or infinity do. (SPEC.md 6.5)"""
    try:
        made = executor.execute_node(arithmetic, number, node, inputs)
    except StepFailed:
        return None
    return None if is_output and not is_finite(made) else tensor_digest(made)


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity."""
    return tensor.dtype != "float32" or bool(np.isfinite(np.frombuffer(tensor.data, dtype="<f4")).all())
