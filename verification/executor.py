"""The one door through which training enters the law: execute a program on tensors. (SPEC.md 6.5)"""

from collections.abc import Sequence
from typing import Protocol

from verification.digest import integer, tagged
from verification.errors import ProofswarmError
from verification.tensors import Bundle, Tensor, digest_of
from verification.units import Digest


class StepFailed(ProofswarmError):
    """The arithmetic ends a program at `node` (NaN, infinity, division by zero): a result like any other, no fault."""

    def __init__(self, node: int, reason: str = "") -> None:
        super().__init__(f"step failed at node {node}: {reason}")
        self.node = node


class Executor(Protocol):
    """Runs programs by digest; the same inputs give the same bytes everywhere."""

    def execute(self, program: Digest, inputs: Sequence[Tensor | None]) -> Bundle:
        """Return the program's outputs; None stands for zeros of the port's shape.

        Raises StepFailed, BadEvidence when inputs do not fit the program's ports, Unavailable when the program's
        bytes are not at hand.
        """
        ...


def outcome(executor: Executor, program: Digest, inputs: Sequence[Tensor | None]) -> Digest:
    """Return the digest of what the program gives, or the digest that stands for its failure."""
    try:
        return digest_of(executor.execute(program, inputs))
    except StepFailed as failure:
        return tagged("failed", program, integer(failure.node))
