"""What the post office counts: bytes by peer, direction and kind, and refusals by sender and reason."""

from collections import Counter
from dataclasses import dataclass

from verification.signing import checksum
from verification.units import Address

OTHERS = Address(bytes(20))
"""Stands for every peer beyond the first `MAX_PEERS`, and for all strangers: they must not fill memory or disk."""
MAX_PEERS = 4096


@dataclass(frozen=True, order=True)
class Flow:
    """Messages and bytes of one kind that went one way ("in" or "out") between this peer and another.

    Bytes are those of envelopes with their 4-byte lengths; Noise, Yamux and TCP add about 1% that is not counted.
    """

    peer: Address
    direction: str
    kind: str
    messages: int
    size: int


@dataclass(frozen=True)
class Refusal:
    """Messages that were not accepted: who sent them, the Violation's name, what was wrong, and how many they are."""

    sender: Address
    reason: str
    detail: str
    count: int = 1

    @property
    def who(self) -> str:
        """The sender's name for people and logs."""
        return "strangers" if self.sender == OTHERS else checksum(self.sender)


class Counters:
    """Counters of one post office, bounded in the number of peers."""

    def __init__(self) -> None:
        self._messages: Counter[tuple[Address, str, str]] = Counter()
        self._bytes: Counter[tuple[Address, str, str]] = Counter()
        self._refusals: Counter[tuple[Address, str]] = Counter()
        self._peers: set[Address] = set()

    def moved(self, peer: Address, direction: str, kind: str, size: int) -> None:
        """Count one message of `size` bytes."""
        key = (self._slot(peer), direction, kind)
        self._messages[key] += 1
        self._bytes[key] += size

    def refused(self, refusal: Refusal) -> None:
        """Count one refusal."""
        self._refusals[self._slot(refusal.sender), refusal.reason] += 1

    def flows(self) -> tuple[Flow, ...]:
        """Return every counter, sorted."""
        return tuple(sorted(Flow(*key, self._messages[key], size) for key, size in self._bytes.items()))

    def refusals(self) -> dict[tuple[Address, str], int]:
        """Return how often each sender was refused for each reason."""
        return dict(self._refusals)

    def _slot(self, peer: Address) -> Address:
        if peer not in self._peers:
            if len(self._peers) >= MAX_PEERS:
                return OTHERS
            self._peers.add(peer)
        return peer
