"""A relay: it carries circuits between peers that cannot reach each other, within limits of its own.

The protocol is libp2p's circuit relay v2. The hop of py-libp2p 0.8.1 is not used: the end of one circuit closes another
of the same peer (findings/a-circuit-ends-its-neighbour.sh), its limit of time waits for bytes, peers reserve in others'
names, and what strangers sign fills its store of addresses.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Limit, PeerId, Reservation, Status, StopMessage
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID, STOP_PROTOCOL_ID
from libp2p.relay.circuit_v2.utils import read_delimited_msg, write_delimited_msg

from p2p.bandwidth import Link
from p2p.bounds import MIB
from p2p.errors import BrokenProtocol, Overloaded
from p2p.framing import FAULTS, drop, or_dropped, write_frame
from p2p.identity import account_of
from p2p.mail import Mail
from p2p.muxer import is_relayed
from verification.errors import Unavailable, Violation

HOP, STOP = PROTOCOL_ID, STOP_PROTOCOL_ID
SEEN, MAX_SEEN = TProtocol("/proofswarm/seen/1"), 64
KIND = "relay"
"""Under which what is carried is counted."""
PATIENCE = 10.0
"""Seconds in which a request must come, and its circuit be made."""
_PIECE = 1 << 16


@dataclass(frozen=True)
class Carried:
    """What a relay carries. It keeps `reservations` of peers that are connected to it, each for `kept` seconds.

    There are `circuits` at a time, `of_one` of one peer; a circuit has `size` bytes, `rate` of them a second, both ways
    together, and `seconds`. Of reservations and circuits `strangers` each are of those who are no members.
    """

    reservations: int = 256
    kept: int = 3600
    circuits: int = 256
    of_one: int = 32
    strangers: int = 8
    size: int = 64 * MIB
    rate: int = 1 << 16
    seconds: int = 3600


CARRIED = Carried()


class Relay:
    """The serving side. Who reserves is reached, by whoever asks for a circuit to it."""

    def __init__(self, host: BasicHost, mail: Mail, carried: Carried) -> None:
        """`mail` says who is a member, counts, and has the link that circuits take their part of."""
        self._host, self._mail, self._carried = host, mail, carried
        self._until: dict[ID, float] = {}
        self._circuits: list[tuple[ID, ID]] = []

    def open(self) -> None:
        """Answer from now on."""
        self._host.set_stream_handler(HOP, self._serve)
        self._host.set_stream_handler(SEEN, self._tell_seen)

    async def _serve(self, stream: INetStream) -> None:
        """Answer one request; what is refused is counted, and said by libp2p's number for it."""
        source = stream.muxed_conn.peer_id
        try:
            with trio.fail_after(PATIENCE):
                request = await heard(stream, HopMessage)
            if is_relayed(stream.muxed_conn):
                await _say(stream, Status.PERMISSION_DENIED)
            elif request.type == HopMessage.RESERVE:
                self._reserve(source)
                await self._confirm(stream)
            elif request.type == HopMessage.CONNECT:
                await self._connect(stream, source, ID(request.peer.id))
            else:
                await _say(stream, Status.UNEXPECTED_MESSAGE)
            await stream.close()
        except Violation as violation:
            self._mail.refuse(account_of(source), violation)
            is_much = isinstance(violation, Overloaded)
            await _say(stream, Status.RESOURCE_LIMIT_EXCEEDED if is_much else Status.MALFORMED_MESSAGE)
            await stream.close()
        except (Unavailable, trio.TooSlowError, *FAULTS):
            await drop(stream)

    async def _tell_seen(self, stream: INetStream) -> None:
        """Say at which number a direct connection comes from; whoever it is, and of whichever run."""
        remote = stream.muxed_conn.get_remote_address()
        if remote and not is_relayed(stream.muxed_conn):
            await write_frame(stream, str(remote[0]).encode())
        await stream.close()

    def _reserve(self, peer: ID) -> None:
        now = trio.current_time()
        self._until = {each: until for each, until in self._until.items() if self._holds(each)}
        if peer not in self._until:
            strangers = sum(self._is_stranger(each) for each in self._until)
            if len(self._until) >= self._carried.reservations:
                raise Overloaded(f"more than {self._carried.reservations} reservations at this relay")
            if self._is_stranger(peer) and strangers >= self._carried.strangers:
                raise Overloaded(f"more than {self._carried.strangers} reservations of strangers")
        self._until[peer] = now + self._carried.kept

    def _holds(self, peer: ID) -> bool:
        """Return whether a peer's reservation stands: it ends with its time and its direct connection."""
        connections = self._host.get_network().get_connections(peer)
        is_there = any(not each.is_closed and not is_relayed(each.muxed_conn) for each in connections)
        return is_there and self._until.get(peer, 0.0) > trio.current_time()

    def _is_stranger(self, peer: ID) -> bool:
        return not self._mail.is_member(account_of(peer))

    async def _confirm(self, stream: INetStream) -> None:
        expire = self._mail.now() // 1000 + self._carried.kept
        answer = HopMessage(type=HopMessage.STATUS, status=Status.OK, limit=self._limit())
        answer.reservation.CopyFrom(Reservation(expire=expire))
        await write_delimited_msg(stream, answer)

    def _limit(self) -> Limit:
        return Limit(duration=self._carried.seconds, data=self._carried.size)

    async def _connect(self, stream: INetStream, source: ID, target: ID) -> None:
        """Make a circuit and carry it to its end; raises Overloaded for one too many."""
        if not self._holds(target):
            return await _say(stream, Status.NO_RESERVATION)
        with self._slot(source, target):
            try:
                with trio.fail_after(PATIENCE):
                    far = await self._ask(source, target)
            except (Unavailable, Violation, trio.TooSlowError, *FAULTS):
                return await _say(stream, Status.CONNECTION_FAILED)
            try:
                answer = HopMessage(type=HopMessage.STATUS, status=Status.OK, limit=self._limit())
                await write_delimited_msg(stream, answer)
                await self._carry(stream, far)
            finally:
                await drop(far)

    @contextmanager
    def _slot(self, *ends: ID) -> Iterator[None]:
        """Count a circuit while it lasts."""
        of_one = Counter(end for circuit in self._circuits for end in circuit)
        for end in ends:
            if of_one[end] >= self._carried.of_one:
                raise Overloaded(f"more than {self._carried.of_one} circuits of one peer")
        strangers = sum(any(map(self._is_stranger, circuit)) for circuit in self._circuits)
        if len(self._circuits) >= self._carried.circuits:
            raise Overloaded(f"more than {self._carried.circuits} circuits at this relay")
        if any(map(self._is_stranger, ends)) and strangers >= self._carried.strangers:
            raise Overloaded(f"more than {self._carried.strangers} circuits of strangers")
        self._circuits.append(ends)
        try:
            yield
        finally:
            self._circuits.remove(ends)

    async def _ask(self, source: ID, target: ID) -> INetStream:
        """Return the stream on which the other side takes a circuit; raises Unavailable where it does not."""
        stream = await self._host.new_stream(target, [STOP])
        async with or_dropped(stream):
            peer = PeerId(id=source.to_bytes())
            await write_delimited_msg(
                stream, StopMessage(type=StopMessage.CONNECT, peer=peer, limit=self._limit())
            )
            if (await heard(stream, StopMessage)).status != Status.OK:
                raise Unavailable("the other side takes no circuit")
        return stream

    async def _carry(self, near: INetStream, far: INetStream) -> None:
        """Carry bytes both ways until one side ends, or a limit is reached; raises Overloaded for too many bytes."""
        circuit = _Circuit(self._mail, self._carried)
        over: list[Overloaded] = []

        async def pump(source: INetStream, sink: INetStream) -> None:
            try:
                await circuit.pump(source, sink)
            except Overloaded as error:
                over.append(error)
            except FAULTS:
                pass
            nursery.cancel_scope.cancel()

        with trio.move_on_after(self._carried.seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, near, far)
                nursery.start_soon(pump, far, near)
        if over:
            self._mail.refuse(account_of(near.muxed_conn.peer_id), over[0])
        raise Unavailable("the circuit has ended")


