"""The asking side: one pool of open streams per peer, each carrying one request at a time."""

from collections import defaultdict
from contextlib import suppress

import trio
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.peer.peerinfo import PeerInfo

from p2p.errors import REASONS, UNKNOWN, Declined, WrongReply
from p2p.framing import FAULTS, PREFIX_BYTES, libp2p_faults, or_dropped, read_frame, write_frame
from p2p.mail import OK, Kind, Mail, request_digest
from p2p.messages import Reply
from p2p.reach import Dialler
from p2p.transport import PROTOCOL, PeerAddress
from verification.codec import decode
from verification.errors import Malformed, Unavailable, Violation
from verification.signing import checksum
from verification.units import Address

LATE_IN_A_ROW = 3
"""Requests to one peer that time out, with none answered between, before its connection is given up as dead."""
_HANG_UP_SECONDS = 1.0


class _Line:
    """What is open towards one peer."""

    def __init__(self, streams: int) -> None:
        self.slots = trio.Semaphore(streams)
        self.idle: list[INetStream] = []
        self.late = 0


class Client:
    """Sends requests and checks their replies."""

    def __init__(self, mail: Mail, host: BasicHost, streams_per_peer: int, dialler: Dialler) -> None:
        self._mail = mail
        self._host = host
        self._dialler = dialler
        self._lines: dict[Address, _Line] = defaultdict(lambda: _Line(streams_per_peer))

    async def request(self, peer: PeerAddress, kind: Kind, body: bytes, timeout: float) -> bytes:
        """Return the body of the peer's answer within `timeout` seconds.

        Raises ValueError for a body over the kind's limit, Malformed for an address that contradicts itself,
        Declined with the reason the peer gave, Unavailable when it cannot be reached or is late, and the Violation
        of a reply that breaks a rule, which is also counted against the peer.
        """
        if len(body) > kind.request_limit:
            raise ValueError(
                f"{kind.name} request of {len(body)} bytes is over its limit of {kind.request_limit}"
            )
        info = peer.info()
        if kind.is_bulk:  # what is asked for comes, so it waits for its turn before
            await self._mail.down.turn(kind.reply_limit, True)
        try:
            with trio.fail_after(timeout):
                return await self._ask(peer.address, info, kind, body, timeout)
        except trio.TooSlowError as error:
            await self._note_late(peer.address, info)
            raise Unavailable(
                f"{checksum(peer.address)} did not answer {kind.name} within {timeout} s"
            ) from error

    async def connect(self, peer: PeerAddress) -> None:
        """Have a direct connection to a peer, if it can be had now."""
        with (
            suppress(Unavailable, Malformed),
            libp2p_faults(f"cannot reach {checksum(peer.address)}", *FAULTS),
        ):
            await self._dialler.connect(peer.info(), is_direct=True)

    def is_out_of_reach(self, peer: PeerAddress) -> bool:
        """Return whether nothing is open to a peer that could not be reached when it was tried last."""
        return self._dialler.is_out_of_reach(peer.info())

    async def _ask(self, address: Address, info: PeerInfo, kind: Kind, body: bytes, timeout: float) -> bytes:
        line = self._lines[address]
        async with line.slots:
            stream = await self._stream(line, address, info, kind)
            async with or_dropped(stream):
                answer = await self._converse(stream, address, kind, body, timeout)
            line.idle.append(stream)
            line.late = 0
            return answer

    async def _note_late(self, address: Address, info: PeerInfo) -> None:
        """Close a connection on which nothing comes back: py-libp2p would keep it until TCP gives up, for minutes."""
        line = self._lines[address]
        line.late += 1
        if line.late >= LATE_IN_A_ROW:
            line.late = 0
            with trio.CancelScope(deadline=trio.current_time() + _HANG_UP_SECONDS, shield=True):
                await self._host.get_network().close_peer(info.peer_id)

    async def _converse(
        self, stream: INetStream, address: Address, kind: Kind, body: bytes, timeout: float
    ) -> bytes:
        request = self._mail.seal(kind.name, body)
        limits = kind.reply_limits()
        try:
            with libp2p_faults(checksum(address)):
                await self._mail.up.turn(len(request), False)
                await write_frame(stream, request)
                self._mail.counters.moved(address, "out", kind.name, len(request) + PREFIX_BYTES)
                data = await read_frame(stream, limits.message, timeout)
            if data is None:
                raise Unavailable(f"{checksum(address)} closed the stream instead of answering {kind.name}")
            reply = decode(Reply, self._mail.open(data, limits, address).body, limit=limits.message)
            if reply.request != request_digest(request):
                raise WrongReply(f"reply to {reply.request.hex()[:16]}, which was not asked")
        except Violation as violation:
            self._mail.refuse(address, violation)
            raise
        self._mail.counters.moved(address, "in", kind.reply, len(data) + PREFIX_BYTES)
        if not kind.is_bulk:
            await self._mail.down.turn(len(data), False)
        if reply.status != OK:
            reason = reply.status if reply.status in REASONS else UNKNOWN
            raise Declined(f"{checksum(address)} declined {kind.name}: {reason}", reason)
        return reply.body

    async def _stream(self, line: _Line, address: Address, info: PeerInfo, kind: Kind) -> INetStream:
        line.idle = [each for each in line.idle if not (each.is_closed or each.swarm_conn.is_closed)]
        for stream in reversed(line.idle if (way := self._dialler.way(info, kind.is_relayed)) else ()):
            if stream.swarm_conn is way:
                line.idle.remove(stream)
                return stream
        with libp2p_faults(f"cannot reach {checksum(address)}", *FAULTS):
            await self._dialler.connect(info, is_direct=not kind.is_relayed)
            return await self._host.new_stream(info.peer_id, [PROTOCOL])
