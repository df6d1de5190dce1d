"""What evidence may bring: the blocks that the judged number reads, each proven, none twice, none for nothing."""

import dataclasses
import struct
from collections.abc import Callable

import pytest

from simulator.toy import PROGRAMS, minimal
from verification import merkle
from verification.claims import Judged, Value, word_of
from verification.digest import ZERO, tagged
from verification.errors import BadEvidence, Unavailable, UserError
from verification.grid import open_blocks
from verification.manifest import Place
from verification.narrowing import Tracing
from verification.operators import ARITHMETIC
from verification.program import VERSION, Node, Output, Port, ProgramHead
from verification.referee import Execution, Reader, judge, result_of
from verification.staking import check_manifest
from verification.statements import OpenedInput
from verification.tensors import Tensor, bundle_digest, tensor_digest
from verification.units import Count, Digest

ROWS, WIDTH = 3, 2050
SHAPE = (Count(ROWS), Count(WIDTH))


def integers(numbers: list[int]) -> bytes:
    """Return int64 bytes."""
    return struct.pack(f"<{len(numbers)}q", *numbers)


LEFT = Tensor("int64", SHAPE, integers(list(range(ROWS * WIDTH))))
RIGHT = Tensor("int64", (Count(WIDTH),), integers([7 * i for i in range(WIDTH)]))
DIGESTS = [tensor_digest(LEFT), tensor_digest(RIGHT)]
HEAD = ProgramHead(
    VERSION, ARITHMETIC, "inner", (Port("left", "int64", SHAPE), Port("right", "int64", RIGHT.shape)),
    (Output("sum", Count(2)), Output("right", Count(1))), Count(0), Count(1),
)  # fmt: skip
NODE = Node("add", (Count(0), Count(1)), (), "int64", SHAPE)
RESULT = result_of(HEAD, 2, NODE, HEAD.inputs)
TRACING = Tracing(ZERO, 2, 1, ZERO, ZERO, 0, 1, (), (), None)
EXECUTION = Execution(Place.STEP, ZERO, ZERO, bundle_digest(DIGESTS))
INDEX = WIDTH + 1030
"""A number of row 1, in that row's second block."""

CLAIM = Value(INDEX, (), INDEX + 7 * 1030)


def opened(value: int, row: int, block: int) -> OpenedInput:
    """Return a block of one of the inputs."""
    path = merkle.path("bundle", DIGESTS, value)
    return OpenedInput(Count(value), path, open_blocks((LEFT, RIGHT)[value], [(row, block)]))


EVIDENCE = (opened(0, 1, 1), opened(1, 0, 1))


def judged(evidence: tuple[OpenedInput, ...], claim: Judged = CLAIM) -> int | None:
    """Return what the law finds in place of a claim."""

    def none(number: int) -> Digest:
        raise AssertionError("the program has no constants")

    return judge(claim, RESULT, Reader(EXECUTION, HEAD, TRACING, NODE, RESULT, none, evidence))


def test_the_law_reads_what_was_brought() -> None:
    assert judged(EVIDENCE) == CLAIM.claimed == word_of("int64", INDEX + 7 * 1030)
    assert judged(EVIDENCE, dataclasses.replace(CLAIM, claimed=5)) == CLAIM.claimed
    assert judged(EVIDENCE[::-1]) == CLAIM.claimed


def left(change: Callable[[OpenedInput], OpenedInput]) -> tuple[OpenedInput, ...]:
    """Return the evidence with another first input."""
    return change(EVIDENCE[0]), EVIDENCE[1]


def of_block(**fields: object) -> Callable[[OpenedInput], OpenedInput]:
    """Return what alters fields of an input's block."""

    def change(part: OpenedInput) -> OpenedInput:
        (block,) = part.blocks
        return dataclasses.replace(part, blocks=(dataclasses.replace(block, **fields),))  # type: ignore[arg-type]

    return change


