"""What enters the outer step and with which weight, in integers, the same for everyone. (SPEC.md 4.6, 4.11, 4.12)"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from verification.layout import contribution_width
from verification.manifest import BundleRef, Manifest, counted
from verification.sampling import weighted_median
from verification.state import Phase, RoundState, State
from verification.statements import WORKER
from verification.tensors import Tensor
from verification.units import Address, Count, Round

T = TypeVar("T")

SHARE = 1 << 15
"""A contribution's weight counts in units of 1/SHARE of an inner step, so that clipping can round."""

CLIP_UNIT = 1000
"""`clip` is in thousandths of the median norm."""


@dataclass(frozen=True)
class Part:
    """What enters an outer step in slot `slot`: what `worker`, or the crew that it leads, gave in round `number`."""

    slot: int
    weight: int
    number: Round
    worker: Address


@dataclass(frozen=True)
class Mixture:
    """All that enters one outer step. `ballast` is the weight of zeros that makes the weights add up to the whole."""

    parts: tuple[Part, ...]
    ballast: int


def mixture(state: State, worked: RoundState) -> Mixture:
    """Return what enters a closed round's outer step: included contributions, clipped, less those of convicts.

    A convict's part takes back the share of the sum that it had in its own round; with nothing included there is
    nothing to take it from. (SPEC.md 4.11, 4.12)
    """
    weights, whole = clipped_weights(state.manifest, worked), whole_weight(worked)
    parts = [Part(worked.assignments[w].slot, weights[w], worked.number, w) for w in worked.included]
    if parts:
        for place, (number, worker) in enumerate(worked.subtracts):
            then = state.rounds[number]
            weight = clipped_weights(state.manifest, then)[worker] * whole // whole_weight(then)
            parts.append(Part(_first_free(worked) + place, -weight, number, worker))
    return Mixture(tuple(parts), whole - sum(part.weight for part in parts))


def _first_free(worked: RoundState) -> int:
    """Return the first slot that nobody works in."""
    return 1 + max((assigned.slot for assigned in worked.assignments.values()), default=-1)


def contributions_of(state: State, part: Part) -> tuple[BundleRef, ...]:
    """Return the contributions in a slot: one, or a crew's in the order of its shards."""
    worked = state.rounds[part.number]
    return tuple(worked.commits[member].contribution for member in worked.crews[part.worker])


def whole_weight(worked: RoundState) -> int:
    """Return the weight of a round's included contributions before any clipping: their inner steps."""
    return SHARE * sum(worked.assignments[worker].steps for worker in worked.included)


def clipped_weights(manifest: Manifest, worked: RoundState) -> dict[Address, int]:
    """Return the weight of each included contribution: its steps, less where its norm is above `clip` medians.

    The median is weighted by stake; a commitment's `norm` is a squared norm, a crew's the sum of its members'. Weights
    are rounded down. (SPEC.md 4.11)
    """
    found = {w: _norm_of(worked, w) for w in worked.included}
    norms = [(found[w], counted(manifest, WORKER, _stake_of(worked, w))) for w in worked.included]
    limit = weighted_median(norms) * manifest.work.clip**2
    weights = {}
    for worker in worked.included:
        share, norm = SHARE, found[worker] * CLIP_UNIT**2
        if manifest.work.clip and norm > limit:
            share = math.isqrt(limit * SHARE**2 // norm)
        weights[worker] = share * worked.assignments[worker].steps
    return weights


def _norm_of(worked: RoundState, lead: Address) -> int:
    return sum(int(worked.commits[member].norm) for member in worked.crews[lead])


def _stake_of(worked: RoundState, lead: Address) -> int:
    return sum(worked.assignments[member].stake for member in worked.crews[lead])


def pending(state: State) -> list[tuple[Round, Address]]:
    """Return the convicted contributions that are in the state and have not been taken out again. (SPEC.md 4.12)"""
    if not state.manifest.work.subtracts:
        return []
    done = {part for worked in state.rounds if worked.included for part in worked.subtracts}
    wrong = {
        (number, state.rounds[number].lead(worker))
        for number, worker in state.convicted
        if state.rounds[number].was_included(worker) and state.rounds[number].phase is Phase.SEALED
    }
    return sorted(wrong - done)


def to_subtract(state: State) -> list[tuple[Round, Address]]:
    """Return what of `pending` no round that is not decided yet takes out. (SPEC.md 4.12, 4.16)"""
    undecided = (worked for worked in state.rounds[-1:] if worked.phase is not Phase.SEALED)
    taken = {part for worked in undecided for part in worked.subtracts}
    return [part for part in pending(state) if part not in taken]


def outer_inputs(
    slots: int, start: Sequence[T], entries: Mapping[int, tuple[int, Sequence[T]]], ballast: int = 0
) -> list[T | Tensor | None]:
    """Return state, a contribution per slot and the weights, int64 [slots + 1]; None stands for an empty slot's zeros.

    `entries` maps a slot to the weight and the contribution there, both in whatever form their tensors have. The last
    slot is always empty; `ballast` is its weight.
    """
    empty = (None,) * contribution_width(len(start))
    parts = [entries[slot][1] if slot in entries else empty for slot in range(slots + 1)]
    weights = weights_of(slots + 1, {slot: weight for slot, (weight, _) in entries.items()}, ballast)
    return [*start, *(tensor for part in parts for tensor in part), weights]


def weights_of(count: int, weights: Mapping[int, int], ballast: int) -> Tensor:
    """Return the outer step's weights, int64 [count]: those of the slots, 0 for an empty one, then the ballast."""
    numbers = [*(weights.get(slot, 0) for slot in range(count - 1)), ballast]
    body = b"".join(number.to_bytes(8, "little", signed=True) for number in numbers)
    return Tensor("int64", (Count(count),), body)
