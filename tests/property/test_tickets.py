"""Tickets: what is written is read again, and of every slip of the pen nothing is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import ticket as tickets
from p2p.identity import Identity
from p2p.ticket import Ticket
from p2p.words import MAX_TEXT, Words
from verification.digest import tagged
from verification.errors import UserError
from verification.units import Digest

HOST = Identity(b"\1" * 32)
GIVEN = Ticket(tagged("run"), f"/ip4/192.0.2.1/tcp/4001/p2p/{HOST.peer_id}", b"\2" * 32)
TEXT = GIVEN.text()
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-_.:/ AZ\n\0é"

secrets = st.one_of(st.just(b""), st.integers(1, 2**255).map(lambda number: number.to_bytes(32, "big")))
endpoints = st.lists(
    st.tuples(st.ip_addresses(v=4), st.integers(1, 65535)).map(
        lambda place: f"/ip4/{place[0]}/tcp/{place[1]}/p2p/{HOST.peer_id}"
    ),
    min_size=1,
    max_size=8,
).map(" ".join)
given_tickets = st.builds(Ticket, st.binary(min_size=32, max_size=32).map(Digest), endpoints, secrets)


@given(given_tickets)
def test_a_ticket_is_read_as_it_was_written(ticket: Ticket) -> None:
    text = ticket.text()
    assert Ticket.parse(text) == Ticket.parse(f"\n {text}\r\n") == ticket
    assert text.isalnum() and text.islower() and text.isascii()
    assert ticket.identity is None or ticket.identity.secret == ticket.secret


def test_a_ticket_cut_short_anywhere_is_refused() -> None:
    for cut in range(len(TEXT)):
        for part in (TEXT[:cut], TEXT[cut + 1 :]):
            with pytest.raises(UserError, match="copy it again") as caught:
                Ticket.parse(part)
            assert len(part) < 30 or part not in str(caught.value)


def test_a_ticket_with_one_wrong_sign_is_refused() -> None:
    for place, sign in enumerate(TEXT):
        for other in ALPHABET:
            changed = TEXT[:place] + other + TEXT[place + 1 :]
            if other == sign or changed.strip() == TEXT:
                continue
            with pytest.raises(UserError, match="copy it again"):
                Ticket.parse(changed)


@given(st.text(max_size=200), st.text(alphabet="abcdefghijklmnopqrstuvwxyz234567", max_size=200))
def test_other_text_is_refused_as_a_persons_mistake(text: str, packed: str) -> None:
    for each in (text, tickets.NAME + "1t" + packed):
        with pytest.raises(UserError):
            Ticket.parse(each)


def test_another_version_is_told_from_a_slip_of_the_pen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "TICKETS", Words(tickets.NAME, 2))
    later = GIVEN.text()
    monkeypatch.undo()
    assert later.startswith("proofswarm2t")
    with pytest.raises(UserError, match="is of version 2, this program reads version 1"):
        Ticket.parse(later)
    with pytest.raises(UserError, match="cut short or mistyped"):
        Ticket.parse(TEXT.replace("1t", "2t", 1))


def test_bytes_that_are_no_ticket_are_refused_whatever_their_checksum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for body in (b"", b"\x90", b"\xc1"):
        monkeypatch.setattr(tickets, "encode", lambda ticket, body=body: body)
        text = GIVEN.text()
        with pytest.raises(UserError, match="ask for another"):
            Ticket.parse(text)


@pytest.mark.parametrize("secret", [b"\0", bytes(32), b"\xff" * 32])
def test_no_ticket_holds_what_is_no_key(secret: bytes) -> None:
    with pytest.raises(ValueError):
        Ticket(GIVEN.run, GIVEN.endpoint, secret)


def test_a_ticket_names_its_host_and_never_shows_its_secret() -> None:
    assert GIVEN.host.address == HOST.address
    assert GIVEN.secret.hex() not in repr(GIVEN) and repr(GIVEN.secret) not in repr(GIVEN)
    with pytest.raises(UserError, match="the ticket names no host"):
        _ = Ticket(GIVEN.run, "the moon").host
    with pytest.raises(ValueError, match="over the limit"):
        Ticket(GIVEN.run, "x" * MAX_TEXT).text()
