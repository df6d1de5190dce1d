"""Any file of evidence ends in a finding or in one line, after work in proportion to its bytes. (SPEC.md 6.11)"""

import dataclasses
import sys
from types import FrameType
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cast import Worker
from simulator.toy import minimal
from tests.simulation.test_evidence import CASES, files_of, world_of
from verification import codec, merkle
from verification.content import chunks_root, content_address
from verification.digest import ZERO, tagged
from verification.errors import BadEvidence, Unavailable, Violation
from verification.evidence.file import FORMAT, Conviction, File, Finding, Kind, ProgramPart, pack, unpack
from verification.evidence.retrial import verify
from verification.manifest import BundleRef, Place, ProgramRef, run_id
from verification.program import (
    VERSION,
    Node,
    Output,
    Port,
    Program,
    digest_of_parts,
    digest_of_program,
    node_leaves,
    program_head,
    roots_of,
)
from verification.signed import Signed, Statement, make_statement, sign_statement
from verification.statements import Commit, Spoiled
from verification.units import Count, Digest, Round

ODD: list[Any] = [
    0,
    1,
    -1,
    2**31,
    2**53,
    2**63,
    "",
    "x" * 300,
    "silence",
    b"",
    bytes(32),
    True,
    None,
    (),
    (0,),
    ((),),
]
"""What may stand where something else should."""

MORE: dict[type, Any] = {int: 1, bytes: b"\0", str: "x", tuple: ((),)}


