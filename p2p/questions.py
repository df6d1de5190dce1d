"""What peers ask each other: about blobs, their chunk lists, who holds which chunks, and chunks; and within a crew, for
what a member has made, and for its receipt."""

from p2p.lists import MAX_LIST_BYTES, PAGE_CHUNKS
from p2p.mail import Kind
from p2p.messages import Held
from verification.content import CHUNK_BYTES
from verification.errors import Malformed

LIST = Kind("blob/list", 64, MAX_LIST_BYTES, is_direct=True)
HELD = Kind("blob/held", 64, 2 * (PAGE_CHUNKS // 8) + 16, is_direct=True)
CHUNK = Kind("blob/chunk", 64, CHUNK_BYTES + 16, is_bulk=True)

CROSSING = Kind("crew/crossing", 64, CHUNK_BYTES + 64, patience=30.0, is_bulk=True)
"""A piece of what a member made; it comes once that is made."""
RECEIPT = Kind("crew/receipt", 16, 1024, patience=30.0)
"""What a member signs to a neighbour; it comes once its round is computed."""


def write_held(count: int, held: int, coming: int) -> Held:
    """Return the answer about a page of `count` chunks, of which sets of bits are held and coming."""
    if held == (1 << count) - 1:
        return Held(b"", b"")
    size = -(-count // 8)
    return Held(held.to_bytes(size, "little"), coming.to_bytes(size, "little"))


def read_held(count: int, answer: Held) -> tuple[int, int]:
    """Return the sets that an answer about a page of `count` chunks names; raises Malformed for others than its."""
    if not answer.held and not answer.coming:
        return (1 << count) - 1, 0
    held, coming = (int.from_bytes(each, "little") for each in (answer.held, answer.coming))
    if (
        len(answer.held) != -(-count // 8)
        or len(answer.coming) != len(answer.held)
        or (held | coming) >> count
    ):
        raise Malformed(f"{len(answer.held)} and {len(answer.coming)} bytes are not of {count} chunks")
    return held, coming
