"""Members of crews that give their neighbours other tensors than they make, and sign those.

What a member goes on with itself is right, and in a dispute it opens the nodes that it executes, and the outputs that
it claimed. docs/adversaries.md says which attack each one is.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from trainer.rounds.cheats import Cheat
from trainer.rounds.engine import Engine, Handle, Job, Tap
from trainer.shards.legs import ROLE, Leg, legs_of
from verification.errors import UserError
from verification.program import Program
from verification.tensors import Bundle, Tensor
from verification.units import Digest

WAYS = ("forward", "backward")
"""How the outputs are named that cross. (`trainer.shards.parts`)"""


class FalseCrossings(Cheat):
    """Alters all that goes one way from its shard."""

    way: ClassVar[str]
    kind: ClassVar[str]

    def __init__(self, engine: Engine, job: Job, seen: dict[int, Handle]) -> None:
        """As `Cheat`."""
        super().__init__(engine, job, seen)
        self._legs: tuple[Leg, ...] = ()
        self._false: frozenset[int] = frozenset()
        self._next = 0
        self._made: list[Any] = []
        self._told: dict[int, tuple[Any, Any]] = {}

    def learn(self, program: Program, of: Digest, finite: Any = None) -> Digest:
        """Know which values of a shard's inner step cross; raises UserError where it gives none of the kind."""
        inner = self.program(of)
        if program.role == ROLE and not self._legs:
            working = sum(not output.name.startswith(WAYS) for output in inner.outputs)
            self._legs = legs_of(inner, working)
            self._false = frozenset(
                int(output.source) for output in inner.outputs if output.name.startswith(self.way)
            )
            if not self._false:
                raise UserError(f"this shard gives no {self.kind}: take another --shard, or another --cheat")
        return super().learn(program, of, finite)

    def run(self, digest: Digest, inputs: Sequence[Handle], tap: Tap | None = None) -> Handle:
        """Execute as the machine does, and remember what is told instead of what crosses."""
        made, program = list(super().run(digest, inputs, tap)), self.program(digest)
        if program.role == ROLE and self._legs:
            leg = self._legs[self._next % len(self._legs)]
            self._next += 1
            self._made = made
            self._told = {
                id(value): (value, self._altered(value))
                for value, number in zip(made, leg.makes, strict=False)
                if number in self._false
            }
        elif program.role == "inner":
            names = [output.name for output in program.outputs]
            made = [
                self._altered(value) if name.startswith(self.way) else value
                for name, value in zip(names, made, strict=True)
            ]
        return made

    def again(self, digest: Digest, inputs: Handle) -> list[Digest]:
        """Find nothing wrong with itself: a leg that ran once more would be taken for the next one."""
        is_leg = self.program(digest).role == ROLE and self._legs
        return self.digests(self._made) if is_leg else super().again(digest, inputs)

    def digests(self, handle: Handle) -> list[Digest]:
        """Sign what is told."""
        return super().digests(self._as_told(handle))

    def dump(self, handle: Handle) -> Bundle:
        """Give what is told."""
        return super().dump(self._as_told(handle))

    def _as_told(self, handle: Handle) -> list[Any]:
        return [self._told.get(id(value), (value, value))[1] for value in handle]

    def _altered(self, value: Any) -> Any:
        """Return a tensor of which one number has another sign."""
        (tensor,) = super().dump([value]).tensors
        words = np.frombuffer(tensor.data, "<u4").copy()
        words[np.argmax(words & 0x7FFFFFFF)] ^= 0x80000000
        return self.load(Bundle((Tensor(tensor.dtype, tensor.shape, words.tobytes()),)))[0]


class FalseActivations(FalseCrossings):
    """Hands on through the model what it did not compute."""

    way, kind = "forward", "activations"


class FalseGradients(FalseCrossings):
    """Hands back what it did not compute."""

    way, kind = "backward", "gradients"


FALSE_CROSSINGS: dict[str, type[Cheat]] = {
    "false-activations": FalseActivations,
    "false-gradients": FalseGradients,
}
