"""Where a program's inputs come from, and which tensor of a bundle is what: nobody else counts. (SPEC.md 2.4)

Ports bear free names, so the law goes by their order, which the names below describe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from verification.manifest import Place
from verification.program import ProgramHead

T = TypeVar("T")

STATE = ("parameter", "momentum")
"""What a state holds of every parameter: first one kind for all of them, then the next."""

SUMMARY = ("norm", "loss")
"""What a contribution holds after one tensor for every parameter."""


class Home(Enum):
    """Where a program's input comes from."""

    START = "the round's start state"
    WORKING = "the working state before"
    CONTRIBUTION = "a contribution"
    DATA = "the data"
    INDEX = "the record index"
    ROUND = "the round's number"
    WEIGHTS = "the weights"
    TAKEN = "what another shard made in the same step"


PROLOGUE = (Home.DATA, Home.INDEX, Home.ROUND)
"""What a prologue reads after the state."""

MADE = (Home.INDEX, Home.ROUND, Home.WEIGHTS)
"""What the law makes itself: nobody brings it."""


@dataclass(frozen=True)
class Origin:
    """Tensor `index` of the `count` tensors of a bundle; `slot` tells contributions apart."""

    home: Home
    index: int = 0
    count: int = 1
    slot: int = 0


@dataclass(frozen=True)
class Held:
    """The part of the model that a shard's programs are about: the places of its `parameters` among `total`, and how
    many tensors its inner step takes from others and gives them. (SPEC.md 4.17)"""

    parameters: tuple[int, ...]
    total: int
    takes: int
    gives: int


def origin_of(place: Place, head: ProgramHead, number: int, held: Held | None = None) -> Origin:
    """Return where input `number` of the program at a place comes from; `held` is a shard's part of the model."""
    count = len(head.inputs)
    match place:
        case Place.STEP:
            state = count - (0 if held is None else held.takes)
            if held is not None and number >= state:
                return Origin(Home.TAKEN, number - state, held.takes)
            return Origin(Home.WORKING, number, state)
        case Place.PROLOGUE:
            state = count - len(PROLOGUE)
            return Origin(PROLOGUE[number - state]) if number >= state else _of_start(number, state, held)
        case Place.EPILOGUE:
            state = len(STATE) * (len(head.outputs) - len(SUMMARY))
            if number >= state:
                return Origin(Home.WORKING, number - state, count - state)
            return _of_start(number, state, held)
    state = len(head.outputs)
    if number < state:
        return Origin(Home.START, number, state)
    if number == count - 1:
        return Origin(Home.WEIGHTS)
    slot, index = divmod(number - state, contribution_width(state))
    return Origin(Home.CONTRIBUTION, index, contribution_width(state), slot)


def _of_start(number: int, state: int, held: Held | None) -> Origin:
    """Return the place in the whole start state of input `number` of the `state` that a program reads of it."""
    if held is None:
        return Origin(Home.START, number, state)
    kind, place = divmod(number, len(held.parameters))
    return Origin(Home.START, kind * held.total + held.parameters[place], len(STATE) * held.total)


def contribution_width(state: int) -> int:
    """Return how many tensors a contribution has where a state has `state`."""
    return state // len(STATE) + len(SUMMARY)


def joined(shares: Sequence[tuple[Sequence[int], Sequence[T]]]) -> list[T]:
    """Return a whole contribution's tensors, made of a crew's: of each shard the places of its parameters with what it
    contributed. Of the summaries the first one's stands for all: no outer step reads any. (SPEC.md 4.17)"""
    found = {place: tensor for places, share in shares for place, tensor in zip(places, share, strict=False)}
    return [*(found[place] for place in sorted(found)), *shares[0][1][-len(SUMMARY) :]]


def summary_of(contribution: Sequence[T], name: str) -> T:
    """Return the tensor of a contribution that SUMMARY names; raises ValueError when it has too few."""
    return dict(zip(SUMMARY, contribution[-len(SUMMARY) :], strict=True))[name]


def per_parameter(contribution: Sequence[T]) -> Sequence[T]:
    """Return a contribution's tensors without the summary: one for every parameter."""
    return contribution[: len(contribution) - len(SUMMARY)]
