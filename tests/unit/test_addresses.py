"""What is dialled of all that others write down."""

import pytest

from p2p.addresses import (
    LONGEST_SECONDS,
    MAX_PLACES,
    SHORTEST_SECONDS,
    Backoff,
    Scope,
    is_dialled,
    nearness,
    place_of,
    reach_of,
    relay_of,
    scope_of,
)
from p2p.identity import Identity
from verification.errors import Unavailable

PEER = f"/p2p/{Identity(bytes([1]) * 32).peer_id}"
PLACE = ("93.184.216.34", 4001)


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("127.0.0.1", Scope.MACHINE),
        ("::1", Scope.MACHINE),
        ("::ffff:127.0.0.1", Scope.MACHINE),
        ("10.0.0.1", Scope.SITE),
        ("192.168.1.1", Scope.SITE),
        ("100.64.0.1", Scope.SITE),
        ("fd00::1", Scope.SITE),
        ("93.184.216.34", Scope.WORLD),
        ("2606:4700::1111", Scope.WORLD),
        ("169.254.169.254", None),
        ("fe80::1", None),
        ("0.0.0.0", None),
        ("::", None),
        ("224.0.0.1", None),
        ("ff02::1", None),
        ("255.255.255.255", None),
    ],
)
def test_numbers_have_scopes(host: str, scope: Scope | None) -> None:
    assert scope_of(host) is scope


@pytest.mark.parametrize(
    "text",
    [
        "",
        "junk",
        "/ip4/93.184.216.34",
        "/ip4/93.184.216.34/udp/4001",
        "/dns4/example.org/tcp/4001",
        f"/ip4/93.184.216.34/tcp/4001/p2p-circuit{PEER}",
        f"/dns4/example.org/tcp/4001{PEER}/p2p-circuit{PEER}",
        f"/ip4/93.184.216.34/tcp/4001{PEER}/p2p-circuit{PEER}/p2p-circuit{PEER}",
        f"/ip4/93.184.216.34/tcp/4001{PEER}/p2p-circuit{PEER}/tcp/1",
        "/ip4/93.184.216.34/tcp/4001/ws",
    ],
)
def test_names_and_what_is_no_place_are_left_out(text: str) -> None:
    assert place_of(text) is None
    assert relay_of(text) is None
    assert not is_dialled(text, Scope.MACHINE)
    assert reach_of([text]) is Scope.WORLD


def test_only_what_is_as_far_as_oneself_is_dialled() -> None:
    near, site, far = (f"/ip4/{host}/tcp/1{PEER}" for host in ("127.0.0.1", "10.0.0.1", "93.184.216.34"))
    found = [[is_dialled(text, reach) for text in (near, site, far)] for reach in Scope]
    assert found == [[True, True, True], [False, True, True], [False, False, True]]
    assert [reach_of([text]) for text in (near, site, far)] == list(Scope)
    assert place_of(f"/ip6/2606:4700::1111/tcp/5{PEER}") == ("2606:4700::1111", 5)


def test_a_circuit_is_where_its_relay_is_and_tried_last() -> None:
    far, site = (f"/ip4/{host}/tcp/1{PEER}/p2p-circuit{PEER}" for host in ("93.184.216.34", "10.0.0.1"))
    assert (
        relay_of(site) == relay_of(f"/ip4/10.0.0.1/tcp/1{PEER}/p2p-circuit") == f"/ip4/10.0.0.1/tcp/1{PEER}"
    )
    assert place_of(site) is None
    assert [[is_dialled(text, reach) for text in (site, far)] for reach in (Scope.SITE, Scope.WORLD)] == [
        [True, True],
        [False, True],
    ]
    direct = f"/ip6/2606:4700::1111/tcp/5{PEER}"
    assert sorted([site, direct], key=nearness) == [direct, site]


def test_a_place_that_cannot_be_reached_is_tried_ever_more_seldom() -> None:
    backoff, now, pauses = Backoff(), 100.0, list[float]()
    backoff.note(PLACE, False, now)
    for _ in range(8):
        backoff.check(PLACE, now)
        backoff.note(PLACE, False, now)
        with pytest.raises(Unavailable, match=r"port 4001 could not be reached"):
            backoff.check(PLACE, now)
        pause = next(p for p in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0) if not refused(backoff, now + p))
        pauses.append(pause)
        now += pause
    assert pauses == [SHORTEST_SECONDS, 1, 2, 4, 8, LONGEST_SECONDS, 16, 16]
    backoff.note(PLACE, True, now)
    backoff.check(PLACE, now)
    backoff.note(PLACE, False, now)
    assert not refused(backoff, now)


def test_places_are_forgotten_when_there_are_too_many() -> None:
    backoff = Backoff()
    for port in range(MAX_PLACES + 1):
        backoff.note(("10.0.0.1", port), False, 0.0)
        backoff.note(("10.0.0.1", port), False, 0.0)
    assert not refused(backoff, 0.0, ("10.0.0.1", 0))
    assert refused(backoff, 0.0, ("10.0.0.1", 1))


def refused(backoff: Backoff, now: float, place: tuple[str, int] = PLACE) -> bool:
    """Whether it is too early for a place."""
    try:
        backoff.check(place, now)
    except Unavailable:
        return True
    return False
