"""Which chunk a fetch asks of whom: by itself, and by five who fetch one blob of one author in lockstep."""

from collections import Counter

import pytest

from p2p.wanted import BELIEVED_TICKS, HOPED_TICKS, LOOKS_A_TICK, Wanted, ticks_between_looks
from verification.units import Address

AUTHOR, FIRST, SECOND = (Address(bytes([number]) * 20) for number in range(3))
COUNT, WINDOW = 40, 4
ALL = (1 << COUNT) - 1


def bits(*numbers: int) -> int:
    """Return a set of chunks."""
    return sum(1 << number for number in numbers)


def wanted(*missing: int, start: int = 0) -> Wanted:
    """Return what is to come from a whole author and two of whom nothing is known."""
    made = Wanted(COUNT, missing or range(COUNT), start)
    made.add(AUTHOR, is_whole=True)
    made.add(FIRST)
    made.add(SECOND)
    return made


def asked(page: Wanted, source: Address) -> list[int]:
    """Ask a source for all that it may be asked for at once."""
    found = list[int]()
    while len(found) < WINDOW and (number := page.choose(source)) is not None:
        page.ask(source, number)
        found.append(number)
    return found


def test_chunks_are_asked_for_from_the_start_on_and_each_of_one_source() -> None:
    page = wanted(start=38)
    assert asked(page, AUTHOR) == [38, 39, 0, 1]
    assert asked(page, FIRST) == [], "of which nothing is known"
    assert page.note(FIRST, bits(0, 2, 3))
    assert asked(page, FIRST) == [2, 3]
    assert page.coming == bits(38, 39, 0, 1, 2, 3)


def test_who_is_whole_is_spared_what_others_hold_or_will_and_asked_for_it_one_at_a_time_when_idle() -> None:
    page = wanted(*range(6))
    page.note(FIRST, bits(0, 1), bits(2, 3))
    assert asked(page, AUTHOR) == [4, 5]
    page.came(AUTHOR, 4)
    assert asked(page, AUTHOR) == [], "5 is on its way"
    page.came(AUTHOR, 5)
    assert asked(page, AUTHOR) == [0]


def test_who_brings_nothing_is_not_believed_for_long() -> None:
    page = wanted()
    page.note(FIRST, 0, ALL)
    assert asked(page, AUTHOR) == [0]
    for _ in range(BELIEVED_TICKS):
        assert asked(page, AUTHOR) == []
        page.tick()
    assert asked(page, AUTHOR) == [1, 2, 3, 4]


def test_what_is_late_is_asked_of_another_and_only_once_of_anyone() -> None:
    page = wanted(0, 1)
    page.note(SECOND, ALL)
    assert asked(page, AUTHOR) == [0, 1]
    assert asked(page, SECOND) == []
    page.tick()
    assert page.silent == {AUTHOR}
    assert asked(page, SECOND) == [0, 1]
    assert page.came(SECOND, 0) and not page.came(AUTHOR, 0)
    page.failed(SECOND, 1)
    assert asked(page, SECOND) == [] == asked(page, AUTHOR)


def test_a_silent_source_is_made_up_for_while_others_are_busy_with_the_rest() -> None:
    page = wanted()
    page.note(FIRST, bits(0, 1, 2, 3, 4, 5))
    assert asked(page, FIRST) == [0, 1, 2, 3]
    page.note(SECOND, bits(0, 1))
    for _ in range(2):
        assert asked(page, SECOND) == []
        page.tick()
    assert asked(page, SECOND) == [0, 1]


def test_who_declined_is_asked_for_nothing_until_it_says_what_it_holds() -> None:
    page = wanted()
    assert asked(page, AUTHOR) == [0, 1, 2, 3]
    page.failed(AUTHOR, 0)
    assert page.doubt(AUTHOR) and not page.doubt(AUTHOR)
    assert asked(page, AUTHOR) == [] and page.is_worth_a_look(AUTHOR)
    assert not page.is_part(AUTHOR), "which said nothing of what it holds"
    page.note(AUTHOR, bits(0, 7))
    assert page.is_part(AUTHOR) and asked(page, AUTHOR) == [7]
    page.note(AUTHOR, ALL)
    assert not page.is_part(AUTHOR)


