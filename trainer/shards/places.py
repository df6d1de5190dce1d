"""Where a model may be cut, and what lies below each place: as a line, or as a ring where its head is tied. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from trainer.shards.depth import Depths, parameter_of
from trainer.shards.roots import read_roots, roots_of
from verification.program import Program, first_node, node_work, size_bytes, values


@dataclass(frozen=True)
class Tie:
    """The depths at which a parameter is first read, `start`, and by the head that is tied to it, `head`; between these
    the last other parameter is first read at `last`."""

    start: int
    last: int
    head: int


def tie_of(inner: Program, depths: Depths) -> Tie | None:
    """Return where the largest parameter is read that the forward pass reads before and after it reads others; None
    where there is no such."""
    roots, first, heads = roots_of(inner), first_node(inner), dict[str, int]()
    for number, sources in enumerate(read_roots(inner, roots), first):
        if roots[number] == number and depths.is_forward[number]:
            ports = (inner.inputs[source] for source in sources if source < len(inner.inputs))
            for name in filter(None, (parameter_of(port.name) for port in ports)):
                heads[name] = max(heads.get(name, 0), depths.of[number])
    sizes = {parameter_of(port.name): size_bytes(port) for port in inner.inputs}
    for name in sorted(heads, key=lambda name: (-sizes[name], name)):
        start, head = depths.starts[name], heads[name]
        if between := [each for each in depths.starts.values() if start < each < head]:
            return Tie(start, max(between), head)
    return None


@dataclass(frozen=True)
class Amount:
    """What lies below each place, and above the last of them."""

    below: tuple[int, ...]
    tail: int


class Places:
    """Where a cut may be: `ends` are depths, ascending, the last of them where the last shard ends.

    `crossing` are the bytes that cross at each. What lies above the last is in a ring the first shard's too.
    """

    def __init__(self, inner: Program, depths: Depths, tie: Tie | None = None) -> None:
        """Of a line, or of the ring of a tie."""
        self.is_ring = tie is not None
        crossing, starts = _crossing(inner, depths, tie), sorted(set(depths.starts.values()))
        ends = [_narrowest(*gap, crossing) for gap in pairwise(starts)]
        last = depths.count if tie is None else _narrowest(tie.last, tie.head, crossing)
        lowest = 0 if tie is None else tie.start
        self.ends = [0, *(end for end in ends if lowest < end < last), last]
        self.crossing = [0, *(crossing[end - 1] for end in self.ends[1:])]
        self.work, self.state, self.saved = (self._amount(each) for each in _by_depth(inner, depths))
        self.parts = max(1, *depths.parts).bit_length()

    def _amount(self, each: Sequence[int]) -> Amount:
        sums = [0, *accumulate(each)]
        return Amount(tuple(sums[end] for end in self.ends), sums[-1] - sums[self.ends[-1]])


def _by_depth(inner: Program, depths: Depths) -> tuple[list[int], list[int], list[int]]:
    """Return for each depth the work units, the bytes of state, and those that the forward pass leaves for others."""
    first, known, roots = first_node(inner), values(inner), roots_of(inner)
    work, state, saved = ([0] * (depths.count + 1) for _ in range(3))
    is_saved = [False] * len(known)
    for number, (node, sources) in enumerate(zip(inner.nodes, read_roots(inner, roots), strict=True), first):
        if roots[number] == number:
            work[depths.of[number]] += node_work(node, [known[source] for source in node.inputs])
            for source in sources:
                is_saved[source] |= depths.is_forward[source] and not depths.is_forward[number]
    for number, depth in enumerate(depths.of):
        size, is_state = size_bytes(known[number]), number < len(inner.inputs)
        state[depth] += size if is_state and parameter_of(inner.inputs[number].name) else 0
        saved[depth] += size if is_saved[number] and not is_state else 0
    return work, state, saved


def _crossing(inner: Program, depths: Depths, tie: Tie | None) -> list[int]:
    """Return the bytes of the values that cross between each depth and the next: each goes from the first depth where
    it stands or is read to the last, or in a ring the other way round if that is shorter."""
    first, known, roots = first_node(inner), values(inner), roots_of(inner)
    head = depths.count if tie is None else tie.head
    places = [{depth} for depth in depths.of]
    for number, sources in enumerate(read_roots(inner, roots), first):
        if roots[number] == number:
            for source in sources:
                places[source].add(depths.of[number])
    change = [0] * (depths.count + 1)
    for value, each in zip(known, places, strict=True):
        low, high = min(each), max(each)
        before = max((depth for depth in each if depth < head), default=high)
        behind = min((depth for depth in each if depth >= head), default=0)
        if before + depths.count - behind < high - low:
            low, high = 0, before
        change[low] += size_bytes(value)
        change[high] -= size_bytes(value)
    return list(accumulate(change))


def _narrowest(low: int, high: int, crossing: Sequence[int]) -> int:
    """Return the end of a shard from one depth to before another across which the fewest bytes cross."""
    return 1 + min(range(low, high), key=lambda depth: crossing[depth])
