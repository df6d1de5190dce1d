"""What the host of a served ledger signs: the head after an entry. Two of its words for one number are a fork.

(SPEC.md 8.7, 8.8)
"""

from dataclasses import dataclass

from verification import codec, signing
from verification.errors import BadEvidence, BadSignature, Malformed
from verification.units import Address, Count, Digest, Millis, Signature

PURPOSE = "ledger head"
FORK = "proofswarm fork/1"
MAX_FORK = 4096
"""Bytes of the largest file that proves a fork."""


@dataclass(frozen=True)
class Head:
    """The digest `head` of a run's log after its entry `seq`, said at `at` of the ledger's time."""

    run: Digest
    seq: Count
    head: Digest
    at: Millis


@dataclass(frozen=True)
class SignedHead:
    """An encoded Head and its host's signature over those very bytes."""

    head: bytes
    signature: Signature


def sign_head(secret: bytes, head: Head) -> SignedHead:
    """Return a head with its host's signature."""
    encoded = codec.encode(head)
    return SignedHead(encoded, signing.sign(secret, PURPOSE, encoded))


def open_head(signed: SignedHead) -> tuple[Address, Head]:
    """Return who signed a head, and the head; raises Malformed or BadSignature."""
    head = codec.decode(Head, signed.head, MAX_FORK)
    return signing.recover(signed.signature, PURPOSE, signed.head), head


def head_of_host(signed: SignedHead, host: Address, run: Digest) -> Head:
    """Return a run's head that its host signed; raises Malformed for another run's, BadSignature for another key's."""
    signer, head = open_head(signed)
    if head.run != run:
        raise Malformed("the head is another run's")
    if signer != host:
        raise BadSignature(
            f"the head is signed by {signing.checksum(signer)}, the host is {signing.checksum(host)}"
        )
    return head


@dataclass(frozen=True)
class Fork:
    """Two heads that one host signed for one number of one run, and that differ: no log has both.

    Its encoding is the file that proves it; `format` stands first, for whoever is given some file.
    """

    format: str
    one: SignedHead
    other: SignedHead


@dataclass(frozen=True)
class Forked:
    """What a fork proves: `host` told two logs of `run`, that differ at or before entry `seq`."""

    host: Address
    run: Digest
    seq: Count
    heads: tuple[Digest, Digest]
    times: tuple[Millis, Millis]


def verify_fork(fork: Fork) -> Forked:
    """Return what a fork proves; raises Malformed or BadSignature for no heads, BadEvidence for heads that agree."""
    (host, one), (signer, other) = open_head(fork.one), open_head(fork.other)
    if signer != host:
        raise BadEvidence("the two heads are signed by two keys")
    if (one.run, one.seq) != (other.run, other.seq):
        raise BadEvidence("the two heads are of two places")
    if one.head == other.head:
        raise BadEvidence("the two heads are equal")
    return Forked(host, one.run, one.seq, (one.head, other.head), (one.at, other.at))


def pack_fork(one: SignedHead, other: SignedHead) -> bytes:
    """Return the file that proves a fork to whoever reads it; raises as `verify_fork` for heads that prove none."""
    fork = Fork(FORK, one, other)
    verify_fork(fork)
    return codec.encode(fork)


def unpack_fork(data: bytes) -> Fork:
    """Return the fork in a file; raises Malformed for a file of anything else, or of another version."""
    fork = codec.decode(Fork, data, MAX_FORK)
    if fork.format != FORK:
        raise Malformed("the file is no fork that this version reads")
    return fork


def is_fork(data: bytes) -> bool:
    """Return whether a file says that it proves a fork; what it proves is another question."""
    return data[1:].startswith(codec.encode(FORK))
