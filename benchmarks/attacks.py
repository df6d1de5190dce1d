"""What a hostile stranger and a hostile member do to the peers of a run, at a fixed rate and one after the other.

Everything is meant for our own code to refuse: connections, streams, frames, envelopes, messages, questions. Nothing is
meant to break a library beneath it. `benchmarks.assault` makes them.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost

from p2p.envelope import MAX_KIND, PURPOSE, SIGNATURE_BYTES, VERSION, Envelope
from p2p.framing import drop, read_frame, write_frame
from p2p.hints import BURST, HINT
from p2p.identity import Identity
from p2p.mail import OK, Kind
from p2p.messages import BlobQuery, ChunkQuery, Hint, Hints, Reply
from p2p.questions import CHUNK, HELD, LIST
from p2p.served import HERE, QUESTIONS
from p2p.transport import PROTOCOL, PeerAddress
from trainer.peer.comparing import KEPT
from verification import codec
from verification.digest import tagged
from verification.ledger.local import system_clock
from verification.ledger.served import MAX_ANSWER, MAX_SAID, AskHead, Follow, Submit
from verification.manifest import BundleRef
from verification.signed import make_statement, sign_statement
from verification.signing import sign
from verification.statements import Attest, Body, Commit, Seal, Withdraw
from verification.units import Count, Digest, Millis, Round, Signature

PATIENCE = 5.0
STANDING = 65.0
"""Seconds for which a slow attack holds what it has: longer than anybody is granted."""
LONGEST = MAX_ANSWER + 1024
DAY = 24 * 3600 * 1000
ANSWERED, CUT, UNANSWERED = "answered", "cut off", "no answer"
ALL_KINDS = (*QUESTIONS.values(), HERE, KEPT, HINT, LIST, HELD, CHUNK)


@dataclass(frozen=True)
class Orders:
    """Whom to attack, from what was learnt of the run: the ledger's host is the first of `targets`.

    `secret` is a member's key, None for a stranger. `rate` is in attacks a second, on all connections together. `known`
    is a statement on the log, `blobs` are published. At `listen` a member accepts what it is asked, and stands still.
    """

    targets: tuple[str, ...]
    run: Digest
    chain: str
    head: Digest
    known: bytes
    blobs: tuple[Digest, ...]
    rate: float
    secret: bytes | None = None
    listen: str | None = None


@dataclass
class Session:
    """One hostile connection; all of one attacker draw from one `sequence`."""

    orders: Orders
    identity: Identity
    target: PeerAddress
    host: BasicHost
    rng: random.Random
    sequence: Iterator[int]
    held: int = 0

    @property
    def is_to_host(self) -> bool:
        """Whether it leads to the ledger's host."""
        return self.target.multiaddr == self.orders.targets[0]

    def envelope(self, kind: Kind, body: bytes) -> Envelope:
        """Return a lawful envelope, unsigned."""
        blank, now = Signature(bytes(SIGNATURE_BYTES)), system_clock()
        sequence = Count(next(self.sequence))
        return Envelope(
            Count(VERSION), self.orders.run, kind.name, self.identity.address, sequence, now, body, blank
        )

    def sealed(self, envelope: Envelope, by: Identity | None = None) -> bytes:
        """Return an envelope's bytes, signed by this session's key or another."""
        signed = codec.encode(envelope)[:-SIGNATURE_BYTES]
        return signed + sign((by or self.identity).secret, PURPOSE, signed)

    def signed(self, body: Body) -> bytes:
        """Return a statement of this session's key."""
        statement = make_statement(self.orders.chain, self.orders.run, self.orders.head, body)
        return sign_statement(self.identity.secret, statement)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[INetStream]:
        """Open a stream for a while."""
        stream = await self.host.new_stream(self.target.info().peer_id, [PROTOCOL])
        try:
            yield stream
        finally:
            await drop(stream)

    async def ask(self, kind: Kind, body: bytes) -> str:
        """Send a lawful request; returns how it ended."""
        return await self.tell(self.sealed(self.envelope(kind, body)))

    async def tell(self, *frames: bytes) -> str:
        """Send frames on one stream, each when the one before was answered; returns how the last one ended."""
        async with self.stream() as stream:
            for data in frames:
                await write_frame(stream, data)
                if (outcome := await _outcome(stream)) != ANSWERED:
                    return outcome
        return ANSWERED

    async def write(self, data: bytes, is_ended: bool = False) -> str:
        """Send bytes as they are; returns how it ended."""
        async with self.stream() as stream:
            await stream.write(data)
            if is_ended:
                await stream.close_write()
            return await _outcome(stream)


