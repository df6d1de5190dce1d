"""How long a round waits for whom. Pure. (SPEC.md 3.8, 4.10)"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from verification.manifest import Manifest
from verification.parting import is_vouched_for
from verification.sampling import SLACK, limited_speeds, time_for
from verification.state import GRACE, PATIENCE, Assignment, Member, RoundState, Standing, State
from verification.units import Address, Millis


def time_allowed(
    manifest: Manifest, workers: Sequence[Member], assignments: Mapping[Address, Assignment]
) -> Millis:
    """Return how long nobody's work is late, whatever window and others are: by its claimed speed, and where a crew's
    members wait for each other all the time by all of theirs. (SPEC.md 4.10, 4.17)"""
    speeds = limited_speeds(manifest, [member for member in workers if member.address in assignments])
    times = Counter[int]()
    for worker, work in assignments.items():
        times[work.slot] += time_for(work.steps, speeds[worker])
    return Millis(SLACK * max(times.values(), default=0))


def has_attested_majority(current: RoundState) -> bool:
    """Return whether attesters hold more than half of the round's weight."""
    return 2 * current.attested > current.weight


def commits_end(state: State, current: RoundState) -> Millis:
    """Return until when commitments are taken: soon, once only those are missing who missed their last round, or whose
    neighbours in a crew all have committed, and somewhat later than the others', once more than half of the work is
    committed to. (SPEC.md 3.8, 4.17)
    """
    missing = current.awaited - current.commits.keys()
    others = {
        one
        for one in current.awaited
        if is_awaited(state, current, one)
        and (one in current.commits or not is_vouched_for(state, current, one))
    }
    grace = state.manifest.windows.commit // GRACE
    if missing and others and not missing & others:
        return min(current.deadline, Millis(current.heard_at + grace))
    if 2 * _steps(current, missing) >= _steps(current, current.assignments):
        return current.deadline
    least = current.opened_at + current.allowed
    return min(current.deadline, Millis(max(least, _patient(current, current.opened_at, grace))))


def is_awaited(state: State, current: RoundState, worker: Address) -> bool:
    """Return whether a round waits for a worker's part: it did not miss its last round, or its contribution counted.

    (SPEC.md 3.8)
    """
    if not state.members[worker].missed:
        return True
    return current.number > 0 and state.rounds[current.number - 1].was_included(worker)


def _steps(current: RoundState, workers: Iterable[Address]) -> int:
    return sum(current.assignments[worker].steps for worker in workers)


def _patient(current: RoundState, began: Millis, grace: int) -> int:
    """Return until when the others are waited for in a phase that began then: at least `grace` after the last."""
    return current.heard_at + max(grace, (current.heard_at - began) // PATIENCE)


def attests_end(state: State, current: RoundState) -> Millis:
    """Return until when attestations are taken, once more than half of the weight has attested: likewise, as soon as
    nobody's can change any more what is included. Who did not commit counts as missing before. (SPEC.md 3.8)
    """
    absent = current.assignments.keys() - current.commits.keys()
    missing = current.members.keys() - current.attests.keys() - absent
    grace = state.manifest.windows.attest // GRACE
    if not any(
        state.members[one].standing is Standing.ACTIVE and not state.members[one].missed for one in missing
    ):
        return min(current.deadline, Millis(current.heard_at + grace))
    if not _is_settled(current):
        return current.deadline
    return min(current.deadline, Millis(_patient(current, _attests_began(state, current), grace)))


def _attests_began(state: State, current: RoundState) -> Millis:
    return Millis(current.deadline - state.manifest.windows.attest)


def _is_settled(current: RoundState) -> bool:
    """Return whether the attestations that are missing can neither include a contribution nor leave one out."""
    missing = current.weight - current.attested
    held = (current.held.get(worker, 0) for worker in current.commits)
    return all(2 * weight > current.weight or 2 * (weight + missing) <= current.weight for weight in held)


def grace_ends(state: State, current: RoundState) -> Millis:
    """Return until when an honest peer waits for the bytes of who is not awaited: for a quarter. (SPEC.md 9.3)"""
    return Millis(_attests_began(state, current) + state.manifest.windows.attest // 4)


def hurry_begins(state: State, current: RoundState) -> Millis:
    """Return from when an honest peer attests with what it has: the last quarter of the time there is. (SPEC.md 9.3)"""
    end = attests_end(state, current) if has_attested_majority(current) else current.deadline
    return Millis(end - (end - _attests_began(state, current)) // 4)


def have_all_attested(state: State, current: RoundState) -> bool:
    """Return whether nobody is left who could still attest: the active members of the round have."""
    return not any(
        state.members[address].standing is Standing.ACTIVE
        for address in current.members
        if address not in current.attests
    )