def test_there_is_hope_while_somebody_may_have_or_get_what_is_missing() -> None:
    page = wanted(0, 1)
    page.note(FIRST, bits(5))
    page.note(SECOND, 0, bits(1))
    assert not page.is_over
    page.drop(AUTHOR)
    assert not page.is_over, "1 is coming to the second"
    assert page.note(SECOND, bits(1)) and not page.note(SECOND, bits(1)), "which is no news"
    assert asked(page, SECOND) == [1]
    assert not page.is_over
    page.came(SECOND, 1)
    assert page.is_over
    page.add(AUTHOR)
    assert not page.is_over, "nobody knows yet what it has"


def test_who_says_that_something_is_coming_is_not_waited_for_for_ever() -> None:
    """The author is gone, and the others say the same again and again: who asks anew may find the author back."""
    page = wanted(0, 1)
    page.drop(AUTHOR)
    page.note(SECOND, 0)
    page.note(FIRST, 0, bits(0, 1))
    for _ in range(HOPED_TICKS):
        assert not page.is_over
        page.tick()
        page.note(FIRST, 0, bits(0, 1))
    assert page.is_over
    page.note(FIRST, bits(0), bits(1))
    assert not page.is_over and asked(page, FIRST) == [0]
    page.came(FIRST, 0)
    assert not page.is_over, "it sends"


def test_who_is_asked_for_nothing_is_believed_all_the_same() -> None:
    """A fetch stands still while others have their turn."""
    page = wanted(0, 1, 2, 3)
    page.note(FIRST, bits(0, 1, 2))
    for _ in range(2 * BELIEVED_TICKS):
        page.tick()
    assert asked(page, AUTHOR) == [3]
    assert asked(page, FIRST) == [0, 1, 2]


def test_a_peer_with_many_sources_and_fetches_looks_at_each_more_seldom() -> None:
    assert ticks_between_looks(8, 4) == 1.0 == ticks_between_looks(1, 1)
    sources, fetches = 63, 8
    assert sources * fetches / ticks_between_looks(sources, fetches) == LOOKS_A_TICK


@pytest.mark.parametrize("peers", [2, 5, 10])
def test_an_author_sends_each_chunk_about_once_however_many_fetch_it(peers: int) -> None:
    """In each tick the author sends as many chunks as there are peers, and every peer as many to the others."""
    members = [Address(bytes([100 + number]) * 20) for number in range(peers)]
    pages = {
        member: Wanted(COUNT, range(COUNT), number * COUNT // (peers + 1))
        for number, member in enumerate(members)
    }
    sent, queues = (
        Counter[Address](),
        {address: list[tuple[Address, int]]() for address in [AUTHOR, *members]},
    )
    for member, page in pages.items():
        page.add(AUTHOR, is_whole=True)
        for other in members:
            if other != member:
                page.add(other)
    ticks = 0
    while any(page.missing for page in pages.values()) and ticks < 4 * COUNT:
        ticks += 1
        for member, page in pages.items():
            for other in members:
                if other != member and page.is_worth_a_look(other):
                    page.note(other, ALL - pages[other].missing, pages[other].coming)
            for source in [AUTHOR, *members]:
                on_way = sum(asker == member for asker, _ in queues[source])
                while source != member and on_way < WINDOW and (number := page.choose(source)) is not None:
                    page.ask(source, number)
                    queues[source].append((member, number))
                    on_way += 1
        for source, queue in queues.items():
            for member, number in queue[:peers]:
                pages[member].came(source, number)
                sent[source] += 1
            del queue[:peers]
        for page in pages.values():
            page.tick()
    assert COUNT <= sent[AUTHOR] < 2 * COUNT
    assert ticks <= 4 * COUNT // peers
