"""What may be said: every kind has a place, a rule and one slot for each set of facts."""

import dataclasses

import pytest

from verification import codec, law
from verification.manifest import BundleRef, Place
from verification.placed import OfRound, OfRun
from verification.statements import (
    KINDS,
    MAX_STATEMENT,
    Announce,
    Answer,
    Body,
    Commit,
    Finished,
    NodeList,
    Point,
    Spoiled,
    Trace,
    Verdict,
)
from verification.units import Address, Count, Digest, Round

WHO = Address(b"\x0a" * 20)
SOME = Digest(b"\x0b" * 32)
SLOTS: list[tuple[Body, int, str]] = [
    (Commit(Round(3), SOME, SOME, BundleRef(SOME, SOME), Count(0), SOME), 3, "Commit"),
    (Finished(Round(3)), 3, "Finished"),
    (Verdict(Round(3), Round(2), WHO, SOME), 3, f"Verdict/2/{WHO.hex()}"),
    (Answer(Round(3), Count(4), Count(8), ()), 3, "Answer/4/8"),
    (Trace(Round(3), Place.STEP, Count(5), None, (), ()), 3, "Trace/inner step/5"),
    (NodeList(Round(3), Place.OUTER, Count(0), Count(0), Count(64), ()), 3, "NodeList/outer step/0/0/64"),
    (Point(Count(7), Count(1), Count(0)), 0, "Point/7/1"),
    (Announce(Round(9), Count(2), ""), 9, "Announce/2"),
]


@pytest.mark.parametrize(("body", "number", "slot"), SLOTS, ids=lambda part: type(part).__name__)
def test_a_body_names_its_place(body: Body, number: int, slot: str) -> None:
    assert (body.round, body.slot) == (number, slot)


def test_every_kind_has_a_rule_and_belongs_to_a_round_or_to_the_run() -> None:
    assert law.HANDLERS.keys() == set(KINDS.values())
    for kind in KINDS.values():
        assert dataclasses.is_dataclass(kind)
        assert issubclass(kind, OfRound) != issubclass(kind, OfRun)
        assert ("round" in {field.name for field in dataclasses.fields(kind)}) == issubclass(kind, OfRound)


def test_only_what_carries_tensors_may_be_large() -> None:
    large = {kind for kind in KINDS.values() if kind.limit != codec.MAX_MESSAGE}
    assert large == {Spoiled}
    assert {kind.limit for kind in large} == {MAX_STATEMENT}
