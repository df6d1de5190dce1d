"""Executing programs named by digest."""

from collections.abc import Mapping, Sequence

import torch

from trainer.programs.devices import products_for
from trainer.programs.interpreter import LoadedProgram, part_options
from trainer.programs.kernels import TORCH_DTYPES
from trainer.programs.loops.arena import Ground
from trainer.programs.options import NODE_BY_NODE, RunOptions
from verification.errors import BadEvidence
from verification.program import MAX_PROGRAM, Port, Program, decode_program, program_digest
from verification.units import Digest


class ProgramExecutor:
    """Holds encoded programs by digest and loads each on its first use.

    All its programs share `products`. Raises BadEvidence when the bytes under a digest have another digest, UserError
    as `products_for`.
    """

    def __init__(self, programs: Mapping[Digest, bytes], options: RunOptions = NODE_BY_NODE) -> None:
        for digest, encoded in programs.items():
            if program_digest(encoded) != digest:
                raise BadEvidence(f"the bytes of program {digest.hex()} have another digest")
        self._encoded = dict(programs)
        self._options = options
        self.products = products_for(options)
        self._loaded: dict[Digest, LoadedProgram] = {}
        self._parts = Ground()
        """Parts of programs run by turns, so they share their memory."""

    def load(self, program: Digest) -> LoadedProgram:
        """Return the checked program; raises BadEvidence for an unknown digest, Malformed and Refused as it loads."""
        if program not in self._loaded:
            encoded = self._encoded.get(program)
            if encoded is None:
                raise BadEvidence(f"unknown program {program.hex()}")
            decoded = decode_program(encoded, MAX_PROGRAM)
            self._loaded[program] = LoadedProgram(decoded, self._options, self.products)
            del self._encoded[program]  # which may hold frozen weights once more
        return self._loaded[program]

    def learn(self, digest: Digest, program: Program, of: Digest, is_part: bool) -> None:
        """Load a program made of another one's nodes under its digest, compiled where that one is worth it.

        `is_part` as for `LoadedProgram`, whose errors it raises.
        """
        if digest not in self._loaded:
            options = part_options(self.program(of), self._options)
            ground = self._parts if is_part else None
            self._loaded[digest] = LoadedProgram(program, options, self.products, is_part, ground)

    def turn(self, program: Digest) -> LoadedProgram:
        """Return a program to run now, the memory of whose loops is the only one held; raises as `load`."""
        wanted = self.load(program)
        self.rest(but=wanted)
        return wanted

    def rest(self, but: LoadedProgram | None = None) -> None:
        """Give back what the loops of all programs hold, but for one and those that share its memory."""
        for loaded in self._loaded.values():
            if but is None or loaded.ground is not but.ground:
                loaded.rest()

    def program(self, digest: Digest) -> Program:
        """Return the checked program; raises as `load`."""
        return self.load(digest).program

    def filled(self, program: Digest, inputs: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
        """Return `inputs` with every None replaced by zeros of its port; raises BadEvidence for a wrong number."""
        return filled(self.program(program), inputs)


def filled(program: Program, inputs: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
    """Return inputs with every None replaced by zeros of its port; raises BadEvidence for a wrong number of them."""
    if len(program.inputs) != len(inputs):
        raise BadEvidence(f"the program has {len(program.inputs)} inputs, not {len(inputs)}")
    pairs = zip(program.inputs, inputs, strict=True)
    return [zeros_of(port) if tensor is None else tensor for port, tensor in pairs]


def zeros_of(port: Port) -> torch.Tensor:
    """Return a port's zeros, in the memory of one."""
    return torch.zeros((), dtype=TORCH_DTYPES[port.dtype]).expand(tuple(port.shape))
