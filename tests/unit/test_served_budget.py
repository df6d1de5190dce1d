"""What a host grants members and strangers: requests in flight, and bytes."""

from contextlib import ExitStack

import pytest

from p2p.errors import Busy, Overloaded
from p2p.served import Allowance, Budget
from verification.units import Address

ALLOWANCE = Allowance(per_member=3, per_stranger=2, strangers=5, bytes_per_second=100, burst=1_000)


def account(number: int) -> Address:
    """Return one of many accounts."""
    return Address(bytes(19) + bytes([number]))


@pytest.mark.parametrize(("is_member", "grant"), [(True, 3), (False, 2)])
def test_each_has_its_own_grant_and_gets_it_back(is_member: bool, grant: int) -> None:
    budget = Budget(ALLOWANCE)
    for _ in range(2):
        with ExitStack() as flying:
            for who in (1, 2):
                for _ in range(grant):
                    flying.enter_context(budget.admitted(account(who), is_member, 0.0))
                with pytest.raises(Overloaded), budget.admitted(account(who), is_member, 0.0):
                    pass


def test_strangers_share_one_grant_and_members_do_not_feel_it() -> None:
    budget = Budget(ALLOWANCE)
    with ExitStack() as flying:
        for who in range(5):
            flying.enter_context(budget.admitted(account(who), False, 0.0))
        with pytest.raises(Busy), budget.admitted(account(6), False, 0.0):
            pass
        with budget.admitted(account(7), True, 0.0):
            pass
    with budget.admitted(account(6), False, 0.0):
        pass


def test_bytes_for_strangers_drain_with_time() -> None:
    budget = Budget(ALLOWANCE)
    budget.sent(10_000, is_member=True)
    with budget.admitted(account(1), False, 10.0):
        budget.sent(1_500, is_member=False)
    with pytest.raises(Busy), budget.admitted(account(2), False, 10.0):
        pass
    with budget.admitted(account(3), True, 10.0):
        pass
    with pytest.raises(Busy), budget.admitted(account(2), False, 14.9):
        pass
    with budget.admitted(account(2), False, 15.1):
        pass


def test_a_failed_answer_gives_its_place_back() -> None:
    budget = Budget(ALLOWANCE)
    for _ in range(20):
        with pytest.raises(RuntimeError), budget.admitted(account(1), False, 0.0):
            raise RuntimeError("the handler failed")
    with budget.admitted(account(1), False, 0.0):
        pass
