"""Where a run's other members can be reached: by their endpoints on the ledger."""

from collections.abc import Container, Iterable

from p2p.addresses import Scope
from p2p.transport import PeerAddress
from verification.errors import Malformed
from verification.state import State
from verification.units import Address


class Contacts:
    """The members' endpoints, as far as a peer has seen the ledger."""

    def __init__(self, own: Address, reach: Scope) -> None:
        """`own` is the peer's account, which it does not call, and `reach` says from where it is reached itself."""
        self._own, self._reach = own, reach
        self._peers: dict[Address, PeerAddress] = {}
        self._seen: dict[Address, str] = {}

    def note(self, state: State) -> None:
        """Keep what is new; text that is no address, another's, or nearer than this peer's own is the member's
        loss."""
        for member in state.members.values():
            if member.address == self._own or self._seen.get(member.address) == member.endpoint:
                continue
            self._seen[member.address] = member.endpoint
            try:
                peer = PeerAddress.parse(member.endpoint).seen_from(self._reach)
            except Malformed:
                continue
            if peer is not None and peer.address == member.address:
                self._peers[member.address] = peer

    def all(self) -> tuple[PeerAddress, ...]:
        """Return everyone."""
        return tuple(self._peers.values())

    def first(self, likely: Container[Address]) -> tuple[PeerAddress, ...]:
        """Return everyone, those who are likely to have what is wanted before the others."""
        return tuple(sorted(self._peers.values(), key=lambda peer: peer.address not in likely))

    def named(self, accounts: Iterable[Address]) -> tuple[PeerAddress, ...]:
        """Return those of some accounts that can be reached, each once, in their order."""
        return tuple(self._peers[account] for account in dict.fromkeys(accounts) if account in self._peers)
