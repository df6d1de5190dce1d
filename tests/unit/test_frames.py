"""Frames between the two processes, on both of their sides."""

import io

import pytest
import trio
from trio.testing import memory_stream_pair

from trainer.compute import frames, orders
from verification import codec
from verification.errors import Malformed
from verification.units import Count

STEP = orders.StepDone(Count(7))
FAILED = orders.Failed("Malformed", "why", -1)
CHUNKS = (1, 3, 5, 64, 1000)


async def collect(data: bytes, chunk: int) -> list[frames.Frame]:
    """Send `data` in pieces through a trio stream and return the frames that come out."""
    sender, receiver = memory_stream_pair()
    found: list[frames.Frame] = []

    async def send() -> None:
        for start in range(0, len(data), chunk):
            await sender.send_all(data[start : start + chunk])
        await sender.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        found.extend([frame async for frame in frames.frames(receiver)])
    return found


def test_the_blocking_side_reads_what_was_packed() -> None:
    stream = io.BytesIO(frames.pack(1, STEP) + frames.pack(2, FAILED))
    first, second = frames.read(stream), frames.read(stream)
    assert first == frames.Frame(Count(1), "StepDone", codec.encode(STEP))
    assert second is not None
    assert codec.decode(orders.Failed, second.body) == FAILED
    assert frames.read(stream) is None


@pytest.mark.parametrize("chunk", CHUNKS)
async def test_the_trio_side_reads_what_was_packed(chunk: int) -> None:
    data = b"".join(frames.pack(number, STEP) for number in range(5))
    assert [frame.order for frame in await collect(data, chunk)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", range(1, 12))
async def test_a_cut_frame_is_never_taken_for_a_whole_one(cut: int) -> None:
    data = frames.pack(1, STEP)
    with pytest.raises(Malformed, match="the stream ends inside a frame"):
        frames.read(io.BytesIO(data[:-cut]))
    assert [frame.order for frame in await collect(data + data[:-cut], 4)] == [1]


async def test_an_oversized_frame_is_refused_at_its_length() -> None:
    head = (frames.MAX_FRAME + 1).to_bytes(4, "big")
    with pytest.raises(Malformed, match="is over the limit"):
        frames.read(io.BytesIO(head))
    with pytest.raises(ExceptionGroup) as caught:
        await collect(head, 4)
    assert caught.group_contains(Malformed, match="is over the limit")


def test_a_frame_that_is_not_canonical_is_refused() -> None:
    body = codec.encode(frames.Frame(Count(1), "StepDone", b"")).replace(b"\x01", b"\xcc\x01", 1)
    with pytest.raises(Malformed, match="canonical"):
        frames.read(io.BytesIO(len(body).to_bytes(4, "big") + body))
