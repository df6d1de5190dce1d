"""A conviction is a file that convinces without the ledger: each kind, what it trusts, and every bit of it matters."""

import dataclasses
import functools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cast import Actor, Verifier, Worker
from simulator.toy import BrokenEngine, ToyLibrary, minimal
from simulator.world import World
from trainer.rounds.cheats import conduct_named
from verification import codec
from verification.adversaries import AnswerHonestly, Equivocate, Mute, Withhold, WrongSeal
from verification.digest import tagged
from verification.errors import Unavailable, Violation
from verification.evidence.collect import convictions
from verification.evidence.file import FORMAT, MAX_EVIDENCE, File, Finding, pack, unpack
from verification.evidence.retrial import verify
from verification.manifest import Place
from verification.signed import open_statement, sign_statement
from verification.state import Ruling
from verification.statements import Answer, ChallengeSeal
from verification.units import MILLION, Count, Round


def broken(role: str, place: int) -> Worker:
    """Return a worker whose machine gets one node wrong."""
    worker = Worker("cheat")
    worker.engine = BrokenEngine(role, place)
    return worker


CASES: dict[str, tuple[Any, str, int]] = {
    "skip-steps": (lambda: Worker("cheat", conduct=conduct_named("skip-steps", 1)), "output", 0),
    "noise": (lambda: Worker("cheat", conduct=conduct_named("noise", 1)), "output", 0),
    "stale": (lambda: Worker("cheat", conduct=conduct_named("stale", 1)), "output", 0),
    "wrong-data": (lambda: Worker("cheat", conduct=conduct_named("wrong-data", 1)), "node", 1),
    "wrong-node": (lambda: broken("inner", 70), "node", 0),
    "wrong-start": (lambda: broken("prologue", 1), "node", 0),
    "wrong-end": (lambda: broken("epilogue", 2), "node", 0),
    "honest-lists": (
        lambda: Worker("cheat", AnswerHonestly(), conduct=conduct_named("skip-steps", 1)), "list", 0
    ),
    "wrong-seal": (lambda: Verifier("cheat", WrongSeal(), Mute(ChallengeSeal)), "list", 0),
    "equivocate": (lambda: Worker("cheat", Equivocate()), "contradiction", 0),
    "withhold": (lambda: Worker("cheat", Withhold()), "silence", 2),
}  # fmt: skip


@functools.cache
def world_of(name: str) -> World:
    """Return the finished run of a cheat among honest peers that audit everything."""
    cheat: Actor = CASES[name][0]()
    others = [Worker("w0"), Worker("w1", speed=60), Verifier("v0"), Verifier("v1")]
    world = World(minimal(audit_rate=MILLION, rounds=3, chain=70), [cheat, *others], random.Random(4))
    world.run()
    return world


