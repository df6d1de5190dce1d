"""The way down of a dispute in a report: every list with what was contested, and the last step for pencil and paper.

Disputes are played over real operators (`tests.one_number`), so what the report tells is what the law did.
"""

import functools
import math

import pytest

from tests.one_number import (
    DIGEST,
    ENDLESS,
    HUGE,
    INPUTS,
    NONE,
    PRODUCT,
    RATIO,
    SCALED,
    SHIFTED,
    SUM,
    ZEROS,
    Faults,
    Library,
    Played,
    played,
)
from verification.causes import Cause
from verification.report.build import build_report
from verification.report.descent import descents
from verification.report.schema import DisputeReport, JudgedReport
from verification.report.words import last_step, reckoning, way_down
from verification.signed import open_statement
from verification.statements import Evidence, Mismatch, Point
from verification.tensors import Tensor
from verification.units import Millis

FAULTS: dict[str, tuple[Faults, Faults, tuple[Tensor, ...]]] = {
    "number": (Faults({SCALED: (200, 3.5)}), NONE, INPUTS),
    "total": (Faults({PRODUCT: (7, 3.5)}), NONE, INPUTS),
    "term": (Faults(misreads={PRODUCT: (0, 200, 5)}), NONE, INPUTS),
    "exponent": (Faults(misreads={SUM: (0, 200, 500.0)}), NONE, INPUTS),
    "output": (Faults(output=1), NONE, INPUTS),
    "fails not": (Faults(misreads={SUM: (0, 200, math.inf)}), NONE, INPUTS),
    "hides failure": (Faults({RATIO: (0, 1.0)}), NONE, ZEROS),
    "hides infinity": (Faults({SHIFTED: (0, 1.0)}), NONE, HUGE),
    "right": (NONE, Faults({SUM: (1, 3.5)}), INPUTS),
    "rightly fails": (NONE, Faults({SUM: (0, 1.0)}), ENDLESS),
}


@functools.cache
def ended(name: str) -> Played:
    """Return a dispute about such a fault, played to its end."""
    return played(*FAULTS[name])


@functools.cache
def told(name: str) -> DisputeReport:
    """Return what the report tells of it."""
    game = ended(name)
    ways = descents(game.state, game.log, Library().program)
    return build_report(game.state, game.effects, {}, Millis(0), ways).disputes[0]


def judged(name: str) -> JudgedReport:
    """Return its last step."""
    found = told(name).judged
    assert found is not None
    return found


def test_every_list_says_what_was_contested_until_64_terms_are_left() -> None:
    assert [(part.what, part.entries, part.contested) for part in told("term").lists] == [
        ("results of nodes 6 to 10", 5, "node 6"),
        ("rows 0 to 2 of node 6's result", 3, "row 1"),
        ("numbers 5 to 9 of node 6's result", 5, "number 5"),
        ("all totals of number 5", 1, "total 1"),
        ("parts of total 1 of number 5, terms 0 to 129", 3, "terms 64 to 127"),
    ]
    assert told("term").program == DIGEST.hex()


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("total", ("all totals of number 7", 1, "what they give")),
        ("fails not", ("where node 8 fails: number 1, term 70 of its total 1", 1, "that it fails there")),
        ("output", ("results of nodes 6 to 10", 5, "output ratio")),
    ],
)
def test_the_last_list_says_what_was_contested_of_it(name: str, last: tuple[str, int, str]) -> None:
    part = told(name).lists[-1]
    assert (part.what, part.entries, part.contested) == last


LAST_STEPS = {
    "number": {
        "number": "200 of [3, 130] (row 1, column 70)",
        "claimed": "3.5 (0x40600000)",
        "is": "0.75 (0x3f400000)",
    },
    "total": {
        "number": "7 of [3, 5] (row 1, column 2)",
        "totals": "95",
        "claimed": "3.5 (0x40600000)",
        "is": "1.13248825e-05 (0x373e0000)",
    },
    "term": {
        "number": "5 of [3, 5] (row 1, column 0)",
        "terms": "64 to 127 of 130, added up",
        "claimed": "-1115",
        "is": "-982",
    },
    "exponent": {
        "number": "1 of [3, 1] (row 1, column 0)",
        "terms": "64 to 127 of 130, the greatest of them, for total 1 of 2",
        "claimed": "9",
        "is": "1",
    },
    "fails not": {
        "number": "1 of [3, 1] (row 1, column 0)",
        "terms": "70 of 130, by itself, for total 1 of 2",
        "claimed": "no value: the step ends there",
        "is": "0",
    },
    "hides failure": {
        "number": "0 of [3, 5] (row 0, column 0)",
        "claimed": "1 (0x3f800000)",
        "is": "no value: the step ends there",
    },
    "hides infinity": {
        "number": "0 of [3, 5] (row 0, column 0)",
        "claimed": "1 (0x3f800000)",
        "is": "infinity (0x7f800000)",
    },
    "right": {
        "number": "1 of [3, 1] (row 1, column 0)",
        "totals": "1, 81979586966978560",
        "claimed": "145.625 (0x4311a000)",
        "is": "145.625 (0x4311a000)",
    },
    "rightly fails": {
        "number": "0 of [3, 1] (row 0, column 0)",
        "terms": "7 of 130, by itself, for total 1 of 2",
        "claimed": "no value: the step ends there",
        "is": "no value: the step ends there",
    },
}


