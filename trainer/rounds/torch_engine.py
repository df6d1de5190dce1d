"""The engine of real training: programs on torch tensors, behind the `Engine` of `trainer.rounds.engine`."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch

from trainer.programs.conversion import bundle_of, from_torch, to_torch
from trainer.programs.executor import ProgramExecutor
from trainer.programs.interpreter import Tap
from trainer.programs.options import NODE_BY_NODE, RunOptions
from verification.layout import summary_of
from verification.program import Program
from verification.tensors import Bundle, bundle_digest, tensor_digest
from verification.units import Digest

Tensors = list[torch.Tensor]


class TorchEngine:
    """Runs programs on lists of torch tensors; the digest of a tensor that did not change is not computed again."""

    def __init__(self, programs: Mapping[Digest, bytes], options: RunOptions = NODE_BY_NODE) -> None:
        """`programs` holds encoded programs by digest; raises as `ProgramExecutor`."""
        self.executor = ProgramExecutor(programs, options)
        self._digests: dict[int, tuple[torch.Tensor, Digest]] = {}

    def load(self, bundle: Bundle) -> Tensors:
        """Return the bundle's tensors for torch."""
        return [to_torch(tensor) for tensor in bundle.tensors]

    def dump(self, handle: Tensors) -> Bundle:
        """Return the bytes of torch tensors."""
        return bundle_of(handle)

    def digest(self, handle: Tensors) -> Digest:
        """Return the bundle digest of torch tensors."""
        fresh = {id(tensor): self._digest_of(tensor) for tensor in handle}
        self._digests = {id(tensor): (tensor, fresh[id(tensor)]) for tensor in handle}
        return bundle_digest([fresh[id(tensor)] for tensor in handle])

    def digests(self, handle: Tensors) -> list[Digest]:
        """Return the digest of each torch tensor."""
        return [self._digest_of(tensor) for tensor in handle]

    def program(self, digest: Digest) -> Program:
        """Return a checked program; raises what `ProgramExecutor.load` raises."""
        return self.executor.program(digest)

    def run(
        self, digest: Digest, inputs: Sequence[Sequence[torch.Tensor | None]], tap: Tap | None = None
    ) -> Tensors:
        """Execute a program on the concatenated inputs; None stands for zeros. Raises StepFailed, BadEvidence."""
        loaded = self.executor.load(digest)
        return loaded.run(self.executor.filled(digest, [tensor for part in inputs for tensor in part]), tap)

    def again(self, digest: Digest, inputs: Tensors) -> Tensors:
        """Execute a program in another way: node by node, with the trusted product. Raises StepFailed, BadEvidence."""
        return self.executor.load(digest).again(self.executor.filled(digest, inputs))

    def agrees(self, digest: Digest, inputs: Tensors, made: Tensors) -> bool:
        """Whether `again` makes the same of the same inputs."""
        return self.digests(self.again(digest, inputs)) == self.digests(made)

    def loss(self, contribution: Tensors) -> float:
        """Return the round's mean training loss, which its contribution holds."""
        return cast(float, summary_of(contribution, "loss").item())

    def _digest_of(self, tensor: torch.Tensor) -> Digest:
        # Programs never change a tensor in place, so an identical object has an identical digest.
        known = self._digests.get(id(tensor))
        return known[1] if known is not None and known[0] is tensor else tensor_digest(from_torch(tensor))
