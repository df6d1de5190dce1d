"""What a host grants members and strangers: requests in flight, and bytes."""

from contextlib import ExitStack

import pytest

from p2p.errors import Busy, Overloaded
from p2p.served import Allowance, Budget
from verification.units import Address

ALLOWANCE = Allowance(per_member=3, per_place=2, strangers=5, bytes_per_second=100, burst=1_000)


def account(number: int) -> Address:
    """Return one of many accounts."""
    return Address(bytes(19) + bytes([number]))


def place(number: int) -> str:
    """Return one of many network addresses."""
    return f"10.0.0.{number}"


def sent_at_once(budget: Budget, who: str, now: float) -> int:
    """Ask until there is no more; return the bytes of the answers."""
    sent = 0
    try:
        while True:
            with budget.admitted(who, now):
                budget.sent(10, who, now)
                sent += 10
    except Busy:
        return sent


@pytest.mark.parametrize(("who", "grant"), [(account, 3), (place, 2)])
def test_each_has_its_own_grant_and_gets_it_back(who, grant: int) -> None:
    budget = Budget(ALLOWANCE)
    for _ in range(2):
        with ExitStack() as flying:
            for number in (1, 2):
                for _ in range(grant):
                    flying.enter_context(budget.admitted(who(number), 0.0))
                with pytest.raises(Overloaded), budget.admitted(who(number), 0.0):
                    pass


def test_strangers_share_one_grant_and_members_do_not_feel_it() -> None:
    budget = Budget(ALLOWANCE)
    with ExitStack() as flying:
        for who in range(5):
            flying.enter_context(budget.admitted(place(who), 0.0))
        with pytest.raises(Busy), budget.admitted(place(6), 0.0):
            pass
        with budget.admitted(account(7), 0.0):
            pass
    with budget.admitted(place(6), 0.0):
        pass


def test_bytes_for_strangers_drain_with_time() -> None:
    budget = Budget(ALLOWANCE)
    budget.sent(10_000, account(1), 10.0)
    with budget.admitted(place(1), 10.0):
        budget.sent(1_500, place(1), 10.0)
    with pytest.raises(Busy), budget.admitted(place(2), 10.0):
        pass
    with budget.admitted(account(3), 10.0):
        pass
    with pytest.raises(Busy), budget.admitted(place(2), 14.9):
        pass
    with budget.admitted(place(2), 15.1):
        pass


def test_one_place_is_sent_nearly_all_but_for_a_quarter_that_is_for_others() -> None:
    budget = Budget(ALLOWANCE)
    assert [sent_at_once(budget, place(number), 0.0) for number in (1, 2, 3)] == [750, 250, 0]


def test_a_place_that_is_alone_goes_on_at_the_whole_pace() -> None:
    budget = Budget(ALLOWANCE)
    sent = sum(sent_at_once(budget, place(1), float(now)) for now in range(100))
    assert sent == pytest.approx(750 + 99 * 100, rel=0.02)


def test_a_failed_answer_gives_its_place_back() -> None:
    budget = Budget(ALLOWANCE)
    for _ in range(20):
        with pytest.raises(RuntimeError), budget.admitted(account(1), 0.0):
            raise RuntimeError("the handler failed")
    with budget.admitted(account(1), 0.0):
        pass
