"""The way down of a dispute in a report: every list with what was contested, and what the node reads."""

import functools
import random

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.toy import ToyExecutor, minimal
from simulator.world import World
from trainer.rounds.cheats import conduct_named
from verification.adversaries import FalseAccuser, Mute, WrongSeal
from verification.disputes import program_of
from verification.evidence.collect import Log
from verification.manifest import Place
from verification.program import first_node
from verification.report.build import build_report
from verification.report.descent import descents
from verification.report.schema import DisputeReport
from verification.report.words import way_down
from verification.signed import open_statement
from verification.statements import Answer, ChallengeSeal, Evidence, Mismatch, NodeList, Point, Trace
from verification.units import MILLION, Millis


@functools.cache
def played(kind: str) -> World:
    """Return a finished run with disputes that end in evidence (of a liar's or a sealer's) or in a mismatch."""
    other: Actor = {
        "accuser": lambda: Verifier("other", FalseAccuser(1)),
        "gatherer": lambda: Verifier("other", FalseAccuser(0)),
        "sealer": lambda: Verifier("other", WrongSeal(at=2), Mute(ChallengeSeal)),
        "cheat": lambda: Worker("other", conduct=conduct_named("skip-steps", 1)),
    }[kind]()
    actors: list[Actor] = [Worker("w0"), Worker("w1"), Verifier("v0"), other]
    world = World(minimal(audit_rate=MILLION, max_steps=130, leaf_every=130), actors, random.Random(2))
    world.run()
    return world


def disputes(kind: str) -> list[DisputeReport]:
    """Return the disputes of that run's report."""
    world = played(kind)
    log = Log.read([line.data for line in world.ledger.log if line.kind == "statement"])
    effects = [(line.at, effect) for line in world.ledger.log for effect in line.effects]
    ways = descents(world.state, log, ToyExecutor().program)
    return list(build_report(world.state, effects, {}, Millis(0), ways).disputes)


def test_every_list_says_what_was_contested_until_one_state_is_left() -> None:
    found = disputes("cheat")[0]
    states = [part for part in found.lists if part.what.startswith("states")]
    assert len(states) == 2  # 130 steps in lists of 64
    assert states[0].entries == 64
    assert states[-1].contested == f"the state after step {found.step}"
    assert found.lists[-1].what.startswith("results of nodes ")
    assert found.lists[-1].contested == f"output {found.near}"
    assert found.program == program_of(played("cheat").state.manifest, Place.STEP).hex()


@pytest.mark.parametrize(
    ("kind", "origin"),
    [
        ("accuser", "the working state before"),
        ("gatherer", "the data"),
    ],
)
def test_a_node_shows_what_it_reads_and_what_proves_it(kind: str, origin: str) -> None:
    shown = [found for found in disputes(kind) if found.node is not None]
    assert shown
    origins = {source.origin for found in shown for source in found.inputs}
    assert origins & {origin, "an earlier node, by a path in the accused's own trace"}
    for found in shown:
        brought = sum(source.bytes for source in found.inputs)
        assert brought < found.accuser_bytes
        text = "\n".join(way_down(found))
        assert text.count("reads: ") == len(found.inputs) > 0
        assert text.count("listed: ") == len(found.lists)


@pytest.mark.parametrize("kind", ["accuser", "sealer", "cheat"])
def test_the_bytes_are_those_of_the_statements(kind: str) -> None:
    world = played(kind)
    said = [open_statement(line.data).body for line in world.ledger.log if line.kind == "statement"]
    sizes = [len(line.data) for line in world.ledger.log if line.kind == "statement"]
    moves = sum(
        s for s, body in zip(sizes, said, strict=True) if isinstance(body, Point | Mismatch | Evidence)
    )
    assert sum(found.accuser_bytes for found in disputes(kind)) == moves
    lists = sum(s for s, body in zip(sizes, said, strict=True) if isinstance(body, Answer | Trace | NodeList))
    assert 0 < max(found.accused_bytes for found in disputes(kind)) <= lists


def test_a_node_is_named_by_its_number_in_the_program() -> None:
    world, (found, *_) = played("accuser"), disputes("accuser")
    program = ToyExecutor().program(program_of(world.state.manifest, Place.STEP))
    assert found.node is not None
    node = program.nodes[found.node - first_node(program)]
    assert found.operator is not None
    assert found.operator.startswith(node.operator)
    assert [source.value for source in found.inputs] == list(dict.fromkeys(map(int, node.inputs)))
