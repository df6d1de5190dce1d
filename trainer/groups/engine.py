"""The engine of a worker whose inner steps a group makes: for everything else, and for its digests, one machine's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from weakref import ref

import torch

from trainer.groups.split import Share, shares
from trainer.groups.step import Exchange, NotTogether, Parts
from trainer.programs.options import NODE_BY_NODE, RunOptions
from trainer.rounds.machine import GroupMember
from trainer.rounds.torch_engine import TorchEngine
from verification.errors import Unavailable, Unsound, UserError
from verification.program import Program, decode_program
from verification.units import Count, Digest

Tensors = list[torch.Tensor]


class Members(Protocol):
    """The members of a group, the leader first, as the leader has to do with them."""

    def gather(self) -> int:
        """Return how many members there are now, the leader included."""
        ...

    def begin(self, divided: Sequence[Share], state: Sequence[torch.Tensor], is_shared: bool) -> Exchange:
        """Have every member make its share of a step from a working state, which `is_shared`: its last step made it.

        Returns the leader's own exchange; raises Unavailable.
        """
        ...

    def recover(self) -> None:
        """Find out who is left, after an exchange has failed."""
        ...

    def micros(self) -> list[Count]:
        """Return how many microseconds each of the others computed in the last step that it told of."""
        ...


class GroupEngine(TorchEngine):
    """Makes inner steps with the other members of a group, as long as there are any, and all else by itself.

    A step that a member leaves is made again by the rest, and one that has no end together by the leader alone, which
    sees whether it ends. A step takes no memory of the working state before it, for it may have to be made again.
    """

    def __init__(
        self,
        members: Callable[[bytes, Parts], Members],
        programs: Mapping[Digest, bytes],
        options: RunOptions = NODE_BY_NODE,
    ) -> None:
        """`members` makes the group from the inner program and the leader's parts of it.

        Raises as `TorchEngine`, and UserError where the program cannot be split.
        """
        super().__init__(programs, options)
        self._inner, encoded = _inner_of(programs)
        self._parts = Parts(self.program(self._inner), options, self.executor.products)
        self._members = members(encoded, self._parts)
        self._shared: list[Callable[[], torch.Tensor | None]] = []
        """The working state that all members have."""

    def advance(self, digest: Digest, working: Tensors, is_checked: bool) -> Tensors:
        """Execute an inner step with the group; what `is_checked` this machine makes too, and compares."""
        if digest != self._inner:
            return super().advance(digest, working, is_checked)
        expected = self.again(digest, working) if is_checked else None
        made = self._together(working)
        if made is None:
            return super().advance(digest, working, is_checked)
        if expected is not None and self.digests(made) != expected:
            raise Unsound("the group makes another digest of it than this machine")
        return made

    def _together(self, working: Tensors) -> Tensors | None:
        """Return what the group makes of a working state, None where there is no group, or no end together."""
        self.executor.turn(self._inner).rest()
        self.group = ()
        while (count := self._members.gather()) > 1:
            divided = shares(self._parts.records, count)
            step = self._parts.of(divided[0])
            is_shared, self._shared = self._is_shared(working), []
            try:
                made = step.run(working, self._members.begin(divided, working, is_shared))
            except Unavailable:
                self._members.recover()
                continue
            except NotTogether:
                return None
            self._shared = [ref(tensor) for tensor in made]
            micros = [step.micros, *self._members.micros()]
            self.group = tuple(
                GroupMember(Count(share.count), each) for share, each in zip(divided, micros, strict=True)
            )
            return made
        return None

    def _is_shared(self, working: Tensors) -> bool:
        known = [held() for held in self._shared]
        return len(known) == len(working) and all(a is b for a, b in zip(known, working, strict=True))


def _inner_of(programs: Mapping[Digest, bytes]) -> tuple[Digest, bytes]:
    """Return the digest and the bytes of the inner program; raises UserError where there is none."""
    for digest, encoded in programs.items():
        program: Program = decode_program(encoded)
        if program.role == "inner":
            return digest, encoded
    raise UserError("the run has no inner program: a group has nothing to split")
