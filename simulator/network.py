"""What lies between peers and ledger: delay, loss, repetition. All of it seeded by the world."""

from dataclasses import dataclass, field

from verification.units import MILLION, Address


@dataclass(frozen=True)
class Network:
    """Milliseconds as (least, most); shares in millionths.

    latency: from a peer to the ledger. Two statements may overtake each other.
    notice: from an admitted entry to a peer's next look at the ledger.
    lost, doubled: shares of the statements that never arrive, or arrive a second time.
    resend: after how long a peer says again what was not acknowledged.
    step: what one inner step takes a machine of speed 100.
    fetch: what a fetch or an outer step takes.
    poll: how long a peer sleeps when nothing happens; its clock may have reached a deadline meanwhile.
    """

    latency: tuple[int, int] = (1, 20)
    notice: tuple[int, int] = (1, 5)
    lost: int = 0
    doubled: int = 0
    resend: int = 100
    step: int = 1
    fetch: tuple[int, int] = (1, 10)
    poll: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.lost < MILLION or not 0 <= self.doubled < MILLION:
            raise ValueError("lost and doubled are shares below one, in millionths")
        if min(self.poll, self.resend) < 1:
            raise ValueError("poll and resend must be at least a millisecond")


CALM = Network()
ROUGH = Network(latency=(1, 60), lost=100_000, doubled=100_000)
"""A tenth is lost, a tenth arrives twice, and statements overtake each other."""

FETCHED = 30_000
"""Bytes that a fetch brings over a slow link."""
ELSEWHERE, AT_ONCE = 1_000, 200
"""Milliseconds after which a peer has from others what it does not get from its author: at first, and once it knows
that the author does not answer."""


@dataclass
class Trouble:
    """What is wrong with the links of single peers now.

    `alone` reach nobody, `parted` not each other; `slow` is in kbit a second, `lossy` in millionths of statements.
    """

    alone: set[Address] = field(default_factory=set)
    parted: set[frozenset[Address]] = field(default_factory=set)
    slow: dict[Address, int] = field(default_factory=dict)
    lossy: dict[Address, int] = field(default_factory=dict)
    _known: set[tuple[Address, Address]] = field(default_factory=set)

    def delay(self, fetcher: Address, author: Address | None) -> int:
        """Return by how many milliseconds the bytes come later; `author` made them, None where many have them."""
        rates = [self.slow[peer] for peer in (fetcher, author) if peer in self.slow]
        delay = max((8 * FETCHED // rate for rate in rates), default=0)
        if author is None or not (author in self.alone or frozenset((fetcher, author)) in self.parted):
            self._known.discard((fetcher, author or fetcher))
            return delay
        wait = AT_ONCE if (fetcher, author) in self._known else ELSEWHERE
        self._known.add((fetcher, author))
        return max(delay, wait)