@functools.cache
def files_of(name: str) -> dict[str, bytes]:
    """Return the evidence of a cheat's run."""
    log = world_of(name).ledger.log
    statements = [line.data for line in log if line.kind == "statement"]
    effects = [effect for line in log for effect in line.effects]
    found = convictions(world_of(name).state, statements, effects, ToyLibrary().program)
    return {file: pack(conviction) for file, conviction in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_conviction_convinces_without_the_ledger(name: str) -> None:
    _, kind, trusted = CASES[name]
    files = files_of(name)
    cheat = world_of(name).actors[0]
    finding = verify(next(iter(files.values())))
    assert (finding.kind, finding.accused, finding.run) == (kind, cheat.address, world_of(name).state.run)
    assert len(finding.trust) == trusted
    guilty = {(d.round, d.accused) for d in world_of(name).state.disputes if d.ruling is Ruling.GUILTY}
    assert not guilty or (finding.round, finding.accused) in guilty
    assert {verify(data).accused for data in files.values()} == {cheat.address}


@pytest.mark.parametrize("name", ["wrong-data", "wrong-node", "wrong-end", "skip-steps"])
def test_a_finding_says_what_the_law_found(name: str) -> None:
    file, data = next(iter(files_of(name).items()))
    finding = verify(data)
    dispute = world_of(name).state.disputes[int(file.removeprefix("dispute-")) - 1]
    assert (finding.node, finding.operator) == (dispute.game.node, dispute.operator)
    if finding.kind == "node":
        assert finding.number is not None
        assert (finding.number.claim, finding.number.right) == (dispute.game.claim, dispute.right)
    else:
        assert (finding.claimed, finding.computed) == (dispute.game.claimed, dispute.computed)
    assert finding.step == (dispute.game.high if dispute.place is Place.STEP else None)
    assert bool(finding.names) == (name in ("wrong-data", "skip-steps"))


def test_an_outer_step_s_fault_in_a_node_needs_no_record() -> None:
    """What is proven by the sealer's own trace is not taken on trust."""
    assert verify(next(iter(files_of("wrong-seal").values()))).trust == ()


@given(st.sampled_from(sorted(CASES)), st.integers(0, 10**9), st.integers(1, 255))
@settings(max_examples=80, deadline=None)
def test_one_changed_byte_and_the_file_is_refused(name: str, place: int, flip: int) -> None:
    data = bytearray(next(iter(files_of(name).values())))
    data[place % len(data)] ^= flip
    with pytest.raises(Violation):
        verify(bytes(data))


@given(
    st.sampled_from(["skip-steps", "noise", "stale", "wrong-data", "honest-lists", "equivocate"]), st.data()
)
@settings(max_examples=150, deadline=None)
def test_nobody_makes_another_conviction_out_of_one(name: str, data: st.DataObject) -> None:
    """Even with the file's digest made anew: what it proves is the same, or it proves nothing."""
    original = next(iter(files_of(name).values()))
    body = bytearray(codec.decode(File, original, MAX_EVIDENCE).body)
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    forged = codec.encode(File(FORMAT, bytes(body), tagged("evidence", bytes(body))))
    try:
        finding = verify(forged)
    except (Violation, Unavailable):
        return
    assert _essence(finding) == _essence(verify(original))


def _essence(finding: Finding) -> tuple[object, ...]:
    return (
        finding.kind,
        finding.accused,
        finding.run,
        finding.round,
        finding.place,
        finding.step,
        finding.node,
    )


def changed(name: str, **changes: Any) -> bytes:
    """Return a file with fields changed and its digest made anew."""
    return pack(dataclasses.replace(unpack(next(iter(files_of(name).values()))), **changes))


def without(name: str, kind: str) -> bytes:
    """Return a file that lacks the accused's statements of a kind."""
    held = unpack(next(iter(files_of(name).values()))).statements
    return changed(name, statements=tuple(s for s in held if open_statement(s).statement.kind != kind))


def other_answer() -> bytes:
    """Return a file whose list of states is signed by somebody else."""
    held = unpack(next(iter(files_of("skip-steps").values()))).statements
    other = next(w for w in world_of("skip-steps").actors if w.name == "w0")
    forged = [
        sign_statement(other.secret, said.statement) if isinstance(said.body, Answer) else said.data
        for said in map(open_statement, held)
    ]
    return changed("skip-steps", statements=tuple(forged))


def honest_list() -> bytes:
    """Return a file that accuses a worker of a list that folds."""
    return changed("skip-steps", kind="list", mismatch=None, node=None)


FORGERIES = {
    "no statements": (lambda: changed("skip-steps", statements=()), "no statement"),
    "no commitment": (lambda: without("skip-steps", "Commit"), "lack a Commit"),
    "no opening": (lambda: without("skip-steps", "Opening"), "lack a Opening"),
    "no trace": (lambda: without("skip-steps", "Trace"), "lead nowhere"),
    "another author": (other_answer, "another peer's"),
    "another accused": (
        lambda: changed("noise", accused=world_of("noise").actors[1].address),
        "another peer's",
    ),
    "another run": (lambda: changed("noise", manifest=minimal(rounds=9)), "another run's"),
    "another place": (lambda: changed("noise", place="prologue"), "not the run's"),
    "no place": (lambda: changed("noise", place=""), "no place"),
    "an unknown place": (lambda: changed("noise", place="nowhere"), "no such"),
    "a place beside words": (lambda: changed("equivocate", place="prologue"), "no place"),
    "another round beside words": (lambda: changed("equivocate", round=Round(9)), "another round"),
    "another leaf": (lambda: changed("skip-steps", leaf=Count(1)), "another part"),
    "another node": (lambda: changed("wrong-node", node=Count(9)), "another node than its statements"),
    "no inputs": (lambda: changed("wrong-data", inputs=()), "lacks number"),
    "no record": (lambda: changed("wrong-data", record=None), "lacks the ledger's record"),
    "a list owed beside a node": (lambda: changed("wrong-data", dispute=Count(0)), "not about silence"),
    "an honest list": (honest_list, "in order"),
    "no program": (lambda: changed("skip-steps", program=None), "lacks the program"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_are_refused_by_name(name: str) -> None:
    make, message = FORGERIES[name]
    with pytest.raises(Violation, match=message):
        verify(make())


def test_a_list_s_file_names_no_node_that_it_is_not_about() -> None:
    with pytest.raises(Violation, match="names a node"):
        verify(changed("honest-lists", node=Count(1 << 30)))
