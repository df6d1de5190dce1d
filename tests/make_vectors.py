"""Writes the frozen vectors of disputes: `python -m tests.make_vectors`. Made once, reviewed, and then left alone.

Each file in tests/vectors/disputes is named after the attack and holds the bytes, what checks them, and what it must
say: the error's class, or "guilty" for bytes that convict their author.
"""

import dataclasses
import functools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from simulator.cast import Actor, Verifier, Worker
from simulator.toy import BrokenEngine, ToyLibrary, minimal
from simulator.world import World
from tests import law_vectors
from trainer.rounds.cheats import conduct_named
from verification import codec, law, merkle
from verification.adversaries import AnswerHonestly, Equivocate
from verification.digest import tagged
from verification.evidence.collect import convictions
from verification.evidence.file import FORMAT, Conviction, File, pack, unpack
from verification.manifest import Place
from verification.signed import Signed, Statement, make_statement, open_statement, sign_statement
from verification.statements import Answer, Block, Body, NodeList, Point, ResultList, Trace
from verification.units import MILLION, Count, Digest, Round

FOLDER = Path(__file__).parent / "vectors" / "disputes"
WRONG = tagged("wrong")
Vector = tuple[str, str, str, bytes]
"""(attack, what checks it, expected error, bytes)"""


@functools.cache
def played(name: str) -> tuple[World, bytes]:
    """Return a run with one cheat, and its first file of evidence."""
    cheats: dict[str, Callable[[], Actor]] = {
        "output": lambda: Worker("cheat", conduct=conduct_named("skip-steps", 1)),
        "data": lambda: Worker("cheat", conduct=conduct_named("wrong-data", 1)),
        "list": lambda: Worker("cheat", AnswerHonestly(), conduct=conduct_named("skip-steps", 1)),
        "contradiction": lambda: Worker("cheat", Equivocate()),
    }
    if name in cheats:
        cheat = cheats[name]()
    else:
        cheat = Worker("cheat")
        cheat.engine = BrokenEngine("inner", 3)
    honest = [Worker("w0"), Worker("w1", speed=60), Verifier("v0"), Verifier("v1")]
    world = World(minimal(audit_rate=MILLION, rounds=3), [cheat, *honest], random.Random(4))
    world.run()
    lines = [line for line in world.ledger.log if line.kind == "statement"]
    effects = [effect for line in world.ledger.log for effect in line.effects]
    found = convictions(world.state, [line.data for line in lines], effects, ToyLibrary().program)
    return world, pack(next(iter(found.values())))


def changed(name: str, **changes: Any) -> bytes:
    """Return a file with fields changed and its digest made anew."""
    return pack(dataclasses.replace(unpack(played(name)[1]), **changes))


def rewritten(name: str, kind: type, change: Callable[[Any], Body]) -> bytes:
    """Return a file in which the cheat signed another body of a kind."""
    world, data = played(name)
    conviction: Conviction = unpack(data)
    cheat = world.actors[0]
    statements = []
    for signed in conviction.statements:
        body = open_statement(signed).body
        if isinstance(body, kind):
            head = law.head_of(world.state, conviction.round)
            again = make_statement(world.state.chain, world.state.run, head, change(body))
            signed = sign_statement(cheat.secret, again)
        statements.append(signed)
    return pack(dataclasses.replace(conviction, statements=tuple(statements)))


def signed_by(name: str, other: bytes, run: Digest | None = None) -> bytes:
    """Return a file whose lists another key signed, or that are signed for another run."""
    conviction = unpack(played(name)[1])
    statements = []
    for signed in conviction.statements:
        said = open_statement(signed)
        statement = said.statement
        if isinstance(said.body, Answer | Trace):
            signed = sign_statement(other, dataclasses.replace(statement, run=run or statement.run))
        statements.append(signed)
    return pack(dataclasses.replace(conviction, statements=tuple(statements)))


