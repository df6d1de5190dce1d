"""Whether the members of a crew have come to one piece of work in a round, and who is parted where not. (SPEC.md 4.17)

Who failed to deliver what to whom cannot be proven: who is parted loses no stake, and shares no crew while it can
work with others. Who cannot tries again after a while: the honest are late too, once in a run that is long enough.
"""

from verification.crews import disagreeing, neighbours
from verification.forming import Apart, pair
from verification.state import Parting, RoundState, State
from verification.units import Address, Round


def part(state: State, one: Address, other: Address, number: Round) -> None:
    """Let two members that work together in a round share no crew for a while, each time for twice as long."""
    key = pair(one, other)
    before = state.parted.get(key, Parting(0, Round(-1)))
    if number > before.until:
        times = before.times + 1
        state.parted[key] = Parting(times, Round(number + 2**times))


def apart_in(state: State, number: Round) -> Apart:
    """Return who is to share no crew in a round."""
    now = {key for key, parting in state.parted.items() if number <= parting.until}
    return Apart(state.parted.keys(), now)


def is_whole(state: State, current: RoundState, worker: Address) -> bool:
    """Return whether a worker has committed, and all of its crew to the same that crossed between them."""
    crew = current.crews[worker]
    return all(member in current.commits for member in crew) and not disagreement(state, current, worker)


def disagreement(state: State, current: RoundState, worker: Address) -> list[tuple[Address, Address]]:
    """Return the pairs of a crew that signed other roots over what crossed between them; all must have committed."""
    crew = current.crews[worker]
    post = current.assignments[worker].post
    if post is None:
        return []
    pairs = disagreeing(state.manifest.cuts[post.cut], [current.commits[member] for member in crew])
    return [(crew[one], crew[other]) for one, other in pairs]


def is_vouched_for(state: State, current: RoundState, worker: Address) -> bool:
    """Return whether all neighbours of a member have committed: they have its receipt, so its work is done."""
    near = _mates(state, current, worker)
    return bool(near) and all(mate in current.commits for mate in near)


def part_crews(state: State, current: RoundState) -> None:
    """Part those of each crew who differ; where some have not committed and nobody says why, them from their neighbours
    that have, who gave and were given all that the others needed."""
    for lead, *mates in dict.fromkeys(current.crews.values()):
        crew = [lead, *mates]
        missing = [member for member in crew if member not in current.commits]
        if not missing:
            pairs = disagreement(state, current, lead)
        elif current.is_stuck(lead):
            continue
        else:
            near = {member: _mates(state, current, member) for member in missing}
            pairs = [(member, mate) for member in missing for mate in near[member] if mate in current.commits]
        for one, other in pairs:
            part(state, one, other, current.number)


def _mates(state: State, current: RoundState, worker: Address) -> list[Address]:
    """Return the neighbours of a member in its crew; none of a whole worker."""
    post = current.assignments[worker].post
    if post is None:
        return []
    crew = current.crews[worker]
    return [crew[shard] for shard in neighbours(state.manifest.cuts[post.cut], int(post.shard))]
