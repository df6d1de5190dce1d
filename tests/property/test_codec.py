"""The codec: one encoding per value, and bytes from outside never do more than raise a Violation."""

import tracemalloc
from dataclasses import dataclass

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.toy import minimal
from tests.property.strategies import bodies, of
from verification import codec, signing, statements
from verification.digest import ZERO
from verification.errors import BadSignature, Malformed, Violation
from verification.evidence.file import Nowhere
from verification.manifest import Manifest, Place
from verification.signed import make_statement, open_statement, sign_statement
from verification.statements import KINDS, Commit, Finished
from verification.units import Count, Digest, Round

SECRET = b"\x07" * 32


@given(bodies)
def test_decode_inverts_encode_for_every_kind(body: statements.Body) -> None:
    assert codec.decode(type(body), codec.encode(body)) == body


@given(bodies, of(Digest))
@settings(max_examples=40)
def test_signed_statement_opens_to_its_author_and_body(body: statements.Body, head: bytes) -> None:
    data = sign_statement(SECRET, make_statement("chain", ZERO, head, body))
    said = open_statement(data)
    assert (said.sender, said.body, said.data) == (signing.address_of(SECRET), body, data)
    assert (said.statement.slot, said.statement.round) == (body.slot, body.round)


@given(st.binary(max_size=200))
def test_random_bytes_only_raise_violations(data: bytes) -> None:
    with pytest.raises(Violation):
        open_statement(data)


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=100))
def test_random_bodies_only_raise_violations(kind: str, data: bytes) -> None:
    try:
        value = codec.decode(KINDS[kind], data)
    except Violation:
        return
    assert codec.encode(value) == data


@given(bodies, st.data())
@settings(max_examples=60)
def test_a_flipped_byte_is_refused_or_names_another_author(
    body: statements.Body, data: st.DataObject
) -> None:
    signed = bytearray(sign_statement(SECRET, make_statement("chain", ZERO, ZERO, body)))
    place = data.draw(st.integers(0, len(signed) - 1))
    signed[place] ^= data.draw(st.integers(1, 255))
    try:
        author = open_statement(bytes(signed)).sender
    except Violation:
        return
    assert author != signing.address_of(SECRET)


@given(st.integers(0, 2**31))
def test_a_longer_encoding_of_the_same_value_is_refused(number: int) -> None:
    long = b"\x91\xcf" + number.to_bytes(8, "big")
    assert msgpack.unpackb(long) == [number]
    if codec.encode(Finished(Round(number))) != long:
        with pytest.raises(Malformed, match="canonical"):
            codec.decode(Finished, long)


@dataclass(frozen=True)
class Short:
    """One part of a union."""

    number: Count


@dataclass(frozen=True)
class Parts:
    """Everything that a field may be one of."""

    place: Place | Nowhere
    one: Short | Commit | None


@given(of(Parts))
def test_a_part_of_a_union_is_read_as_what_it_was(value: Parts) -> None:
    read = codec.decode(Parts, codec.encode(value))
    assert (read, type(read.place), type(read.one)) == (value, type(value.place), type(value.one))


@given(of(Place))
def test_an_enumeration_is_its_value(place: Place) -> None:
    assert codec.encode((place,)) == codec.encode((place.value,))


@pytest.mark.parametrize("plain", [("elsewhere", None), (3, None), ("", (1, 2)), ("", "x"), (None, None)])
def test_what_fits_no_part_is_refused(plain: tuple[object, object]) -> None:
    with pytest.raises(Malformed):
        codec.decode(Parts, codec.encode(plain))


@pytest.mark.parametrize(
    "data", [b"\x91\x01\x00", b"\x92\x01\x01", b"\x91\xff", b"\x91\xc3", b"\x91\xcb" + bytes(8), b"", b"\xc1"]
)
def test_other_shapes_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        codec.decode(Finished, data)


def test_manifest_survives_its_encoding() -> None:
    manifest = minimal()
    assert codec.decode(Manifest, codec.encode(manifest)) == manifest


@given(st.binary(min_size=65, max_size=65))
def test_no_signature_is_made_of_random_bytes(signature: bytes) -> None:
    try:
        found = signing.recover(signature, "statement", b"message")
    except BadSignature:
        return
    assert found != signing.address_of(SECRET)


def test_messages_over_the_limit_are_refused_unread() -> None:
    with pytest.raises(Malformed, match="limit"):
        codec.decode(Finished, bytes(11), limit=10)


@pytest.mark.parametrize("item", [b"\x80", b"\x91\xc0", b"\xa2ab"], ids=["maps", "arrays", "texts"])
def test_a_message_whose_bytes_stand_for_objects_is_refused_before_it_fills_the_memory(item: bytes) -> None:
    """At 64 bytes an object the largest statement would take 20 GB before its signature is looked at."""
    count = 2 * codec.MAX_ITEMS
    bomb = b"\xdd" + count.to_bytes(4, "big") + item * count
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            codec.decode(Finished, bomb, limit=len(bomb))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_items_are_counted_over_all_arrays() -> None:
    part = b"\xdc\xff\xff" + b"\xc0" * 0xFFFF
    parts = codec.MAX_ITEMS // 0xFFFF + 1
    with pytest.raises(Malformed):
        codec.unpack(b"\xdc" + parts.to_bytes(2, "big") + part * parts, 1 << 30)
    assert len(codec.unpack(b"\x93" + part * 3)) == 3
