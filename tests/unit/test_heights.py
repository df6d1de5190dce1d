"""Hints of a ledger's height: who tells of what is not there has nobody look again before it is."""

from hypothesis import given
from hypothesis import strategies as st

from p2p.hints import Heights
from verification.units import Address

ONE, OTHER = Address(b"\1" * 20), Address(b"\2" * 20)


def test_a_height_that_is_not_there_is_looked_for_once() -> None:
    heights = Heights()
    assert heights.is_news(ONE, 2**40, 5)
    assert not any(heights.is_news(ONE, told, own) for own in (5, 6, 700) for told in (6, 701, 2**40, 2**41))
    assert heights.is_news(OTHER, 6, 5)


def test_who_told_the_truth_is_heard_again() -> None:
    heights = Heights()
    assert [heights.is_news(ONE, told, own) for told, own in ((6, 5), (7, 5), (7, 6), (7, 7), (9, 7))] == [
        True,
        False,
        True,
        False,
        True,
    ]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3))))
def test_looks_in_vain_are_no_more_than_the_ledger_grows(hints: list[tuple[int, int]]) -> None:
    heights, own, looks = Heights(), 0, 0
    for told, grown in hints:
        looks += heights.is_news(ONE, told, own)
        own += grown
    assert looks <= own + 1
