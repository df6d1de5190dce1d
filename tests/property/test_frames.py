"""Frames under generated input: what goes in comes out, and junk is refused as Malformed by name."""

import contextlib
import io

from hypothesis import given
from hypothesis import strategies as st

from tests.property.strategies import of
from trainer.compute import frames, orders
from verification import codec
from verification.errors import Malformed
from verification.units import Count

SCHEMAS = orders.ORDERS | orders.REPLIES
counts = of(Count)
messages = st.one_of(*(of(kind) for kind in SCHEMAS.values()))


@given(st.lists(st.tuples(counts, messages), max_size=4))
def test_what_is_packed_is_read(sent: list[tuple[Count, object]]) -> None:
    stream = io.BytesIO(b"".join(frames.pack(order, message) for order, message in sent))
    for order, message in sent:
        frame = frames.read(stream)
        assert frame is not None
        assert frame.order == order
        assert codec.decode(SCHEMAS[frame.kind], frame.body, frames.MAX_FRAME) == message
    assert frames.read(stream) is None


@given(messages, st.data())
def test_a_prefix_of_a_frame_is_malformed(message: object, data: st.DataObject) -> None:
    packed = frames.pack(1, message)
    cut = data.draw(st.integers(1, len(packed) - 1))
    try:
        frames.read(io.BytesIO(packed[:cut]))
    except Malformed:
        return
    raise AssertionError("a part of a frame was taken for a whole one")


@given(
    st.binary(max_size=200) | st.binary(max_size=200).map(lambda body: len(body).to_bytes(4, "big") + body)
)
def test_junk_is_only_ever_malformed(junk: bytes) -> None:
    with contextlib.suppress(Malformed):
        while frames.read(io.BytesIO(junk)) is not None and junk:
            junk = junk[4 + int.from_bytes(junk[:4], "big") :]


@given(messages, st.data())
def test_a_changed_byte_never_crashes_the_reader(message: object, data: st.DataObject) -> None:
    packed = bytearray(frames.pack(1, message))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Malformed):
        frame = frames.read(io.BytesIO(bytes(packed)))
        if frame is not None and frame.kind in SCHEMAS:
            codec.decode(SCHEMAS[frame.kind], frame.body, frames.MAX_FRAME)