OTHER = tagged("other")
(BLOCK,) = EVIDENCE[0].blocks
CASES = {
    "missing": (EVIDENCE[:1], "lacks number 1030 of value 1"),
    "nothing": ((), "lacks number"),
    "an input twice": ((*EVIDENCE, EVIDENCE[0]), "brings an input twice"),
    "a block twice": (left(lambda part: dataclasses.replace(part, blocks=part.blocks * 2)), "brings a block twice"),
    "a block too many": (
        left(lambda part: dataclasses.replace(part, blocks=(*part.blocks, *opened(0, 2, 0).blocks))),
        "brings what the number does not read",
    ),
    "another row's block": (left(lambda part: opened(0, 2, 1)), "lacks number"),
    "another row's block in its place": (
        left(of_block(data=opened(0, 2, 1).blocks[0].data)), "does not open the agreed digest",
    ),
    "another place": (left(of_block(row=Count(2))), "path is too long|does not open the agreed digest"),
    "a place outside": (left(of_block(block=Count(3))), "index 3 is outside"),
    "altered": (left(of_block(data=BLOCK.data[:-1] + b"\1")), "does not open the agreed digest"),
    "cut short": (left(of_block(data=BLOCK.data[:-8])), "does not open the agreed digest"),
    "no path in the row": (left(of_block(in_row=())), "path is too short"),
    "a longer path": (left(of_block(in_tensor=(*BLOCK.in_tensor, OTHER))), "path is too long"),
    "the path of another tree": (left(of_block(in_row=BLOCK.in_tensor[:1] * 2)), "does not open the agreed digest"),
    "another bundle": (left(lambda part: dataclasses.replace(part, path=(OTHER,))), "does not open the agreed"),
    "no blocks": (left(lambda part: dataclasses.replace(part, blocks=())), "do not belong to one tensor"),
    "no input": (left(lambda part: dataclasses.replace(part, value=Count(5))), "value 5 is no input of the node"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_other_evidence_is_refused(case: str) -> None:
    evidence, why = CASES[case]
    with pytest.raises(BadEvidence, match=why):
        judged(evidence)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"operator": "conjure"}, "unknown operator 'conjure'"),
        ({"inputs": (Count(0),)}, "takes 2 inputs, got 1"),
        ({"attributes": (("dim", (1,)),)}, "takes attributes"),
        ({"shape": (Count(4), Count(WIDTH))}, "is none of the arithmetic"),
        ({"dtype": "float32"}, "is none of the arithmetic"),
    ],
)
def test_a_node_that_is_none_is_refused_by_number(change: dict[str, object], why: str) -> None:
    node = dataclasses.replace(NODE, **change)  # type: ignore[arg-type]
    with pytest.raises(BadEvidence, match=rf"node 2.*{why}"):
        result_of(HEAD, 2, node, [HEAD.inputs[source] for source in node.inputs])


def test_another_arithmetic_is_told_from_a_forgery() -> None:
    with pytest.raises(Unavailable, match="judges arithmetic 'exact-14/1', not 'exact-0/1'"):
        result_of(dataclasses.replace(HEAD, arithmetic="exact-0/1"), 2, NODE, HEAD.inputs)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"operator": "conjure"},
            r"the law cannot judge the inner step program: node \d+: unknown operator 'conjure'",
        ),
        ({"shape": (Count(9),)}, r"the law cannot judge the inner step program: node \d+ \(\w+\) is none of"),
    ],
)
def test_a_program_that_the_law_cannot_judge_is_refused_before_anyone_stakes(
    change: dict[str, object], why: str
) -> None:
    manifest = minimal()
    programs = {place: PROGRAMS[manifest.programs.at(place).digest] for place in Place}
    check_manifest(manifest, programs, 1 << 20, accept_unsound=True)
    inner = programs[Place.STEP]
    node = dataclasses.replace(inner.nodes[2], **change)  # type: ignore[arg-type]
    programs[Place.STEP] = dataclasses.replace(inner, nodes=(*inner.nodes[:2], node, *inner.nodes[3:]))
    with pytest.raises(UserError, match=why):
        check_manifest(manifest, programs, 1 << 20, accept_unsound=True)