async def _outcome(stream: INetStream) -> str:
    answer = await read_frame(stream, LONGEST, PATIENCE)
    if answer is None:
        return CUT
    reply = codec.decode(Reply, codec.decode(Envelope, answer, LONGEST).body, LONGEST)
    return ANSWERED if reply.status == OK else reply.status


Attack = Callable[[Session], Awaitable[str]]


# Frames.


async def oversized_frame(session: Session) -> str:
    return await session.write(b"\xff" * 4)


async def frame_cut_short(session: Session) -> str:
    return await session.write((1000).to_bytes(4, "big") + bytes(10), is_ended=True)


async def frame_behind_a_frame(session: Session) -> str:
    data = session.sealed(session.envelope(LIST, codec.encode(BlobQuery(session.orders.blobs[0], Count(0)))))
    return await session.write(2 * (len(data).to_bytes(4, "big") + data))


async def frame_that_stands_still(session: Session) -> str:
    async with session.stream() as stream:
        await stream.write((1000).to_bytes(4, "big") + bytes(10))
        return await _outcome(stream)


async def byte_after_byte(session: Session) -> str:
    data = session.sealed(session.envelope(QUESTIONS["head"], codec.encode(AskHead(None))))
    async with session.stream() as stream:
        for byte in len(data).to_bytes(4, "big") + data:
            await stream.write(bytes([byte]))
            await trio.sleep(1.0)
        return await _outcome(stream)


async def noise_in_a_frame(session: Session) -> str:
    return await session.tell(session.rng.randbytes(session.rng.randrange(400)))


# Envelopes.


def _altered(**changes: object) -> Attack:
    async def attack(session: Session) -> str:
        lawful = session.envelope(LIST, codec.encode(BlobQuery(session.orders.blobs[0], Count(0))))
        return await session.tell(session.sealed(replace(lawful, **changes)))  # type: ignore[arg-type]

    return attack


async def said_on_another_day(session: Session) -> str:
    lawful = session.envelope(LIST, codec.encode(BlobQuery(session.orders.blobs[0], Count(0))))
    at = Millis(lawful.sent_at + session.rng.choice((-DAY, DAY)))
    return await session.tell(session.sealed(replace(lawful, sent_at=at)))


async def forged_signature(session: Session) -> str:
    lawful = session.envelope(LIST, codec.encode(BlobQuery(session.orders.blobs[0], Count(0))))
    return await session.tell(session.sealed(lawful, Identity(session.rng.randbytes(32))))


async def captured_from_another(session: Session) -> str:
    """What another key signed and sent, as whoever it was sent to may keep it."""
    author = Identity(session.rng.randbytes(32))
    lawful = session.envelope(LIST, codec.encode(BlobQuery(session.orders.blobs[0], Count(0))))
    return await session.tell(session.sealed(replace(lawful, sender=author.address), author))


async def said_twice(session: Session) -> str:
    data = session.sealed(session.envelope(LIST, codec.encode(BlobQuery(session.orders.blobs[0], Count(0)))))
    return await session.tell(data, data)


# Messages.


def _noise_for(kind: Kind) -> Attack:
    async def attack(session: Session) -> str:
        return await session.ask(
            kind, session.rng.randbytes(session.rng.randrange(min(kind.request_limit, 60) + 1))
        )

    return attack


async def follow_from_the_start(session: Session) -> str:
    return await session.ask(QUESTIONS["follow"], codec.encode(Follow(Count(0), Count(0), Count(0))))


