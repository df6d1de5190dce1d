"""Who works with whom: crews of members that stand in the order of their rank. Pure. (SPEC.md 4.17)"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from verification.state import Member
from verification.units import Address

Crew = tuple[Member, ...]
"""Who shares a slot, by their shards; a whole worker has one for itself."""
Pair = tuple[Address, Address]
"""Two members, the lesser address first."""


def pair(one: Address, other: Address) -> Pair:
    """Return two members as one pair."""
    return min(one, other), max(one, other)


@dataclass(frozen=True)
class Apart:
    """Who was parted `ever`, and works together only where it would not work else, and who does not even so `now`."""

    ever: Collection[Pair] = ()
    now: Collection[Pair] = ()


NOBODY = Apart()


def crews_of(
    leads: Sequence[Member],
    others: Sequence[Sequence[Member]],
    apart: Apart,
    warranted: Callable[[Member], int],
) -> list[Crew]:
    """Return crews of leads and the `others` of each further shard: for each lead the first that fit.

    `warranted` gives the leaves of a member's stake: for an exchange no crew may do less.
    """
    forming = _Forming(others, apart.ever, warranted)
    idle = [lead for lead in leads if not forming.add(lead)]
    # Who is idle anyway loses nothing by another try.
    rest = _Forming(forming.left, apart.now, warranted)
    for lead in idle:
        rest.add(lead)
    return forming.crews + rest.crews


class _Forming:
    """The `crews` so far, and who is `left` of each shard but the leads'."""

    def __init__(
        self,
        others: Sequence[Sequence[Member]],
        parted: Collection[Pair],
        warranted: Callable[[Member], int],
    ) -> None:
        self.crews: list[Crew] = []
        self.left = [list(each) for each in others]
        self._parted, self._warranted = parted, warranted

    def add(self, lead: Member) -> bool:
        """Add a lead's crew, and return whether there is one."""
        crew: Crew = (lead,)
        crews, used = list(self.crews), list[Member]()
        for place, left in enumerate(self.left, 1):
            if (mate := next((each for each in left if self._fits(each, crew)), None)) is not None:
                used.append(mate)
            elif (exchange := self._exchange(crew, crews, place)) is not None:
                number, instead = exchange
                mate = crews[number][place]
                crews[number] = (*crews[number][:place], instead, *crews[number][place + 1 :])
                used.append(instead)
            else:
                return False
            crew = (*crew, mate)
        for left, member in zip(self.left, used, strict=True):
            left.remove(member)
        self.crews = [*crews, crew]
        return True

    def _exchange(self, crew: Crew, crews: Sequence[Crew], place: int) -> tuple[int, Member] | None:
        """Return the last of the crews that can spare its member at a place for `crew`, and who comes instead."""
        if not self.left[place - 1]:
            return None
        for number in reversed(range(len(crews))):
            if not self._fits(crews[number][place], crew):
                continue
            rest = crews[number][:place] + crews[number][place + 1 :]
            least = min(map(self._warranted, crews[number]))
            for each in self.left[place - 1]:
                if self._warranted(each) >= least and self._fits(each, rest):
                    return number, each
        return None

    def _fits(self, member: Member, crew: Crew) -> bool:
        return not any(pair(member.address, mate.address) in self._parted for mate in crew)
