"""Signed, versioned, size-limited messages between peers. Nothing in a body is read before the envelope has passed."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from p2p.errors import Oversized, Replayed, Stale, UnknownKind, UnknownVersion, WrongRun, WrongSender
from p2p.identity import Identity
from verification.codec import decode, encode
from verification.errors import BadSignature
from verification.signing import recover, sign
from verification.units import Address, Count, Digest, Millis, Signature

VERSION = 1
PURPOSE = "envelope"
SIGNATURE_BYTES = 65
OVERHEAD = 256
"""Bytes that an envelope may have beyond its body; the kind's name has at most 64."""
MAX_KIND = 64
DRIFT = Millis(120_000)
WINDOW = 4096
"""Sequence numbers below the highest seen that are still admitted once each: requests run in parallel."""
SEQUENCES_PER_MILLI = 1024


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message. The signature covers every byte of the encoding before its own 65."""

    version: Count
    run: Digest
    kind: str
    sender: Address
    sequence: Count
    sent_at: Millis
    body: bytes
    signature: Signature


@dataclass(frozen=True)
class Limits:
    """What a reader admits: bytes of body per kind, and milliseconds by which the sender's clock may differ."""

    bodies: Mapping[str, int]
    drift: Millis = DRIFT

    @property
    def message(self) -> int:
        """Bytes that the longest admitted envelope has."""
        return max(self.bodies.values(), default=0) + OVERHEAD


class ReplayGuard:
    """Remembers which sequence numbers each sender has used, in bounded memory.

    The senders longest silent are forgotten first. What a forgotten sender once said stays refused through its age,
    and a connection proves who speaks, so nobody gains by making others forgotten.
    """

    def __init__(self, max_senders: int = 4096) -> None:
        self._max_senders = max_senders
        self._seen: OrderedDict[Address, tuple[int, int]] = OrderedDict()

    def check(self, sender: Address, sequence: int) -> None:
        """Raise Replayed if `sequence` was noted before or is too old to tell."""
        highest, bits = self._seen.get(sender, (-1, 0))
        behind = highest - sequence
        if behind >= WINDOW:
            raise Replayed(f"sequence {sequence} has left the window below {highest}")
        if behind >= 0 and bits >> behind & 1:
            raise Replayed(f"sequence {sequence} was seen before")

    def note(self, sender: Address, sequence: int) -> None:
        """Record a message that passed every check."""
        highest, bits = self._seen.pop(sender, (-1, 0))
        ahead = sequence - highest
        if ahead >= WINDOW or highest < 0:
            highest, bits = sequence, 1
        elif ahead > 0:
            highest, bits = sequence, (bits << ahead | 1) & (1 << WINDOW) - 1
        else:
            bits |= 1 << -ahead
        self._seen[sender] = (highest, bits)
        if len(self._seen) > self._max_senders:
            self._seen.popitem(last=False)

    def __len__(self) -> int:
        return len(self._seen)


def first_sequence(now: Millis) -> Count:
    """Return where a peer that starts at `now` begins to count: above all it used before, with no file to keep.

    Holds while its clock does not go back across the restart; if it does, others refuse it as Replayed until then.
    """
    return Count(now * SEQUENCES_PER_MILLI)


def seal(identity: Identity, run: Digest, kind: str, body: bytes, sequence: Count, now: Millis) -> bytes:
    """Return the encoded, signed envelope of `body`; raises ValueError for a kind's name that is too long."""
    if len(kind.encode()) > MAX_KIND:
        raise ValueError(f"kind {kind!r} is longer than {MAX_KIND} bytes")
    blank = Signature(bytes(SIGNATURE_BYTES))
    envelope = Envelope(Count(VERSION), run, kind, identity.address, sequence, now, body, blank)
    signed = encode(envelope)[:-SIGNATURE_BYTES]
    return signed + sign(identity.secret, PURPOSE, signed)


def open_envelope(
    data: bytes, *, run: Digest, limits: Limits, now: Millis, seen: ReplayGuard, sender: Address | None = None
) -> Envelope:
    """Return the envelope in `data` if it passes, in this order, or raise the first check's Violation.

    Oversized, Malformed, UnknownVersion, WrongRun, UnknownKind, Oversized (for the kind), WrongSender (where the
    connection says who speaks), Replayed, Stale, BadSignature, which costs most. Only what passes all of them is noted
    in `seen`.
    """
    if len(data) > limits.message:
        raise Oversized(f"message of {len(data)} bytes is over the limit of {limits.message}")
    envelope = decode(Envelope, data, limit=limits.message)
    if envelope.version != VERSION:
        raise UnknownVersion(f"version {envelope.version} is not {VERSION}")
    if envelope.run != run:
        raise WrongRun(f"run {envelope.run.hex()[:16]} is not {run.hex()[:16]}")
    limit = limits.bodies.get(envelope.kind)
    if limit is None:
        raise UnknownKind(f"nobody handles kind {envelope.kind[:MAX_KIND]!r}")
    if len(envelope.body) > limit:
        raise Oversized(f"{envelope.kind} body of {len(envelope.body)} bytes is over the limit of {limit}")
    if sender is not None and envelope.sender != sender:
        raise WrongSender(f"signed by {envelope.sender.hex()}, sent by {sender.hex()}")
    seen.check(envelope.sender, envelope.sequence)
    age = now - envelope.sent_at
    if abs(age) > limits.drift:
        raise Stale(f"sent {age} ms ago; clocks may differ by {limits.drift} ms", age)
    if recover(envelope.signature, PURPOSE, data[:-SIGNATURE_BYTES]) != envelope.sender:
        raise BadSignature("envelope is not signed by its sender")
    seen.note(envelope.sender, envelope.sequence)
    return envelope