@pytest.mark.parametrize("name", LAST_STEPS)
def test_the_last_step_names_the_number_what_was_claimed_and_what_is_right(name: str) -> None:
    assert dict(last_step(judged(name))) == LAST_STEPS[name]
    assert ended(name).dispute.cause is not Cause.WRONG_OUTPUT


def test_terms_add_up_with_pencil_and_paper() -> None:
    """Who has only the report reckons each product and their sum again."""
    found = judged("term")
    assert [line.term for line in found.lines] == list(range(64, 128))
    for line in found.lines:
        left, right = (int(read.number) for read in line.reads)
        assert line.text == f"{left} * {right}"
        assert int(line.gives) == left * right
        assert [(read.value, read.at) for read in line.reads] == [(0, (1, line.term)), (2, (line.term, 0))]
    assert sum(int(line.gives) for line in found.lines) == int(found.right) != int(found.claimed)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("number", ["1.5 * 0.5 = 0.75 (0x3f400000), from 4[1, 70], 5[0]"]),
        (
            "total",
            [
                "rule: The integer sum times 2^(left exponent + right exponent - 2 (bits - 1)), rounded once.",
                "with: bits = 14; n = 130",
                "product(0, 3) after 95 = 1.13248825e-05 (0x373e0000), from 1[1, 0], 3[0, 2]",
            ],
        ),
        (
            "fails not",
            [
                "rule: The e with 2^(e-1) <= |x| < 2^e of the k-th number, -148 for zero.",
                "with: dims = 1; keepdim = 1; n = 130",
                "term 70: term(0.75) = 0, from 7[1, 70]",
            ],
        ),
        (
            "hides failure",
            [
                "rule: IEEE division. A zero divisor ends the step, since 1 / -0 and 1 / +0 would differ.",
                "3.1113625e-05 / 0 = no value: the step ends there, from 6[0, 0], 8[0, 0]",
            ],
        ),
    ],
)
def test_the_reckoning_follows_the_definition(name: str, lines: list[str]) -> None:
    assert reckoning(judged(name)) == lines


def test_a_node_shows_what_it_reads_and_what_was_brought_of_it() -> None:
    trace, port = "an earlier node, by a path in the accused's own trace", "the working state before"
    assert [(one.value, one.name, one.origin, one.tensor, one.bytes) for one in told("term").inputs] == [
        (0, "left", port, "int16[3, 130], 1 of its blocks", 260),
        (1, "left exponent", port, "int16[3, 1]", 0),
        (2, "right", port, "int16[130, 5], 64 of its blocks", 640),
        (3, "right exponent", port, "int16[1, 5]", 0),
    ]
    assert [(one.origin, one.bytes) for one in told("number").inputs] == [
        (port, 520),
        ("the program itself", 0),
    ]
    assert [one.origin for one in told("hides failure").inputs] == [trace, trace]


@pytest.mark.parametrize("name", FAULTS)
def test_the_bytes_are_those_of_the_statements(name: str) -> None:
    game, found = ended(name), told(name)
    sizes = {data: open_statement(data).body for data in game.statements}
    challengers = sum(
        len(data) for data, body in sizes.items() if isinstance(body, Point | Mismatch | Evidence)
    )
    assert found.accuser_bytes == challengers
    assert found.accused_bytes == sum(part.bytes for part in found.lists)
    assert len("\n".join(way_down(found))) < 20_000


def test_an_output_is_told_by_digests_and_not_by_a_number() -> None:
    found = told("output")
    assert found.judged is None
    assert found.claimed_digest != found.computed_digest != ""
    assert found.reason == "an output is not what its own trace gives"


@pytest.mark.parametrize("name", FAULTS)
def test_every_move_is_told(name: str) -> None:
    moves = [move.what for move in told(name).moves]
    assert moves[0].startswith("listed ")
    assert moves[-1].startswith("rules innocent" if "right" in name else "rules guilty")
    if name == "term":
        assert moves[4:9] == [
            "showed 20 B of its result",
            "contests number 5 of product float32[3, 5]",
            "listed 1 total of its number",
            "contests terms 0 to 129 of its number",
            "listed 3 parts of a total",
        ]
