"""A group's tickets and the connections that they lead to: what is written is read, and nobody else takes part."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.groups import wire
from trainer.groups.messages import MakeStep, StepEnded
from trainer.groups.ticket import GroupTicket
from trainer.groups.wire import Channel
from verification.errors import Unavailable, UserError, Violation
from verification.units import Count

SECRET = bytes(range(wire.SECRET))

counts = st.integers(0, 2**31).map(Count)
tickets = st.builds(
    GroupTicket, st.ip_addresses().map(str), counts, counts, st.binary(min_size=32, max_size=32)
)
steps = st.builds(MakeStep, counts, counts, counts, st.lists(counts, max_size=9).map(tuple), counts)


@given(tickets)
def test_a_groups_ticket_is_read_as_it_was_written(ticket: GroupTicket) -> None:
    assert GroupTicket.parse(f" {ticket.text()}\n") == ticket
    assert repr(ticket.secret) not in repr(ticket)
    with pytest.raises(UserError, match="copy it again"):
        GroupTicket.parse(ticket.text()[:-1])


class Pair(NamedTuple):
    """Both ends of one connection, and what lies between them."""

    leader: Channel
    member: Channel
    sockets: tuple[socket.socket, socket.socket]


def drawn(byte: int) -> wire.Draw:
    """A generator that is none."""
    return lambda count: bytes([byte]) * count


def joined(member_secret: bytes = SECRET) -> Pair:
    """A connection between a leader and a member; raises what the leader raises."""
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(wire.as_member, theirs, member_secret, drawn(2))
        return Pair(wire.as_leader(ours, SECRET, drawn(1)), made.result(), (ours, theirs))


@given(st.lists(steps, max_size=4))
def test_messages_arrive_as_they_were_sent(sent: list[MakeStep]) -> None:
    pair = joined()
    for message in sent:
        pair.leader.send(message)
        pair.member.send(StepEnded(message.number, Count(7)))
    for message in sent:
        assert pair.member.receive(MakeStep, 1.0) == message
        assert pair.leader.receive(StepEnded, 1.0) == StepEnded(message.number, Count(7))
    pair.leader.close()
    with pytest.raises(Unavailable):
        pair.member.receive(MakeStep, 1.0)
    pair.member.close()


def test_who_does_not_know_the_secret_does_not_come_in() -> None:
    with pytest.raises(Violation, match="does not know the group's secret"):
        joined(bytes(wire.SECRET))


def _repeated(pair: Pair, frame: bytes) -> None:
    pair.sockets[0].sendall(frame + frame)


def _changed(pair: Pair, frame: bytes) -> None:
    pair.sockets[0].sendall(frame[:-1] + bytes([frame[-1] ^ 1]))


def _reflected(pair: Pair, frame: bytes) -> None:
    pair.member.send(StepEnded(Count(1), Count(7)))
    pair.sockets[0].sendall(pair.sockets[0].recv(1 << 16))


@pytest.mark.parametrize("meddle", [_repeated, _changed, _reflected])
def test_a_frame_that_was_meddled_with_is_refused(meddle: Callable[[Pair, bytes], None]) -> None:
    """What the leader's end puts on the line is caught on the way and replaced."""
    pair = joined()
    other = joined()
    other.leader.send(
        StepEnded(Count(1), Count(7))
    )  # the same secret and numbers: the very frame of the other pair
    frame = other.sockets[1].recv(1 << 16)
    meddle(pair, frame)
    with pytest.raises(Violation):
        _ = [pair.member.receive(StepEnded, 1.0) for _ in range(2)]
    for end in (*pair.sockets, *other.sockets):
        end.close()
