"""The engine of real training: programs on torch tensors, behind the `Engine` of `trainer.rounds.engine`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import cast
from weakref import ReferenceType as Held
from weakref import ref

import torch

from trainer.exact.hashing import hash_natively
from trainer.programs.conversion import bundle_of, seen_by_law, to_torch
from trainer.programs.executor import ProgramExecutor
from trainer.programs.interpreter import Tap, require_finite_output, storage_of
from trainer.programs.kernels import DTYPE_NAMES, KernelFailed
from trainer.programs.loops.compiled import CheckFailed
from trainer.programs.options import NODE_BY_NODE, RunOptions
from trainer.rounds.engine import Overwritten, Unread, read
from trainer.rounds.machine import GroupMember
from verification.errors import Unsound
from verification.grid import Grid
from verification.layout import summary_of
from verification.library import StepFailed
from verification.program import Program, digest_of_program
from verification.tensors import Bundle, Tensor, bundle_digest, tensor_digest
from verification.units import Digest

Tensors = list[torch.Tensor]


class TorchEngine:
    """Runs programs on lists of torch tensors; the digest of a tensor that did not change is not computed again."""

    def __init__(self, programs: Mapping[Digest, bytes], options: RunOptions = NODE_BY_NODE) -> None:
        """`programs` holds encoded programs by digest; raises as `ProgramExecutor`."""
        hash_natively()
        self.executor = ProgramExecutor(programs, options)
        self._finite: dict[Digest, tuple[int, ...]] = {}
        self._digests: dict[int, tuple[Held[torch.Tensor], Digest]] = {}
        self.group: tuple[GroupMember, ...] = ()
        """The machines that made the last inner step, this one first, where there were several."""
        self.shortage = ""
        """Why programs do not run whole, in one line for people, or nothing."""

    def load(self, bundle: Bundle) -> Tensors:
        """Return the bundle's tensors for torch."""
        return [to_torch(tensor) for tensor in bundle.tensors]

    def hold(self, given: Tensor | Unread) -> torch.Tensor:
        """Return a tensor for torch."""
        return self.load(Bundle((read(given),)))[0]

    def dump(self, handle: Tensors) -> Bundle:
        """Return the bytes of torch tensors."""
        return bundle_of(handle)

    def shown(self, handle: Tensors) -> Bundle:
        """Return torch tensors as the law sees them."""
        return Bundle(tuple(map(seen_by_law, handle)))

    def digest(self, handle: Tensors) -> Digest:
        """Return the bundle digest of torch tensors."""
        fresh = {id(tensor): self._digest_of(tensor) for tensor in handle}
        self._digests = {id(tensor): (ref(tensor), fresh[id(tensor)]) for tensor in handle}
        return bundle_digest([fresh[id(tensor)] for tensor in handle])

    def digests(self, handle: Tensors) -> list[Digest]:
        """Return the digest of each torch tensor."""
        return [self._digest_of(tensor) for tensor in handle]

    def program(self, digest: Digest) -> Program:
        """Return a checked program; raises what `ProgramExecutor.load` raises."""
        return self.executor.program(digest)

    def learn(self, program: Program, of: Digest, finite: Collection[int] | None = None) -> Digest:
        """Know a program made of another one's nodes from now on (`Engine.learn`); raises as `LoadedProgram`."""
        digest = digest_of_program(program)
        self.executor.learn(digest, program, of, is_part=finite is not None)
        self._finite[digest] = tuple(finite or ())
        return digest

    def run(
        self, digest: Digest, inputs: Sequence[Sequence[torch.Tensor | None]], tap: Tap | None = None
    ) -> Tensors:
        """Execute a program on the concatenated inputs; None stands for zeros. Raises StepFailed, BadEvidence."""
        loaded = self.executor.turn(digest)
        made = loaded.run(self.executor.filled(digest, [tensor for part in inputs for tensor in part]), tap)
        self._require_finite(digest, loaded.program, made)
        return made

    def again(self, digest: Digest, inputs: Tensors) -> list[Digest]:
        """Return the digests of a program's outputs, made in another way: node by node, with the trusted product.

        Raises StepFailed, BadEvidence.
        """
        return self.executor.load(digest).again(self.executor.filled(digest, inputs))

    def compiled(self, digest: Digest) -> tuple[bool, str]:
        """Return whether a program runs on compiled loops, and why not though they were wanted, or nothing."""
        loaded = self.executor.load(digest)
        return loaded.is_compiled, loaded.refused

    def rest(self) -> None:
        """Give back to the system what compiled loops hold between two runs."""
        self.executor.rest()

    def own(self, working: Iterable[torch.Tensor], kept: Sequence[torch.Tensor | None]) -> Tensors:
        """Return a working state that `advance` may write over: what stands in it twice or is `kept` is copied."""
        taken = {storage_of(tensor) for tensor in kept if tensor is not None}
        owned = []
        for tensor in working:
            owned.append(tensor.clone() if storage_of(tensor) in taken else tensor)
            taken.add(storage_of(tensor))
        return owned

    def advance(self, digest: Digest, working: Tensors, is_checked: bool) -> Tensors:
        """Execute an inner step, and `is_checked` in another way too; `working` is its `own`, and is lost.

        Raises StepFailed, Unsound where two ways differ, and Overwritten where the step may have to end.
        """
        expected = self.again(digest, working) if is_checked else None
        try:
            made = self.executor.turn(digest).advance(working)
        except CheckFailed as error:
            raise Overwritten from error
        if expected is not None and self.digests(made) != expected:
            raise Unsound("computed in another way it has another digest")
        return made

    def loss(self, contribution: Tensors) -> float:
        """Return the round's mean training loss, which its contribution holds."""
        return cast(float, summary_of(contribution, "loss").item())

    def _require_finite(self, digest: Digest, program: Program, made: Tensors) -> None:
        """Raise StepFailed for what a part of a program must not make."""
        for place in self._finite.get(digest, ()):
            output = program.outputs[place]
            try:
                require_finite_output(output.name, made[place])
            except KernelFailed as error:
                raise StepFailed(int(output.source), str(error)) from error

    def _digest_of(self, tensor: torch.Tensor) -> Digest:
        # A step over another's memory makes new objects, so an identical one has an identical digest.
        known = self._digests.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        if tensor.numel() and not tensor.any():  # an optimizer's state where a round begins
            return _of_zeros(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))
        return tensor_digest(seen_by_law(tensor))


@cache
def _of_zeros(dtype: str, shape: tuple[int, ...]) -> Digest:
    """Return the digest of a tensor of zeros, -0.0 among them. (SPEC.md 2.2)"""
    return Grid(dtype, shape).of_zeros
