"""Where a program's inputs come from: the order that the law goes by fits the names that programs give."""

import re

import pytest

from simulator.toy import ToyLibrary, minimal
from verification.layout import (
    SUMMARY,
    Home,
    Origin,
    contribution_width,
    origin_of,
    per_parameter,
    summary_of,
)
from verification.manifest import Place
from verification.program import Program, program_head

SLOTS = 3
MANIFEST = minimal(slots=SLOTS)


def program(place: Place) -> Program:
    """Return the toy's program at a place."""
    return ToyLibrary().program(MANIFEST.programs.at(place).digest)


def origins(place: Place) -> dict[str, Origin]:
    """Return the origin of each input of the toy's program by the input's name."""
    head = program_head(program(place))
    return {port.name: origin_of(place, head, number) for number, port in enumerate(head.inputs)}


def test_every_input_of_the_toy_comes_from_where_its_name_says() -> None:
    assert origins(Place.PROLOGUE) == {
        "param": Origin(Home.START, 0, 2),
        "momentum": Origin(Home.START, 1, 2),
        "data": Origin(Home.DATA),
        "index": Origin(Home.INDEX),
        "round": Origin(Home.ROUND),
    }
    assert origins(Place.STEP) == {
        name: Origin(Home.WORKING, index, 3) for index, name in enumerate(("param", "step", "tokens"))
    }
    assert origins(Place.EPILOGUE) == {
        "start": Origin(Home.START, 0, 2),
        "momentum": Origin(Home.START, 1, 2),
        "param": Origin(Home.WORKING, 0, 3),
        "step": Origin(Home.WORKING, 1, 3),
        "tokens": Origin(Home.WORKING, 2, 3),
    }


def test_contributions_stand_slot_after_slot_before_the_weights() -> None:
    found = origins(Place.OUTER)
    assert found["weights"] == Origin(Home.WEIGHTS)
    assert [found[name] for name in ("param", "momentum")] == [Origin(Home.START, i, 2) for i in (0, 1)]
    parts = [(re.fullmatch(r"(\D+)(\d+)", name), origin) for name, origin in found.items()]
    told = {(name[1], int(name[2])): origin for name, origin in parts if name is not None}
    assert len(told) == (SLOTS + 1) * contribution_width(2)
    for (kind, slot), origin in told.items():
        index = ("delta", *SUMMARY).index(kind)
        assert origin == Origin(Home.CONTRIBUTION, index, 3, slot)


def test_a_contribution_ends_in_what_the_epilogue_calls_so() -> None:
    names = [output.name for output in program(Place.EPILOGUE).outputs]
    assert [summary_of(names, name) for name in SUMMARY] == list(SUMMARY)
    assert per_parameter(names) == ["delta"]
    for few in (names[:0], names[:1]):
        with pytest.raises(ValueError):
            summary_of(few, "norm")