class _Circuit:
    """Two streams of which each is given what comes from the other."""

    def __init__(self, mail: Mail, carried: Carried) -> None:
        self._mail, self._left, self._size = mail, carried.size, carried.size
        self._link = Link(carried.rate)

    async def pump(self, source: INetStream, sink: INetStream) -> None:
        """Carry one way until its end; raises Overloaded, and what py-libp2p raises."""
        giver, taker = (account_of(stream.muxed_conn.peer_id) for stream in (source, sink))
        while data := await source.read(_PIECE):
            self._left -= len(data)
            if self._left < 0:
                raise Overloaded(f"more than {self._size} bytes on one circuit")
            self._mail.counters.moved(giver, "in", KIND, len(data))
            await self._mail.down.turn(len(data), False)
            await self._link.turn(len(data), True)
            await self._mail.up.turn(len(data), False)
            await sink.write(data)
            self._mail.counters.moved(taker, "out", KIND, len(data))


M = TypeVar("M", HopMessage, StopMessage)


async def heard(stream: INetStream, kind: type[M]) -> M:
    """Return the next message on a stream; raises BrokenProtocol for bytes that are none, and libp2p's exceptions."""
    try:
        message: M = await read_delimited_msg(stream, kind)
    except DecodeError as error:
        raise BrokenProtocol(f"no {kind.__name__}") from error
    return message


async def _say(stream: INetStream, status: Status.ValueType) -> None:
    await write_delimited_msg(stream, HopMessage(type=HopMessage.STATUS, status=status))
