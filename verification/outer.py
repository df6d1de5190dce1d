"""How the outer step's inputs are laid out, the same for everyone who computes or contests it. (SPEC.md 4.6)"""

from collections.abc import Mapping

from verification.tensors import Bundle, Tensor
from verification.units import Count


def outer_inputs(slots: int, start: Bundle, entries: Mapping[int, tuple[int, Bundle]]) -> list[Tensor | None]:
    """Return state, a contribution per slot and the weights, int64 [slots]; None stands for an empty slot's zeros.

    `entries` maps a slot to its worker's inner steps, which are its weight, and its contribution.
    """
    width = contribution_width(len(start.tensors))
    empty: tuple[Tensor | None, ...] = (None,) * width
    parts = [entries[slot][1].tensors if slot in entries else empty for slot in range(slots)]
    weights = weights_of(slots, {slot: steps for slot, (steps, _) in entries.items()})
    return [*start.tensors, *(tensor for part in parts for tensor in part), weights]


def weights_of(slots: int, steps: Mapping[int, int]) -> Tensor:
    """Return the outer step's weights, int64 [slots]: a slot's inner steps, 0 for an empty one."""
    body = b"".join(steps.get(slot, 0).to_bytes(8, "little") for slot in range(slots))
    return Tensor("int64", (Count(slots),), body)


def contribution_width(state_tensors: int) -> int:
    """Return how many tensors a contribution has: one per parameter, the norm and the loss. (SPEC.md 2.4)"""
    return state_tensors // 2 + 2