def paths() -> Iterator[Vector]:
    """Attacks on paths: a JSON-like tuple of what `merkle.verify_path` takes."""
    leaves = [tagged("leaf", bytes([n])) for n in range(7)]
    root = merkle.root("trace", leaves)

    def packed(leaf: bytes, index: int, count: int, path: tuple[Digest, ...]) -> bytes:
        return codec.encode(("trace", root, leaf, index, count, path))

    good = merkle.path("trace", leaves, 3)
    pair = tagged("trace/node", *(tagged("trace/leaf", leaf) for leaf in leaves[2:4]))
    doubled = [*leaves, leaves[-1]]
    yield "right-path", "path", "", packed(leaves[3], 3, 7, good)
    yield "wrong-index", "path", "BadEvidence", packed(leaves[3], 2, 7, good)
    yield "index-outside", "path", "BadEvidence", packed(leaves[3], 7, 7, good)
    yield "truncated-path", "path", "BadEvidence", packed(leaves[3], 3, 7, good[:-1])
    yield "path-too-long", "path", "BadEvidence", packed(leaves[3], 3, 7, (*good, good[0]))
    yield "leaf-passed-as-node", "path", "BadEvidence", packed(pair, 1, 4, good[1:])
    yield "duplicated-leaf", "path", "BadEvidence", packed(leaves[-1], 7, 8, merkle.path("trace", doubled, 7))
    yield "another-leaf", "path", "BadEvidence", packed(leaves[4], 3, 7, good)


def statements() -> Iterator[Vector]:
    """Attacks on the envelope of a dispute's statements."""
    world, _ = played("output")
    cheat, chain, run = world.actors[0], world.state.chain, world.state.run
    head = law.head_of(world.state, Round(1))

    def signed(said: Body, **changes: Any) -> bytes:
        statement: Statement = dataclasses.replace(make_statement(chain, run, head, said), **changes)
        return sign_statement(cheat.secret, statement)

    answer = Answer(Round(1), Count(4), Count(8), (WRONG,))
    trace = Trace(Round(1), Place.STEP, Count(5), None, (WRONG,), (WRONG,))
    good = signed(trace)
    envelope = codec.decode(Signed, good)
    high = envelope.signature[:32] + b"\xff" * 32 + envelope.signature[64:]
    yield "right-statement", "statement", "", good
    yield "trailing-bytes", "statement", "Malformed", good + b"\x00"
    yield "cut-short", "statement", "Malformed", good[:-1]
    yield "another-slot", "statement", "Malformed", signed(answer, slot="Answer/0/4")
    yield "another-round", "statement", "Malformed", signed(trace, round=Round(2))
    yield (
        "list-filed-as-point",
        "statement",
        "Malformed",
        signed(Point(Count(0), Count(0), Count(1)), kind="Answer"),
    )
    yield "unknown-kind", "statement", "Malformed", signed(trace, kind="Traces")
    yield (
        "wide-integer",
        "statement",
        "Malformed",
        signed(trace, body=codec.encode(trace).replace(b"\x05", b"\xcc\x05", 1)),
    )
    yield "high-s-signature", "statement", "BadSignature", codec.encode(Signed(envelope.statement, high))  # type: ignore[arg-type]
    short = codec.encode(("inner step", 5)) + b""
    yield "fields-missing", "statement", "Malformed", signed(trace, body=short)


