"""What a cut comes to, for people."""

from dataclasses import dataclass

from trainer.shards.cut import INNER, Cut
from trainer.shards.depth import parameter_of
from verification.program import elements, size_bytes, values, work_units


@dataclass(frozen=True)
class Shard:
    """One shard of a cut: its parameters in their order in the model, and how many numbers these have; the work units
    of its part of an inner step, and which share of the whole step's that is; the bytes of memory that it needs, and
    those that it receives and sends in an inner step."""

    parameters: tuple[str, ...]
    elements: int
    work: int
    share: float
    memory: int
    received: int
    sent: int


def described(cut: Cut) -> list[Shard]:
    """Return what each shard of a cut holds, does and needs."""
    pieces, peaks = cut.pieces[INNER], cut.peaks
    known, whole = values(pieces.program), work_units(pieces.program)
    sizes = {
        name: elements(port)
        for port in reversed(pieces.program.inputs)
        if (name := parameter_of(port.name)) is not None
    }
    crossings = [(giver, taker, size_bytes(known[number])) for number, giver, taker in pieces.crossings()]
    found = []
    for shard, peak in enumerate(peaks):
        names = tuple(name for name, place in cut.shards.items() if place == shard)
        work = sum(work_units(each.program) for each in pieces.of(shard))
        received = sum(size for _, taker, size in crossings if taker == shard)
        sent = sum(size for giver, _, size in crossings if giver == shard)
        count = sum(sizes[name] for name in names)
        found.append(Shard(names, count, work, work / whole, peak, received, sent))
    return found
