"""Disputes of whole simulated runs in a report: every place, liars on both sides, and what the law has itself."""

import functools
import random

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.toy import ToyLibrary, minimal
from simulator.world import World
from trainer.rounds.cheats import conduct_named
from verification.adversaries import FalseAccuser, Mute, WrongSeal
from verification.causes import Cause
from verification.evidence.collect import Log
from verification.report.build import build_report
from verification.report.descent import JUDGED, descents
from verification.report.schema import DisputeReport
from verification.report.words import way_down
from verification.statements import ChallengeSeal
from verification.units import MILLION, Millis

KINDS = ("accuser", "gatherer", "sealer", "skip-steps", "wrong-data", "stale", "noise")


@functools.cache
def disputes(kind: str) -> tuple[DisputeReport, ...]:
    """Return the disputes of a finished run with a false accuser, a wrong seal, or a cheat of training."""
    liars = {"accuser": FalseAccuser(1), "gatherer": FalseAccuser(0)}
    other: Actor = (
        Worker("other", conduct=conduct_named(kind, 1)) if kind not in KINDS[:3] else Verifier("other")
    )
    if kind in liars:
        other = Verifier("other", liars[kind])
    if kind == "sealer":
        other = Verifier("other", WrongSeal(at=2), Mute(ChallengeSeal))
    actors: list[Actor] = [Worker("w0"), Worker("w1"), Verifier("v0"), other]
    world = World(minimal(audit_rate=MILLION, max_steps=130, leaf_every=130), actors, random.Random(2))
    world.run()
    log = Log.read([line.data for line in world.ledger.log if line.kind == "statement"])
    effects = [(line.at, effect) for line in world.ledger.log for effect in line.effects]
    ways = descents(world.state, log, ToyLibrary().program)
    return build_report(world.state, effects, {}, Millis(0), ways).disputes


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_evidence_decided_is_reckoned(kind: str) -> None:
    """And what words alone decided is not."""
    assert disputes(kind)
    reckoned = {cause.name for cause in JUDGED}
    for found in disputes(kind):
        assert (found.judged is not None) == (found.cause in reckoned)
        if found.judged is None:
            continue
        is_right = found.judged.claimed == found.judged.right
        assert found.verdict == ("innocent" if is_right else "guilty")
        assert f"number: {found.judged.index} of {list(found.judged.shape)}" in "\n".join(way_down(found))
        if found.accuser_bytes and found.judged.lines:
            known = {source.value for source in found.inputs}
            assert {read.value for line in found.judged.lines for read in line.reads} <= known


def test_the_law_s_own_index_and_data_are_told() -> None:
    """A worker that gathers other records is wrong at a number that the record index and the data give."""
    first = next(found for found in disputes("wrong-data") if found.judged is not None)
    assert first.judged is not None
    assert first.place == "prologue"
    origins = {source.value: source.origin for source in first.inputs}
    read = [origins[one.value] for line in first.judged.lines for one in line.reads]
    assert set(read) == {"the record index", "the data"}
    assert {source.origin for source in first.inputs if source.bytes} == {"the data"}


def test_states_are_listed_until_one_is_left() -> None:
    found = disputes("skip-steps")[0]
    states = [part for part in found.lists if part.what.startswith("states")]
    assert [part.entries for part in states] == [64, 2]  # 130 steps in lists of 64
    assert states[-1].contested == f"the state after step {found.step}"
    assert found.cause in {Cause.WRONG_OUTPUT.name, *(cause.name for cause in JUDGED)}
