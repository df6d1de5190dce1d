"""The table of an audit's cases: total, without a dead row, and nothing but equality passes."""

import dataclasses
import itertools

from verification.cases import CASES, AuditCase, Deed, Facts, case_of
from verification.state import Audit

NAMES = [field.name for field in dataclasses.fields(Facts)]
ALL = [Facts(*values) for values in itertools.product((False, True), repeat=len(NAMES))]


def test_every_case_is_reached_and_something_holds_for_all_facts() -> None:
    reached = {case_of(facts).name for facts in ALL}
    assert reached == {case.name for case in CASES}
    assert len(reached) == len(CASES)


def test_nothing_but_a_due_and_revealed_verdict_equal_to_the_opening_passes() -> None:
    for facts in ALL:
        told = facts.has_link and facts.is_due and facts.has_reveal and facts.has_opening
        is_hidden = facts.has_finished and not facts.has_verdict
        passes = told and facts.is_equal and not facts.is_convicted and not is_hidden
        assert (case_of(facts).outcome is Audit.PASSED) == passes


def test_what_is_lost_is_drawn_again_and_only_the_different_is_disputed() -> None:
    for facts in ALL:
        case = case_of(facts)
        assert (case.outcome is Audit.LOST) == (Deed.REDRAW in case.deeds)
        assert (case.outcome is Audit.MISMATCH) == (case.deeds == (Deed.DISPUTE,))
        if case.outcome is Audit.MISMATCH:
            assert facts.has_reveal and facts.has_opening and facts.can_accuse
            assert not (facts.is_equal or facts.is_convicted or facts.is_excluded)


def test_a_duty_that_the_link_does_not_give_is_worth_nothing_whatever_else_holds() -> None:
    void = {case_of(facts) for facts in ALL if facts.has_link and not facts.is_due}
    assert {(case.outcome, case.deeds) for case in void} == {(Audit.VOID, ())}


def test_who_is_paid_gave_a_verdict_that_is_out_in_the_open() -> None:
    paid: list[AuditCase] = [case for case in CASES if Deed.PAY in case.deeds]
    assert {case.outcome for case in paid} == {Audit.VOID, Audit.PASSED}
    for facts in ALL:
        if case_of(facts) in paid:
            assert facts.is_right or (facts.has_link and facts.has_reveal)
