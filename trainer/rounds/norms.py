"""The norm of a contribution, counted again from its tensors: it decides how much that weighs. (SPEC.md 2.7, 4.5)"""

from collections.abc import Sequence

import torch

from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.rounds.engine import Unread, read
from trainer.rounds.norm_program import is_packed, norm_program
from verification.layout import per_parameter
from verification.program import Program
from verification.tensors import Tensor

SOME = 1 << 20
"""Numbers that are counted at a time."""


class Norms:
    """Counts norms as one epilogue does.

    Raises Malformed for packed contributions whose norm does not follow from their tensors alone.
    """

    def __init__(self, epilogue: Program) -> None:
        """Integers that are packed are unpacked by the epilogue's own nodes."""
        self._program = LoadedProgram(norm_program(epilogue)) if is_packed(epilogue) else None

    def of(self, contribution: Sequence[Tensor | Unread]) -> int:
        """Return the norm of a contribution of the epilogue's dtypes and shapes, in the memory of a tensor of it."""
        parts = (to_torch(read(part)) for part in per_parameter(contribution))
        if self._program is None:
            return sum(
                int(some.to(torch.int64).square().sum())
                for part in parts
                for some in part.reshape(-1).split(SOME)
            )
        (norm,) = self._program.run(list(parts))
        return int(norm)
