"""A point that leads to a node that is none of the arithmetic is refused by the node's number, and changes nothing."""

import copy
from dataclasses import replace

import pytest

from simulator.duel import next_move
from tests.one_number import INPUTS, NONE, PROGRAM, SUM, Faults, Library, Match, Side
from verification import law
from verification.errors import BadEvidence
from verification.honest.actions import Results
from verification.library import Now
from verification.program import Program, first_node
from verification.state import Turn
from verification.units import Digest, Millis


class Conjuring(Library):
    """Gives the program with an operator in place of the sum that nobody knows."""

    def program(self, digest: Digest) -> Program:
        """Return it."""
        nodes = list(PROGRAM.nodes)
        nodes[SUM - first_node(PROGRAM)] = replace(nodes[SUM - first_node(PROGRAM)], operator="conjure")
        return replace(PROGRAM, nodes=tuple(nodes))


def test_a_refused_point_changes_nothing() -> None:
    match = Match(Side("accused", INPUTS, Faults({SUM: (1, 3.5)})), Side("challenger", INPUTS, NONE))
    dispute = match.state.disputes[0]
    accused, challenger = match.sides.values()
    said = match.sign(accused, next_move(match.state, Results(), accused.answer))
    law.HANDLERS[type(said.body)](match.state, said, Now(Millis(1), Library()))
    assert dispute.turn is Turn.POINT
    said = match.sign(challenger, next_move(match.state, Results(), challenger.answer))
    before = copy.deepcopy(match.state)
    with pytest.raises(BadEvidence, match=f"node {SUM}: .*conjure"):
        law.HANDLERS[type(said.body)](match.state, said, Now(Millis(2), Conjuring()))
    assert match.state == before
    law.HANDLERS[type(said.body)](match.state, said, Now(Millis(2), Library()))
    assert match.state != before