def evidence() -> Iterator[Vector]:
    """Attacks on files of evidence, and the real ones beside them."""
    for name in ("output", "data", "node", "list", "contradiction"):
        yield f"right-{name}", "evidence", "guilty", played(name)[1]
    yield "list-that-does-not-fold", "evidence", "guilty", played("list")[1]
    yield (
        "empty-list",
        "evidence",
        "BadEvidence",
        rewritten("output", Answer, lambda body: dataclasses.replace(body, entries=())),
    )
    yield (
        "list-of-another-interval",
        "evidence",
        "BadEvidence",
        rewritten("output", Answer, lambda body: dataclasses.replace(body, low=Count(0), high=Count(4))),
    )
    yield (
        "trace-of-another-step",
        "evidence",
        "BadEvidence",
        rewritten("output", Trace, lambda body: dataclasses.replace(body, step=Count(12))),
    )
    yield "another-key", "evidence", "BadEvidence", signed_by("output", b"\x09" * 32)
    yield (
        "another-runs-signature",
        "evidence",
        "BadEvidence",
        signed_by("output", played("output")[0].actors[0].secret, WRONG),
    )
    yield "another-manifest", "evidence", "BadEvidence", changed("output", manifest=minimal(rounds=9))
    yield (
        "honest-list-accused",
        "evidence",
        "BadEvidence",
        changed("output", kind="list", mismatch=None, node=None),
    )
    yield from within_a_node()
    yield "record-left-out", "evidence", "BadEvidence", changed("data", record=None)
    yield (
        "another-node",
        "evidence",
        "BadEvidence",
        changed("node", node=Count((unpack(played("node")[1]).node or 0) + 1)),
    )
    yield "node-list-out-of-nowhere", "evidence", "BadEvidence", _with_node_list()
    body = codec.decode(File, played("node")[1], 1 << 24).body
    yield "digest-not-renewed", "evidence", "BadEvidence", codec.encode(File(FORMAT, body, WRONG))
    yield (
        "another-format",
        "evidence",
        "Malformed",
        codec.encode(File("proofswarm evidence/0", body, tagged("evidence", body))),
    )


def within_a_node() -> Iterator[Vector]:
    """Attacks on what a file brings below a node: blocks, paths, points and lists."""
    inputs = unpack(played("node")[1]).inputs
    (block, *_), path = inputs[0].blocks, inputs[0].path

    def with_block(**fields: Any) -> bytes:
        altered = dataclasses.replace(inputs[0], blocks=(dataclasses.replace(block, **fields),))
        return changed("node", inputs=(altered, *inputs[1:]))

    def without(kind: type) -> bytes:
        held = unpack(played("node")[1]).statements
        return changed(
            "node", statements=tuple(s for s in held if not isinstance(open_statement(s).body, kind))
        )

    bare = dataclasses.replace(inputs[0], path=path[1:])
    yield "input-without-path", "evidence", "BadEvidence", changed("node", inputs=(bare, *inputs[1:]))
    yield "input-missing", "evidence", "BadEvidence", changed("node", inputs=())
    yield "input-doubled", "evidence", "BadEvidence", changed("node", inputs=(*inputs, inputs[0]))
    yield "block-of-another-row", "evidence", "BadEvidence", with_block(row=Count(block.row + 1))
    yield "block-of-another-place", "evidence", "BadEvidence", with_block(block=Count(block.block + 1))
    yield (
        "block-altered",
        "evidence",
        "BadEvidence",
        with_block(data=bytes([block.data[0] ^ 1]) + block.data[1:]),
    )
    yield "block-cut-short", "evidence", "BadEvidence", with_block(data=block.data[:-1])
    yield "path-of-another-tree", "evidence", "BadEvidence", with_block(in_row=(*block.in_row, WRONG))
    yield "points-left-out", "evidence", "BadEvidence", changed("node", points=())
    yield "a-point-too-many", "evidence", "BadEvidence", changed("node", points=(Count(0),) * 9)
    yield "a-point-outside", "evidence", "BadEvidence", changed("node", points=(Count(2000),))
    yield "block-skipped", "evidence", "BadEvidence", without(Block)
    yield "rows-skipped", "evidence", "BadEvidence", without(ResultList)


def _with_node_list() -> bytes:
    world, data = played("output")
    conviction, cheat = unpack(data), world.actors[0]
    nodes = NodeList(conviction.round, Place.STEP, Count(7), Count(0), Count(4), (WRONG,))
    head = law.head_of(world.state, conviction.round)
    signed = sign_statement(cheat.secret, make_statement(world.state.chain, world.state.run, head, nodes))
    return pack(dataclasses.replace(conviction, statements=(*conviction.statements, signed)))


def main() -> None:
    """Write the vectors that are not there yet: what is frozen stays as it is."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not law_vectors.FOLDER.exists():
        law_vectors.write()
    for attack, check, error, data in (*paths(), *statements(), *evidence()):
        vector = {"attack": attack, "check": check, "expect": error, "data": data.hex()}
        file = FOLDER / f"{attack}.json"
        if not file.exists():
            file.write_text(json.dumps(vector, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
