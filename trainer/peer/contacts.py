"""Where a run's other members can be reached: by their endpoints on the ledger."""

from collections.abc import Container

from p2p.addresses import is_dialled, reach_of
from p2p.transport import PeerAddress
from verification.errors import Malformed
from verification.state import State
from verification.units import Address


class Contacts:
    """The members' endpoints, as far as a peer has seen the ledger."""

    def __init__(self, own: Address, listen: str) -> None:
        """`own` is the peer's account, which it does not call, and `listen` the multiaddr where it listens."""
        self._own, self._reach = own, reach_of(listen)
        self._peers: dict[Address, PeerAddress] = {}

    def note(self, state: State) -> None:
        """Keep what is new; text that is no address, another's, or nearer than this peer's own is the member's loss."""
        for member in state.members.values():
            known = self._peers.get(member.address)
            if member.address == self._own or (known is not None and known.multiaddr == member.endpoint):
                continue
            try:
                peer = PeerAddress.parse(member.endpoint)
            except Malformed:
                continue
            if peer.address == member.address and is_dialled(member.endpoint, self._reach):
                self._peers[member.address] = peer

    def all(self) -> tuple[PeerAddress, ...]:
        """Return everyone."""
        return tuple(self._peers.values())

    def first(self, likely: Container[Address]) -> tuple[PeerAddress, ...]:
        """Return everyone, those who are likely to have what is wanted before the others."""
        return tuple(sorted(self._peers.values(), key=lambda peer: peer.address not in likely))
