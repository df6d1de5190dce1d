"""What lies between peers and ledger: delay, loss, repetition. All of it seeded by the world."""

from dataclasses import dataclass

from verification.units import MILLION


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
