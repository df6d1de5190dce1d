"""In which order a shard runs its segments, and how much memory that takes. Pure.

The order is one forward pass, one backward pass in turn (Narayanan et al., "PipeDream", 2019; "Efficient large-scale
language model training on GPU clusters using Megatron-LM", 2021): a shard begins as many parts of the batch as there
are shards from it on, and then ends one for each that it begins, so that it holds no more of them at a time. Over slow
links it begins more of them, so that what is on its way keeps nobody waiting.

In a ring the first shard also has the head. It begins parts as if the head were one shard more, and ends one once it
has done with the head as many more as there are other shards to come back through: so it need not wait for them.
"""

from collections import Counter
from dataclasses import dataclass

from trainer.shards.segments import Layout, Pieces, Segment
from verification.program import Program, peak_bytes, size_bytes, values


def order_of(pieces: Pieces, shard: int, lead: int = 1) -> list[Segment]:
    """Return a shard's segments in the order in which it runs them.

    It begins `lead` parts of the batch more than the shard after it does; with 1 links should take no time.
    """
    turns = turns_of(pieces.layout, lead)
    return sorted(
        pieces.of(shard),
        key=lambda each: (turns.of(shard, each.parts, each.is_forward, each.lap), each.level),
    )


@dataclass(frozen=True)
class Turns:
    """When it is the turn of what, where each of `shards` begins `lead` parts of the batch more than the next."""

    shards: int
    lead: int
    is_ring: bool

    def ahead(self, shard: int) -> int:
        """Return how many parts of the batch a shard begins before it ends one; in a ring, before the head does."""
        return 1 + self.lead * (self.shards - 1 + int(self.is_ring) - shard)

    def of(self, shard: int, parts: int, is_forward: bool, lap: int) -> tuple[int, int]:
        """Return when it is the turn of what depends on some parts of the batch, in a shard; what all parts share comes
        first. Its `lap` says how often it has come round to the first shard (`laps_of`)."""
        last = parts.bit_length() - 1
        if last < 0:
            return -2, 0
        if lap:
            return 2 * (last + (self.lead * (self.shards - 1) if lap > 1 else 0)), 0
        if not is_forward or parts.bit_count() > 1:
            return 2 * last, 0
        ahead = self.ahead(shard)
        return (-1, last) if last < ahead else (2 * (last - ahead) + 1, 0)


def turns_of(layout: Layout, lead: int) -> Turns:
    """Return the turns of the shards of a layout."""
    return Turns(len(layout.shards), lead, layout.is_ring)


def peak_of(pieces: Pieces, shard: int, lead: int = 1) -> int:
    """Return an upper estimate in bytes of the memory in which a shard runs its segments in their order.

    Its programs' constants live throughout, all else until the last segment that reads it, inputs too; within a segment
    it is `peak_bytes`. What others give counts from where it is first read.
    """
    known, order = values(pieces.program), order_of(pieces, shard, lead)
    reads = Counter(number for segment in order for number in segment.reads)
    reads.update(pieces.outputs_at(shard))
    held = {number for number in pieces.inputs_of(shard) if reads[number]}
    constants = sum(constant_bytes(program) for program in {segment.program for segment in order})
    peak = constants + sum(size_bytes(known[number]) for number in held)
    for segment in order:
        held |= set(segment.reads)
        beside = sum(size_bytes(known[number]) for number in held - set(segment.reads))
        inside = need_of(segment.program)
        peak = max(peak, constants + beside + inside)
        reads.subtract(segment.reads)
        held = {number for number in held | set(segment.makes) if reads[number]}
    return peak


def need_of(program: Program) -> int:
    """Return an upper estimate in bytes of the memory in which a program runs, its constants left out."""
    return peak_bytes(program) - constant_bytes(program)


def constant_bytes(program: Program) -> int:
    """Return the bytes of a program's constants, which stay in memory when it has been loaded."""
    return sum(size_bytes(constant) for constant in program.constants)