async def newest_head(session: Session) -> str:
    return await session.ask(QUESTIONS["head"], codec.encode(AskHead(None)))


async def _submit(session: Session, data: bytes) -> str:
    return await session.ask(QUESTIONS["submit"], codec.encode(Submit(data)))


async def statement_of_noise(session: Session) -> str:
    return await _submit(session, session.rng.randbytes(1000))


async def statement_as_long_as_may_be(session: Session) -> str:
    return await _submit(session, session.rng.randbytes(MAX_SAID - 64))


async def statement_said_already(session: Session) -> str:
    return await _submit(session, session.orders.known)


async def statement_that_the_law_refuses(session: Session) -> str:
    """Never one that contradicts what its sender said before."""
    number, made_up = Round(session.rng.randrange(1 << 20, 1 << 30)), Digest(session.rng.randbytes(32))
    ref = BundleRef(made_up, made_up)
    bodies: list[Body] = [
        Commit(number, made_up, made_up, ref, Count(1), made_up),
        Attest(number, (session.identity.address,)),
        Seal(number, ref),
        Withdraw(),
    ]
    return await _submit(session, session.signed(session.rng.choice(bodies)))


async def hints_beyond_their_rate(session: Session) -> str:
    body = codec.encode(Hints((Hint("ledger", session.orders.head, Count(2**40)),)))
    envelopes = [session.envelope(HINT, body) for _ in range(2 * BURST)]
    return await session.tell(*(session.sealed(each) for each in envelopes))


async def unknown_blob(session: Session) -> str:
    return await session.ask(LIST, codec.encode(BlobQuery(Digest(session.rng.randbytes(32)), Count(0))))


def _chunk(session: Session) -> bytes:
    return codec.encode(ChunkQuery(session.rng.choice(session.orders.blobs), Count(0)))


async def chunk(session: Session) -> str:
    return await session.ask(CHUNK, _chunk(session))


async def download_that_is_not_read(session: Session) -> str:
    async with session.stream() as stream:
        await write_frame(stream, session.sealed(session.envelope(CHUNK, _chunk(session))))
        await trio.sleep(STANDING)
        return await _outcome(stream)


async def streams_beyond_their_number(session: Session) -> str:
    (connection,) = session.host.get_network().get_connections(session.target.info().peer_id)
    with suppress(BaseLibp2pError):  # the end is written to before it is read
        for _ in range(100):
            await connection.muxed_conn.open_stream()
    with trio.move_on_after(PATIENCE):
        await connection.event_closed.wait()
        return CUT
    return ANSWERED


FAST: dict[str, Attack] = {
    "oversized frame": oversized_frame,
    "frame cut short": frame_cut_short,
    "frame behind a frame": frame_behind_a_frame,
    "noise in a frame": noise_in_a_frame,
    "another version": _altered(version=Count(VERSION + 1)),
    "another run": _altered(run=tagged("another run")),
    "unknown kind": _altered(kind="nothing"),
    "kind of many letters": _altered(kind="k" * (MAX_KIND + 1)),
    "body too long for its kind": _altered(body=bytes(4096)),
    "said on another day": said_on_another_day,
    "forged signature": forged_signature,
    "captured from another": captured_from_another,
    "said twice": said_twice,
    **{f"noise for {kind.name}": _noise_for(kind) for kind in ALL_KINDS},
    "unknown blob": unknown_blob,
    "chunk": chunk,
}
TO_THE_HOST: dict[str, Attack] = {
    "follow from the start": follow_from_the_start,
    "newest head": newest_head,
    "statement of noise": statement_of_noise,
    "statement of a MiB": statement_as_long_as_may_be,
    "statement said already": statement_said_already,
    "statement that the law refuses": statement_that_the_law_refuses,
}
TO_PEERS: dict[str, Attack] = {"hints beyond their rate": hints_beyond_their_rate}
LAST = {"streams beyond their number": streams_beyond_their_number}
"""What ends its own connection."""
SLOW: dict[str, Attack] = {
    "frame that stands still": frame_that_stands_still,
    "byte after byte": byte_after_byte,
    "download that is not read": download_that_is_not_read,
}
