"""Whole runs in which a machine is wrong in one number, and its owner lies or is silent at a level below the node."""

import random
from collections.abc import Callable

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import BrokenEngine, EndingEngine, minimal
from simulator.world import World
from tests.law_vectors import PRODUCT, SELECT, WIDE
from verification.adversaries import Behaviour, CommitFailure, FalseList, FalseTotals, Mute
from verification.causes import Cause
from verification.claims import Bytes, Range, Region, Sum
from verification.effects import DisputeEnded, Slashed
from verification.evidence.collect import convictions
from verification.evidence.file import pack
from verification.evidence.retrial import verify
from verification.signed import open_statement
from verification.state import Ruling
from verification.statements import Block, Evidence, FailedAt, RangeList, ResultList, TotalList
from verification.units import MILLION


def played(cheat: Worker, seed: int = 3) -> World:
    """Return the run of a cheat among honest peers who audit everything; its last dispute has ended."""
    honest: list[Actor] = [Worker("w0"), Worker("w1"), Verifier("v0"), Verifier("v1")]
    world = World(
        minimal(audit_rate=MILLION, rounds=3, wide=WIDE), [cheat, *honest], random.Random(seed),
        check=Invariants(honest),
    )  # fmt: skip
    world.run()
    return world


def cheat(place: int, *behaviours: Behaviour, engine: type[BrokenEngine] = BrokenEngine) -> Worker:
    """Return a worker whose machine is wrong at a node of the inner step."""
    worker = Worker("cheat", *behaviours)
    worker.engine = engine("inner", place)
    return worker


def first_guilty(world: World) -> DisputeEnded:
    """Return the first dispute that convicted."""
    return next(ended for ended in world.seen(DisputeEnded) if ended.ruling is Ruling.GUILTY)


def proven(world: World) -> None:
    """Hold that each file of evidence proves, by itself, what the law found, and that no statement was large."""
    statements = [line.data for line in world.ledger.log if line.kind == "statement"]
    effects = [effect for line in world.ledger.log for effect in line.effects]
    found = convictions(world.state, statements, effects, world.ledger.library.program)
    assert found
    for name, conviction in found.items():
        dispute = world.state.disputes[int(name.removeprefix("dispute-")) - 1]
        finding = verify(pack(conviction))
        assert (finding.accused, finding.reason.cause) == (dispute.accused, dispute.cause)
        assert finding.node == dispute.game.node
    assert max(len(data) for data in statements) < 1 << 20


def broken() -> Worker:
    """Return one that is wrong in one number of its product and says nothing but what its machine gives."""
    return cheat(PRODUCT)


LIES: dict[str, tuple[Callable[[], Worker], Cause]] = {
    "a wrong number": (broken, Cause.WRONG_NUMBER),
    "a wrong number without terms": (lambda: cheat(SELECT), Cause.WRONG_NUMBER),
    "totals that explain it": (lambda: cheat(PRODUCT, FalseTotals()), Cause.WRONG_RANGE),
    "rows that do not fold": (lambda: cheat(PRODUCT, FalseList(Region)), Cause.PART_FOLDS),
    "bytes that do not hash": (lambda: cheat(PRODUCT, FalseList(Bytes)), Cause.BLOCK_BYTES),
    "another total": (lambda: cheat(PRODUCT, FalseList(Sum)), Cause.RANGES_ADD_UP),
    "ranges that do not add up": (lambda: cheat(PRODUCT, FalseTotals(), FalseList(Range)), Cause.RANGES_ADD_UP),
    "a failure of a number without terms": (
        lambda: cheat(SELECT, CommitFailure(), engine=EndingEngine), Cause.FAILS_NOT,
    ),
    "a failure of no term": (lambda: cheat(PRODUCT, CommitFailure(), engine=EndingEngine), Cause.FAILS_NOWHERE),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lie_within_a_node_ends_at_what_is_wrong(name: str) -> None:
    make, cause = LIES[name]
    worker = make()
    world = played(worker)
    assert worker.faults or not worker.behaviours
    assert {slashed.address for slashed in world.seen(Slashed)} == {worker.address}
    assert first_guilty(world).cause is cause
    proven(world)


@pytest.mark.parametrize("kind", [ResultList, Block, TotalList, RangeList, FailedAt])
def test_silence_at_any_level_costs_what_a_lie_costs(kind: type) -> None:
    if kind is FailedAt:
        worker = cheat(SELECT, CommitFailure(), Mute(kind), engine=EndingEngine)
    else:
        worker = cheat(PRODUCT, FalseTotals(), Mute(kind))
    world = played(worker)
    assert worker.behaviours[-1].faults > 0
    assert {slashed.address for slashed in world.seen(Slashed)} == {worker.address}
    assert first_guilty(world).cause is Cause.ACCUSED_SILENT


def test_evidence_is_small_and_brings_64_terms_at_most() -> None:
    world = played(cheat(PRODUCT, FalseTotals()))
    bodies = [open_statement(line.data) for line in world.ledger.log if line.kind == "statement"]
    brought = [said.body for said in bodies if isinstance(said.body, Evidence)]
    assert brought
    for evidence in brought:
        assert sum(len(part.blocks) for part in evidence.inputs) <= 2 * 64
