import dataclasses

import pytest

from p2p.envelope import (
    MAX_KIND,
    OVERHEAD,
    PURPOSE,
    WINDOW,
    Envelope,
    Limits,
    ReplayGuard,
    first_sequence,
    open_envelope,
    seal,
)
from p2p.errors import Oversized, Replayed, Stale, UnknownKind, UnknownVersion, WrongRun, WrongSender
from p2p.identity import Identity
from verification.codec import decode, encode
from verification.digest import tagged
from verification.errors import BadSignature, Malformed
from verification.signing import sign
from verification.units import Count, Millis

ALICE, BOB = Identity(b"\1" * 32), Identity(b"\2" * 32)
RUN, OTHER_RUN = tagged("run"), tagged("another run")
NOW = Millis(1_700_000_000_000)
LIMITS = Limits({"ask": 100, "long": 1000})


def sealed(kind="ask", body=b"body", sequence=7, now=NOW, run=RUN):
    return seal(ALICE, run, kind, body, Count(sequence), Millis(now))


def opened(data, seen=None, now=NOW, sender=None):
    return open_envelope(
        data,
        run=RUN,
        limits=LIMITS,
        now=Millis(now),
        seen=ReplayGuard() if seen is None else seen,
        sender=sender,
    )


def resigned(**changes):
    """Return an envelope with other fields, correctly signed by Alice."""
    changed = dataclasses.replace(decode(Envelope, sealed()), **changes)
    signed = encode(changed)[:-65]
    return signed + sign(ALICE.secret, PURPOSE, signed)


def test_what_was_sealed_opens():
    envelope = opened(sealed(), sender=ALICE.address)
    assert (envelope.kind, envelope.body, envelope.sender) == ("ask", b"body", ALICE.address)
    assert (envelope.sequence, envelope.sent_at, envelope.run) == (7, NOW, RUN)


def test_each_check_fails_with_its_own_violation():
    seen = ReplayGuard()
    with pytest.raises(Oversized, match="over the limit of 1256"):
        opened(bytes(1000 + OVERHEAD + 1))
    with pytest.raises(Malformed):
        opened(sealed()[:-1])
    with pytest.raises(UnknownVersion):
        opened(resigned(version=2))
    with pytest.raises(WrongRun):
        opened(sealed(run=OTHER_RUN))
    with pytest.raises(UnknownKind):
        opened(sealed(kind="other"))
    with pytest.raises(Oversized, match="ask body of 101 bytes"):
        opened(sealed(body=bytes(101)))
    with pytest.raises(BadSignature):
        opened(resigned(sender=BOB.address))
    with pytest.raises(WrongSender):
        opened(sealed(), sender=BOB.address)
    with pytest.raises(Stale):
        opened(sealed(), seen, now=NOW + LIMITS.drift + 1)
    with pytest.raises(Stale):
        opened(sealed(), seen, now=NOW - LIMITS.drift - 1)
    opened(sealed(), seen, now=NOW + LIMITS.drift)  # what was refused is not remembered
    with pytest.raises(Replayed):
        opened(sealed(), seen)


def test_a_replay_is_named_before_staleness():
    seen = ReplayGuard()
    opened(sealed(), seen)
    with pytest.raises(Replayed):
        opened(sealed(), seen, now=NOW + 2 * LIMITS.drift)


def test_another_encoding_of_the_same_values_is_refused():
    data = sealed(sequence=1)
    twin = data.replace(
        b"\xa3ask" + b"\xc4\x14" + ALICE.address + b"\x01", b"\xa3ask\xc4\x14" + ALICE.address + b"\xcc\x01"
    )
    assert twin != data
    with pytest.raises(Malformed, match="canonical"):
        opened(twin)


def test_the_longest_name_and_body_fit_the_overhead():
    kind = "k" * MAX_KIND
    data = seal(ALICE, RUN, kind, bytes(1 << 20), Count(2**53), Millis(2**53))
    assert len(data) <= (1 << 20) + OVERHEAD
    with pytest.raises(ValueError):
        seal(ALICE, RUN, kind + "k", b"", Count(0), NOW)


def test_the_window_admits_each_number_once_in_any_order():
    guard = ReplayGuard()
    for sequence in (5, 3, 4, 5 + WINDOW - 1, 6):
        guard.check(ALICE.address, sequence)
        guard.note(ALICE.address, sequence)
    for sequence in (5, 6, 5 + WINDOW - 1, 4, 3, 0):
        with pytest.raises(Replayed):
            guard.check(ALICE.address, sequence)
    guard.check(ALICE.address, 7)
    guard.check(BOB.address, 5)


def test_a_leap_forgets_the_window():
    guard = ReplayGuard()
    guard.note(ALICE.address, 1)
    guard.note(ALICE.address, 2**53)
    guard.check(ALICE.address, 2**53 - 1)
    with pytest.raises(Replayed, match="left the window"):
        guard.check(ALICE.address, 2**53 - WINDOW)


def test_the_guard_remembers_a_bounded_number_of_senders():
    guard = ReplayGuard(max_senders=3)
    for number in range(10):
        guard.note(bytes([number]) * 20, 1)
    assert len(guard) == 3
    with pytest.raises(Replayed):
        guard.check(b"\x09" * 20, 1)


def test_a_restarted_peer_counts_on_above_what_it_used():
    assert first_sequence(Millis(NOW + 1)) > first_sequence(NOW) + 1000
    assert first_sequence(Millis(NOW * 5)) < 2**53
