"""Hostile members who drop, alter, delay, double and invent statements of every kind; thousands: `bench fuzz`."""

import random

import pytest

from simulator.fuzz import SPARED, Hearsay, Inventor, fuzz
from verification.statements import KINDS


@pytest.mark.parametrize("seed", range(10))
def test_no_honest_peer_pays_whatever_is_said(seed: int) -> None:
    played = fuzz(seed)
    assert played.faults > 0
    assert played.refused > 0


def test_runs_are_made_twice_from_one_job() -> None:
    """The hostile ones then hold all that honest peers of the same keys have said before."""
    assert any(fuzz(seed).again for seed in range(10, 40))


def test_a_seed_is_a_whole_history() -> None:
    assert fuzz(3) == fuzz(3)


def test_every_kind_of_statement_is_invented() -> None:
    inventor = Inventor(random.Random(1), Hearsay())
    made = {type(body) for body in (inventor.body() for _ in range(4_000)) if body is not None}
    assert made == {*KINDS.values()} - {*SPARED}
