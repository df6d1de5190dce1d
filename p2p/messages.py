"""Bodies of the post office's own requests and replies. Each is a frozen dataclass for `verification.codec`."""

from dataclasses import dataclass

from verification.units import Count, Digest, Round


@dataclass(frozen=True, slots=True)
class Reply:
    """What a peer answers: the digest of the request's bytes, how it went, and the answer's own body.

    `status` is "ok", or the name of the reason why there is no answer; the body is then empty.
    """

    request: Digest
    status: str
    body: bytes


@dataclass(frozen=True, slots=True)
class BlobQuery:
    """Asks what a blob is made of, and for one page of its chunks' digests; or which chunks of that page are there."""

    blob: Digest
    page: Count


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A blob's size in bytes and the tops of the pages of its chunk list, which together hash to the blob's digest."""

    size: Count
    tops: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class BlobPage:
    """What a blob is made of, with one page of its chunk list: digests that hash to the page's top."""

    info: BlobInfo
    chunks: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """Which chunks of a page a peer holds, and which are coming to it; no bytes for `held` are all of them.

    Bit i of byte j, from the lowest on, stands for chunk 8 * j + i of the page.
    """

    held: bytes
    coming: bytes


@dataclass(frozen=True, slots=True)
class ChunkQuery:
    """Asks for one chunk of a blob."""

    blob: Digest
    index: Count


@dataclass(frozen=True, slots=True)
class ChunkBytes:
    """The bytes of one chunk."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Hint:
    """News that is worth asking about: a topic, the digest of what is new and its height. Never proof of anything."""

    topic: str
    digest: Digest
    height: Count


@dataclass(frozen=True, slots=True)
class Hints:
    """The newest hint of each topic that its sender has not told this peer yet."""

    hints: tuple[Hint, ...]


@dataclass(frozen=True, slots=True)
class Here:
    """The host of a served ledger says where it is reached from now on."""

    multiaddr: str


@dataclass(frozen=True, slots=True)
class CrossingQuery:
    """Asks a member of one's crew for a piece, of 256 KiB but for the last, of crossing number `crossings[0]` that it
    makes in inner step `step` of a round; of further ones, if any, for the first pieces."""

    round: Round
    step: Count
    crossings: tuple[Count, ...]
    piece: Count


@dataclass(frozen=True, slots=True)
class CrossingBytes:
    """The elements of the piece, and of the further ones that are there by then, in their order; or the digest that
    stands for a round which `failed` before."""

    data: tuple[bytes, ...]
    failed: Digest | None


@dataclass(frozen=True, slots=True)
class ReceiptQuery:
    """Asks a neighbour in one's crew for the signed receipt of what crossed between the two in a round."""

    round: Round
