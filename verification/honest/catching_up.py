"""How a peer comes by the state that a round starts from. (SPEC.md 9.7)

A state is as large as the model, and rounds end the sooner the faster the others are: who fetched each round's start
over a slow link would be late in all of them. So who comes fetches one, and computes the next ones from it and the
contributions, as everyone else does.
"""

from collections.abc import Iterator

from verification.honest.actions import Computed, FetchContribution, FetchState, Results, RunOuter
from verification.outer import mixture
from verification.state import Member, Phase, RoundState, Stage, Standing, State
from verification.units import Round

KEPT_ROUNDS = 4
"""Of so many rounds everyone keeps start states and contributions: as long a newcomer may take to fetch a state."""


def is_ready(state: State, results: Results) -> bool:
    """Return whether the newest state is here; before the first round and after the last none is needed."""
    return state.stage is not Stage.RUNNING or FetchState(state.deciding.number) in results.done


def catch_up(state: State, member: Member, results: Results) -> Iterator[Computed]:
    """Come by the newest state; who does not decide the round that goes on from it, by the one after it as well.

    Where a committee decides, the others are spared its contributions, and take what they work on from its members.
    """
    if state.stage is not Stage.RUNNING or member.standing not in (Standing.ACTIVE, Standing.AWAY):
        return
    deciding, decides = state.deciding, member.address in state.deciding.members
    if deciding.is_committee and not decides:
        if member.standing is Standing.AWAY or member.address in state.current.assignments:
            yield FetchState(deciding.number)
        return
    begin = _begin(state, member, results)
    for worked in state.rounds[begin : deciding.number + 1]:
        if worked.number == begin or RunOuter(Round(worked.number - 1)) in results.done:
            yield FetchState(worked.number)
        if worked is not deciding or not decides:
            yield from outer_step(state, worked, results)


def outer_step(state: State, worked: RoundState, results: Results) -> Iterator[Computed]:
    """Fetch the contributions that may enter a round's outer step; once it is closed and all is here, run it."""
    if worked.phase is Phase.COMMIT:
        return
    if worked.phase is Phase.ATTEST:
        yield from (FetchContribution(worked.number, worker) for worker in sorted(worked.commits))
        return
    reads = _reads(state, worked)
    yield from reads
    if all(results.done.get(read) is True for read in [FetchState(worked.number), *reads]):
        yield RunOuter(worked.number)


def _reads(state: State, worked: RoundState) -> list[Computed]:
    """Return the contributions that a closed round's outer step reads."""
    return [
        FetchContribution(part.number, member)
        for part in mixture(state, worked).parts
        for member in state.rounds[part.number].crews[part.worker]
    ]


def _begin(state: State, member: Member, results: Results) -> Round:
    """Return the round before which a state is taken from here or from others, to compute the newest one.

    One that must come from others stays the same until these forget it: a long fetch is not given up for the next. Who
    lacks contributions of the round before, or was there a moment ago and has started again, takes the newest.
    """
    newest = state.deciding.number
    kept = state.rounds[max(0, newest + 1 - KEPT_ROUNDS) : newest + 1]
    here = next((each.number for each in reversed(kept) if FetchState(each.number) in results.done), None)
    before = state.rounds[max(0, newest - 1)]
    if here is not None and all(_takes_part(member, each) for each in state.rounds[here:newest]):
        reads = _reads(state, before) if here == before.number and member.address in before.members else []
        return here if all(results.done.get(read) is True for read in reads) else newest
    if before.is_committee or any(member.address in each.seals for each in kept):
        return newest
    return Round(max(0, newest - (newest - member.joined) % KEPT_ROUNDS))


def _takes_part(member: Member, worked: RoundState) -> bool:
    """Return whether a member may have what a round's outer step reads, by then: a committee's is its own."""
    return member.address in worked.members or not worked.is_committee
