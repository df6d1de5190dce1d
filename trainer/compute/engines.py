"""The engines of one machine, each for the programs that some of a peer's work needs, made when they first are needed.

A member of a crew has one for its shard and one for the outer step, neither of which has to hold the whole model's
inner step; a verifier has one for whole rounds, and one for each cut whose crews it audits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from p2p.blobs import BlobStore
from trainer.programs.options import RunOptions
from trainer.rounds.torch_engine import TorchEngine
from verification.errors import Malformed
from verification.manifest import ProgramRef
from verification.program import Program, decode_program, program_digest
from verification.units import Count, Digest

MakeEngine = Callable[[Mapping[Digest, bytes], RunOptions], TorchEngine]
"""Makes an engine for programs by their digest."""


class Engines:
    """Engines of programs that lie in a store."""

    def __init__(self, make: MakeEngine, store: BlobStore, options: RunOptions) -> None:
        """`options` bound the memory of each engine: one of them computes at a time."""
        self._make, self._store = make, store
        self._options = replace(options, scratch=str(store.scratch))
        self._made: dict[tuple[ProgramRef, ...], TorchEngine] = {}

    def of(self, refs: Sequence[ProgramRef], held: int = 0) -> TorchEngine:
        """Return the engine of some programs, all loaded, whose turn it is (`turn`).

        Where they run whole `held` bytes are in memory beside each, of what runs in turn with it.
        Raises Malformed for a blob that is another program, and as `LoadedProgram`.
        """
        wanted = tuple(dict.fromkeys(refs))
        if wanted not in self._made:
            options = replace(self._options, held=Count(held))
            engine = self._make({ref.digest: self._text(ref) for ref in wanted}, options)
            for ref in wanted:
                engine.program(ref.digest)
            self._made[wanted] = engine
        self.turn(self._made[wanted])
        return self._made[wanted]

    def turn(self, engine: TorchEngine) -> None:
        """Have an engine the only one that holds memory for its loops: each may take all that the options allow."""
        for other in self._made.values():
            if other is not engine:
                other.rest()

    def program(self, ref: ProgramRef) -> Program:
        """Return a program that is to be looked at and not run; raises Malformed."""
        return decode_program(self._text(ref))

    def _text(self, ref: ProgramRef) -> bytes:
        encoded = self._store.get(ref.blob)
        if program_digest(encoded) != ref.digest:
            raise Malformed("a program's blob has another digest than the manifest says")
        return encoded
