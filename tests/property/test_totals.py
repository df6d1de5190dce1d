"""The fast way to a total gives what its definition gives, whatever the operator, the numbers and the range."""

import random
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import arithmetic
from trainer.programs.conversion import from_torch
from trainer.rounds import totals as fast
from trainer.rounds.reexecution import held_of
from verification.arithmetic.definition import LEAST, Totals, range_total
from verification.claims import Failure, Result
from verification.honest.within import Held
from verification.operators import OPERATORS
from verification.program import Node
from verification.units import Count


def node(case: arithmetic.Case) -> Held:
    """Return a drawn node without its result."""
    result = Result(case.site, case.node.operator)
    return held_of(result, [from_torch(value) for value in case.inputs], None)


def by_both(held: Held, which: int, index: int, totals: Totals, low: int, high: int) -> int | None:
    """Return a range's total, None where it ends the step, once both ways agree."""
    assert held.fast_total is not None
    total = held.result.definition.totals[which]
    defined = range_total(total, held.result.site, index, held.read, totals, low, high)
    assert held.fast_total(which, index, totals, low, high) == defined, (which, index, low, high)
    return defined


@pytest.mark.slow
@pytest.mark.parametrize("operator", arithmetic.OVER_AN_AXIS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(drawing=st.randoms(use_true_random=False), data=st.data())
def test_the_fast_way_is_the_definition(operator: str, drawing: random.Random, data: st.DataObject) -> None:
    held = node(arithmetic.drawn(operator, drawing, 80))
    if not held.result.grid.numbers:
        return
    index = data.draw(st.integers(0, held.result.grid.numbers - 1))
    totals: Totals = ()
    for which, total in enumerate(held.result.definition.totals):
        count = total.count(held.result.site)
        whole = by_both(held, which, index, totals, 0, count)
        low, high = sorted((data.draw(st.integers(0, count)), data.draw(st.integers(0, count))))
        by_both(held, which, index, totals, low, high)
        if whole is None:
            return
        totals += (whole,)


@pytest.mark.parametrize("operator", arithmetic.OVER_AN_AXIS)
def test_many_terms_in_several_parts(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the fast way alone."""
    monkeypatch.setattr(fast, "CHUNK", 100)
    monkeypatch.delattr(fast, "range_total")
    held = node(arithmetic.deep(operator, random.Random(3), 1003))
    totals: Totals = ()
    for which in range(len(held.result.definition.totals)):
        whole = by_both(
            held, which, 1, totals, 0, held.result.definition.totals[which].count(held.result.site)
        )
        assert whole is not None
        totals += (whole,)


def test_a_scale_that_no_sum_of_the_numbers_has_is_left_to_the_definition() -> None:
    """The totals before a range are whatever both sides agreed on: integers may then be any size."""
    held = node(arithmetic.deep("sum", random.Random(5), 130))
    seen = Counter(
        by_both(held, 1, 0, (exponent,), 0, 130) is None for exponent in (-148, -20, 0, 128, 129, LEAST)
    )
    assert seen == {True: 2, False: 4}


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(OPERATORS))
@settings(max_examples=40, deadline=None, derandomize=True)
@given(drawing=st.randoms(use_true_random=False))
def test_where_a_node_fails_is_found_as_by_its_definition(operator: str, drawing: random.Random) -> None:
    held = node(arithmetic.drawn(operator, drawing, 80))
    slow = replace(held, fast_total=None, suspects=None)
    every = range(held.result.grid.numbers)
    fails = {index for index in every if replace(slow, suspects=partial(list, [index])).fails() is not None}
    assert held.suspects is not None
    assert fails <= set(held.suspects())
    assert held.fails() == slow.fails()


def test_only_numbers_that_may_fail_are_looked_at() -> None:
    zeros = [torch.ones(1000), torch.ones(1000)]
    zeros[1][777] = 0.0
    case = arithmetic.Case(Node("divide", (Count(0), Count(1)), (), "float32", (Count(1000),)), tuple(zeros))
    held = node(case)
    assert held.suspects is not None
    assert list(held.suspects()) == [777]
    assert held.fails() == Failure(777)
