"""How often somebody may do something, and how long who does wrong is left alone."""

import pytest

from p2p.arrivals import Arrivals
from p2p.bounds import Bounds
from p2p.errors import Overloaded
from p2p.rates import MAX_NAMES, Asides, Rates
from verification.units import Address

ALICE, MALLORY = Address(bytes(20)), Address(bytes(19) + b"1")


def test_a_burst_and_then_a_pace() -> None:
    rates = Rates(3, 0.5)
    assert [rates.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert rates.take("b", 0.0)
    assert [rates.take("a", 2.0) for _ in range(2)] == [True, False]
    assert rates.level("a", 100.0) == 0.0


def test_what_is_given_back_may_be_taken_again() -> None:
    rates = Rates(1, 0.0)
    assert rates.take("a", 0.0)
    rates.add("a", 0.0, -1)
    assert rates.take("a", 0.0)
    assert not rates.take("a", 0.0)


def test_the_longest_unused_are_forgotten() -> None:
    rates = Rates(1, 0.0)
    for number in range(MAX_NAMES + 1):
        assert rates.take(number, 0.0)
    assert rates.take(0, 0.0)
    assert not rates.take(MAX_NAMES, 0.0)


def asides() -> Asides:
    """Three things may be wrong at once, and one in ten seconds."""
    return Asides(Rates(3, 0.1), 5.0, 40.0)


def test_who_does_wrong_too_often_is_left_alone_and_then_twice_as_long() -> None:
    some, now, pauses = asides(), 0.0, []
    for _ in range(6):
        while not some.note("a", now):
            now += 0.01
        began = now
        while some.is_aside("a", now):
            now += 0.5
        pauses.append(now - began)
    assert pauses == pytest.approx([5.0, 10.0, 20.0, 40.0, 40.0, 40.0], abs=0.51)
    assert not some.is_aside("b", now)


def test_a_little_is_forgiven_and_much_is_once_it_is_long_ago() -> None:
    some = asides()
    assert not any(some.note("a", 10.0 * number) for number in range(100))
    assert some.note("b", 0.0, weight=4.0)
    assert some.note("b", 1000.0, weight=4.0)
    assert not some.is_aside("b", 1005.0)


def begun(arrivals: Arrivals, place: str, now: float, most: int = 100) -> int:
    """Begin and end handshakes until one is refused; returns how many were not."""
    for number in range(most):
        try:
            arrivals.begin(place, now)
        except Overloaded:
            return number
        arrivals.end(place)
    return most


def test_handshakes_from_one_place_and_from_all_have_rates() -> None:
    arrivals = Arrivals(Bounds(greetings=4, arrivals=10), asides())
    assert [begun(arrivals, place, 0.0) for place in ("a", "b", "c", "d")] == [4, 4, 2, 0]
    assert [begun(arrivals, "a", 1.0), begun(arrivals, "a", 2.0)] == [1, 1]


def test_those_of_members_do_not_count_and_nobody_else_keeps_them_out() -> None:
    arrivals = Arrivals(Bounds(greetings=4, arrivals=10), asides())
    for _ in range(50):
        arrivals.begin("home", 0.0)
        arrivals.end("home")
        arrivals.welcome("home", ALICE, 0.0)
    assert sum(begun(arrivals, place, 0.0) for place in ("a", "b", "c", "d")) == 10
    arrivals.begin("home", 0.0)


def test_a_place_that_is_left_alone_may_not_begin_but_where_a_member_is() -> None:
    wrongs = asides()
    arrivals = Arrivals(Bounds(), wrongs)
    arrivals.welcome("shared", ALICE, 0.0)
    for place in ("shared", "other"):
        assert wrongs.note(place, 0.0, weight=4.0)
    arrivals.begin("shared", 0.0)
    with pytest.raises(Overloaded, match="too much was wrong"):
        arrivals.begin("other", 0.0)
    arrivals.begin("other", 5.0)


def test_a_place_is_known_as_long_as_one_member_of_it_is() -> None:
    wrongs = asides()
    arrivals = Arrivals(Bounds(), wrongs)
    for account in (ALICE, MALLORY):
        arrivals.welcome("shared", account, 0.0)
    assert wrongs.note("shared", 0.0, weight=4.0)
    arrivals.forget(MALLORY)
    arrivals.begin("shared", 0.0)
    arrivals.forget(ALICE)
    with pytest.raises(Overloaded):
        arrivals.begin("shared", 0.0)