def places(tree: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Return the path to every part of a message."""
    below = (
        [p for i, part in enumerate(tree) for p in places(part, (*path, i))]
        if isinstance(tree, tuple)
        else []
    )
    return [path, *below]


def put(tree: Any, path: tuple[int, ...], draw: Any) -> Any:
    """Return a message with the part at a path dropped, said twice, exchanged, or replaced by something odd."""
    if len(path) > 1:
        first = path[0]
        return (*tree[:first], put(tree[first], path[1:], draw), *tree[first + 1 :])
    at = path[0]
    odd, part = draw(st.sampled_from(ODD)), tree[at]
    how = draw(st.sampled_from(["odd", "more", "drop", "twice", "exchange"]))
    if how == "more" and type(part) in MORE:
        part = part + MORE[type(part)]
    ways = {"drop": (), "twice": (part, part), "exchange": (tree[at - 1],), "more": (part,)}
    return (*tree[:at], *ways.get(how, (odd,)), *tree[at + 1 :])


def plain(data: bytes) -> Any:
    """Return a message as nested tuples."""
    return msgpack.unpackb(data, raw=False, use_list=False)


def changed(data: bytes, secret: bytes, draw: Any) -> bytes:
    """Return a file with a part of its body, or of a signed statement in it, changed; digest and signature fit."""
    tree = plain(codec.decode(File, data, 1 << 28).body)
    statements = next(
        i for i, part in enumerate(tree) if part and isinstance(part, tuple) and is_signed(part[0])
    )
    if draw(st.booleans()):
        which = draw(st.integers(0, len(tree[statements]) - 1))
        said = codec.decode(Signed, tree[statements][which], 1 << 28).statement
        statement = codec.decode(Statement, said, 1 << 28)
        body = plain(statement.body)
        if body:
            path = draw(st.sampled_from(places(body)[1:]))
            statement = dataclasses.replace(statement, body=packed(put(body, path, draw)))
        words = (*tree[statements][:which], sign_statement(secret, statement), *tree[statements][which + 1 :])
        tree = (*tree[:statements], words, *tree[statements + 1 :])
    else:
        tree = put(tree, draw(st.sampled_from(places(tree)[1:])), draw)
    body = packed(tree)
    try:
        return fitted(codec.decode(Conviction, body, 1 << 28), secret)
    except Violation:
        return codec.encode(File(FORMAT, body, tagged("evidence", body)))


def fitted(case: Conviction, secret: bytes) -> bytes:
    """Return a file whose manifest names the program that it brings, and whose statements are of that run."""
    manifest, part = case.manifest, case.program
    if part is not None and isinstance(case.place, Place):
        digest = digest_of_parts(part.head, part.constants_root, part.nodes_root)
        name = dict(zip(Place, ("prologue", "inner", "epilogue", "outer"), strict=True))[case.place]
        programs = dataclasses.replace(manifest.programs, **{name: ProgramRef(digest, ZERO)})
        manifest = dataclasses.replace(manifest, programs=programs)
    return pack(
        dataclasses.replace(
            case,
            manifest=manifest,
            statements=tuple(
                resigned(data, case.chain, run_id(manifest, case.chain), secret) for data in case.statements
            ),
        )
    )


def resigned(data: bytes, chain: str, run: Digest, secret: bytes) -> bytes:
    """Return a statement as of another run; what is none stays as it is."""
    try:
        statement = codec.decode(Statement, codec.decode(Signed, data, 1 << 28).statement, 1 << 28)
    except Violation:
        return data
    return sign_statement(secret, dataclasses.replace(statement, chain=chain, run=run))


def is_signed(part: Any) -> bool:
    """Return whether a part is a signed statement."""
    try:
        codec.decode(Signed, part, 1 << 28)
    except (Violation, TypeError):
        return False
    return True


def packed(tree: Any) -> bytes:
    """Return a message's bytes; an integer that no message has becomes text."""
    return bytes(msgpack.packb(tree, use_bin_type=True, default=str))


@pytest.mark.slow
@given(st.sampled_from(sorted(CASES)), st.data())
@settings(max_examples=400, deadline=None)
def test_no_file_ends_its_reader(name: str, data: st.DataObject) -> None:
    """Every part of every kind of file, also inside what is signed."""
    files = files_of(name)
    original = files[data.draw(st.sampled_from(sorted(files)))]
    told = ""
    try:
        verify(changed(original, world_of(name).actors[0].secret, data.draw))
    except (Violation, Unavailable) as refusal:
        told = str(refusal)
    assert "\n" not in told


@pytest.mark.parametrize(("name", "field"), [("wrong-node", "nodes"), ("wrong-end", "nodes")])
def test_a_part_of_the_program_that_is_brought_twice_is_refused(name: str, field: str) -> None:
    """It ended `verify` with a traceback."""
    conviction = unpack(next(iter(files_of(name).values())))
    assert conviction.program is not None
    parts = getattr(conviction.program, field)
    assert parts
    program = dataclasses.replace(conviction.program, **{field: (*parts, parts[0])})
    with pytest.raises(BadEvidence, match=r"brings value \d+ of the program twice"):
        verify(pack(dataclasses.replace(conviction, program=program)))


def wide(outputs: int) -> bytes:
    """Return a file about a contribution of as many tensors, each made by a node of its own."""
    worker, scalar = Worker("w0"), ()
    nodes = tuple(Node("add", (Count(0), Count(0)), (), "int64", scalar) for _ in range(outputs))
    results = tuple(Output(f"o{number}", Count(1 + number)) for number in range(outputs))
    program = Program(VERSION, "toy/1", "epilogue", (Port("p", "int64", scalar),), (), nodes, results)
    plain_manifest = minimal()
    programs = dataclasses.replace(
        plain_manifest.programs, epilogue=ProgramRef(digest_of_program(program), ZERO)
    )
    manifest = dataclasses.replace(plain_manifest, programs=programs)
    shown = Spoiled(Round(0), worker.address, Count(1), chunks_root(b"x"), b"")
    ref = BundleRef(ZERO, content_address(shown.size, shown.chunks))
    commit = Commit(Round(0), ZERO, ZERO, ref, Count(0), ZERO)
    said = tuple(
        sign_statement(worker.secret, make_statement("toy", run_id(manifest, "toy"), Digest(ZERO), body))
        for body in (commit, shown)
    )
    leaves, roots = node_leaves(program), roots_of(program)
    brought = tuple((Count(1 + n), node, merkle.path("node", leaves, n)) for n, node in enumerate(nodes))
    part = ProgramPart(program_head(program), *roots, brought, ())
    return pack(
        Conviction(
            manifest,
            "toy",
            Kind.SPOILED,
            worker.address,
            Round(0),
            Place.EPILOGUE,
            None,
            said,
            (),
            part,
            None,
            (),
            None,
            None,
            None,
        )
    )


def lines_run(data: bytes) -> tuple[int, Finding]:
    """Return how many lines of our own a reader of a file executes, and what it finds."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if "/verification/" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        finding = verify(data)
    finally:
        sys.settrace(before)
    return count, finding


def test_a_file_costs_its_reader_work_in_proportion() -> None:
    """208 kB took 6.5 s, and four times as long for twice as much: each output searched all nodes for its own."""
    small, large = wide(60), wide(480)
    (few, found), (many, _) = lines_run(small), lines_run(large)
    assert found.is_proven
    assert many / few < 1.2 * len(large) / len(small)
