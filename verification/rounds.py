"""A round: open, commit, close, seal. (SPEC.md 4)"""

from collections.abc import Iterable

from verification import money
from verification.causes import Cause, Reason
from verification.crews import neighbours
from verification.digest import tagged
from verification.effects import (
    Effect,
    EveryoneDecides,
    RoundClosed,
    RoundOpened,
    RoundSealed,
    StageChanged,
)
from verification.errors import Refused
from verification.library import Now
from verification.manifest import BundleRef, cost_of_round
from verification.membership import active, mark_away
from verification.outer import to_subtract
from verification.parting import apart_in, is_whole, part, part_crews
from verification.sampling import (
    assign,
    draw_committee,
    form_crews,
    next_beacon,
)
from verification.signed import Said
from verification.state import (
    Member,
    Phase,
    RoundState,
    Stage,
    Standing,
    State,
    is_convicted,
    last_sealed,
    state_before,
    work_begins,
)
from verification.statements import VERIFIER, WORKER, Attest, Commit, Receipt, Seal, Stuck
from verification.units import Address, Millis, Round
from verification.waiting import time_allowed


def get_round(state: State, number: Round) -> RoundState:
    """Return a round that has opened; raises Refused."""
    if not number < len(state.rounds):
        raise Refused(f"round {number} has not opened")
    return state.rounds[number]


def can_gather(state: State) -> bool:
    """Return whether enough members have joined for a round to make sense; a crew counts as one worker."""
    work = state.manifest.work
    number = Round(len(state.rounds))
    if state.joined.get(WORKER, 0) < work.min_workers or state.joined.get(VERIFIER, 0) < work.min_verifiers:
        return False
    crews = form_crews(state.manifest, state.beacon, active(state, WORKER, number))
    return len(crews) >= work.min_workers and len(active(state, VERIFIER, number)) >= work.min_verifiers


def has_promised_verifiers(state: State) -> bool:
    """Return whether as many verifiers are active as the run promises. (SPEC.md 4.1)"""
    return len(active(state, VERIFIER)) >= state.manifest.work.min_verifiers


def _call_up(state: State, number: Round) -> None:
    """Let verifiers that came back count at once where the promised ones would be too few. (SPEC.md 4.1)

    Their duties come from later beacons, so nothing that is known can have made them come.
    """
    missing = state.manifest.work.min_verifiers - len(active(state, VERIFIER, number))
    waiting = [member for member in active(state, VERIFIER) if member.joined >= number]
    for member in sorted(waiting, key=lambda member: member.joined)[: max(0, missing)]:
        member.joined = Round(number - 1)


def open_round(state: State, now: Millis) -> list[Effect]:
    """Open the next round on the newest sealed state, or drain when it could not be paid. (SPEC.md 4.1)"""
    number = Round(len(state.rounds))
    _call_up(state, number)
    if not state.rounds:
        state.beacon = tagged("first-beacon", state.run, state.head)
    elif state.current.beacon == state.beacon:
        # No round has closed since that one opened, and two would have the same records.
        state.beacon = next_beacon(state.beacon, [], [])
    effects = money.release_escrow(state, Round(number - state.manifest.money.escrow_rounds))
    money.release_reserves(state)
    start = state_before(state, work_begins(state, number))
    workers, apart = active(state, WORKER, number), apart_in(state, number)
    slots = state.manifest.work.slots
    room = max(slots - len(form_crews(state.manifest, state.beacon, workers, apart)), slots > 1)
    subtracts = tuple(to_subtract(state)[:room])
    assignments = assign(state.manifest, state.beacon, workers, slots - len(subtracts), apart)
    allowed = time_allowed(state.manifest, workers, assignments)
    deadline = Millis(now + max(allowed, state.manifest.windows.commit))
    members = state.committee or {m.address: int(m.stake) for m in active(state, None, number)}
    opened = RoundState(
        number=number,
        start=start,
        beacon=state.beacon,
        head=state.head,
        opened_at=now,
        deadline=deadline,
        members=members,
        weight=sum(members.values()),
        assignments=assignments,
        heard_at=now,
        allowed=allowed,
        is_committee=bool(state.committee),
        subtracts=subtracts,
    )
    if not money.set_aside(state, opened):
        return [*effects, *drain(state, now, Cause.DEPOSIT_SPENT)]
    state.rounds.append(opened)
    state.active_at = Millis(deadline - state.manifest.windows.commit)
    return [*effects, RoundOpened(number, start, tuple(opened.assignments.items()))]


def may_open(state: State) -> bool:
    """Return whether the last round is far enough for the next: sealed, or with overlap closed to commitments.

    An early one must be payable whatever is assigned: a run that cannot pay drains, and decides nothing any more.
    (SPEC.md 4.16)
    """
    current, work = state.current, state.manifest.work
    if current.phase in (Phase.COMMIT, Phase.SEALED) or not work.overlap:
        return current.phase is Phase.SEALED
    return len(state.rounds) < work.rounds and state.deposit >= cost_of_round(state.manifest)


def let_everyone_decide(state: State, current: RoundState, now: Millis) -> list[Effect]:
    """Put the whole stake in the place of a committee that did not decide in its window. (SPEC.md 4.14)"""
    deciding = {*current.members, *(member.address for member in active(state, None, current.number))}
    current.members = {address: state.members[address].stake for address in sorted(deciding)}
    current.is_committee = False
    current.weight = sum(current.members.values())
    current.attested = sum(current.members[member] for member in current.attests)
    current.held.clear()
    for member, held in current.attests.items():
        _hold(current, member, held)
    current.backing.clear()
    for member, ref in current.seals.items():
        _back(current, member, ref)
    windows = state.manifest.windows
    current.deadline = Millis(now + (windows.attest if current.phase is Phase.ATTEST else windows.seal))
    return [EveryoneDecides(current.number)]


def process_commit(state: State, said: Said[Commit], now: Now) -> list[Effect]:
    """Take a worker's commitment for the running round. (SPEC.md 4.4)

    Raises Refused when the round takes none from the sender, and for another start state than the round's.
    """
    sender, body = said.sender, said.body
    current = get_round(state, body.round)
    if current.phase is not Phase.COMMIT:
        raise Refused("commitments for this round have closed")
    if sender not in current.assignments:
        raise Refused("the sender has no assignment in this round")
    if sender in current.commits:
        raise Refused("the sender has committed already")
    if body.start != current.start.digest:
        raise Refused("the commitment names another start state")
    if sender in current.stuck:
        raise Refused("the sender has said that it cannot go on")
    post = current.assignments[sender].post
    shared = 0 if post is None else len(neighbours(state.manifest.cuts[post.cut], int(post.shard)))
    if body.post != post or len(body.shared) != shared:
        raise Refused("the commitment is for another post than the sender has in this round")
    current.commits[sender], current.heard_at = body, now.time
    return []


def process_receipt(state: State, said: Said[Receipt], now: Now) -> list[Effect]:
    """None: it is given to a neighbour, and reaches the ledger within a Contradiction alone (4.17)

    Raises Refused.
    """
    raise Refused("a receipt is for a neighbour in a crew, and not for the ledger")


def process_stuck(state: State, said: Said[Stuck], now: Now) -> list[Effect]:
    """Part two members of a crew for a while: one cannot go on for want of what the other owes it (4.17)

    Who failed to deliver what to whom cannot be proven, so no stake moves, and who says it has not missed the round.
    Raises Refused when the round takes no commitments, or the two are not of one crew.
    """
    sender, body = said.sender, said.body
    current = get_round(state, body.round)
    if current.phase is not Phase.COMMIT:
        raise Refused("commitments for this round have closed")
    if sender not in current.crews or body.partner not in current.crews[sender] or body.partner == sender:
        raise Refused("the sender and its partner are not of one crew")
    if sender in current.commits:
        raise Refused("the sender has committed already")
    current.stuck[sender] = body.partner
    part(state, sender, body.partner, body.round)
    return []


def works(state: State, current: RoundState) -> list[Address]:
    """Return under whose addresses there is work to be audited, in the order in which they committed.

    (SPEC.md 4.17, 5.3)
    """
    leads = dict.fromkeys(current.lead(worker) for worker in current.commits)
    return [lead for lead in leads if is_whole(state, current, lead)]


def process_attest(state: State, said: Said[Attest], now: Now) -> list[Effect]:
    """Take a member's promise to serve the contributions it holds. (SPEC.md 4.5)

    Raises Refused when the round takes none from the sender, and for workers that did not commit.
    """
    sender, body = said.sender, said.body
    current = get_round(state, body.round)
    if current.phase is not Phase.ATTEST:
        raise Refused("the round takes no attestations now")
    if sender not in current.members or sender in current.attests:
        raise Refused("the sender is no member of this round or has attested already")
    if len(set(body.held)) != len(body.held) or not set(body.held) <= set(current.commits):
        raise Refused("the attestation names a worker that did not commit, or one twice")
    current.attests[sender], current.heard_at = frozenset(body.held), now.time
    current.attested += current.members[sender]
    _hold(current, sender, body.held)
    return []


def _hold(current: RoundState, member: Address, held: Iterable[Address]) -> None:
    for worker in held:
        current.held[worker] = current.held.get(worker, 0) + current.members[member]


def process_seal(state: State, said: Said[Seal], now: Now) -> list[Effect]:
    """Take a member's signature under the next state; late ones stay open to challenge too. (SPEC.md 4.7)

    Raises Refused when the round takes none from the sender.
    """
    sender, body = said.sender, said.body
    current = get_round(state, body.round)
    if current.phase not in (Phase.SEAL, Phase.SEALED):
        raise Refused("the round's contributions are not decided yet")
    if not state.is_recent(body.round):
        raise Refused("the round lies too far back to be sealed")
    if sender not in current.members or sender in current.seals:
        raise Refused("the sender is no member of this round or has sealed already")
    current.seals[sender] = body.state
    _back(current, sender, body.state)
    return []


def _back(current: RoundState, member: Address, ref: BundleRef) -> None:
    current.backing[ref] = current.backing.get(ref, 0) + current.members[member]


def close_commits(state: State, current: RoundState, now: Millis) -> list[Effect]:
    """Stop taking commitments: bytes may leave now. (SPEC.md 4.4)"""
    current.phase, current.heard_at = Phase.ATTEST, now
    current.deadline = Millis(now + state.manifest.windows.attest)
    return []


def close_round(state: State, current: RoundState, now: Millis) -> list[Effect]:
    """Decide by stake which contributions count, and draw the next beacon and committee. (SPEC.md 4.6, 5.1)"""
    current.included = tuple(
        lead
        for lead in sorted(works(state, current), key=lambda lead: current.assignments[lead].slot)
        if not is_convicted(state, current.number, lead)
        and all(2 * current.held.get(member, 0) > current.weight for member in current.crews[lead])
    )
    part_crews(state, current)
    commitments = [
        tagged("commit", worker, commit.contribution.digest) for worker, commit in current.commits.items()
    ]
    state.beacon = next_beacon(state.beacon, state.fresh_links, commitments)
    state.fresh_links = []
    effects = _count_absent(state, current)
    # Together with the beacon: nobody who knows it can still step aside.
    members = active(state, None, Round(current.number + 1 + state.manifest.work.overlap))
    state.committee = draw_committee(state.beacon, members, state.manifest.work.committee)
    current.phase = Phase.SEAL
    current.deadline = Millis(now + state.manifest.windows.seal)
    return [RoundClosed(current.number, current.included, state.beacon), *effects]


def seal_round(state: State, current: RoundState, now: Millis) -> list[Effect]:
    """Fix the next state, put rewards in escrow, and drain the run after the last round. (SPEC.md 4.7, 4.8)"""
    current.sealed = sealed_state(current)
    assert current.sealed is not None
    current.phase = Phase.SEALED
    for worker in (member for lead in current.included for member in current.crews[lead]):
        if state.members[worker].standing is Standing.EXCLUDED or (current.number, worker) in state.convicted:
            continue
        money.escrow_reward(state, state.members[worker], current.number)
    effects: list[Effect] = [RoundSealed(current.number, current.sealed)]
    if current.number + 1 == state.manifest.work.rounds:
        return [*effects, *drain(state, now, Cause.ROUNDS_DONE)]
    return effects


def drain(state: State, now: Millis, cause: Cause) -> list[Effect]:
    """Open no more rounds; audits and disputes run out, and everyone's last round is audited. (SPEC.md 4.8, 5.4)"""
    state.stage = Stage.DRAINING
    last = last_sealed(state)
    if last is not None:
        wanted = (lead for lead in works(state, last) if not is_convicted(state, last.number, lead))
        state.redraws |= {(last.number, lead) for lead in wanted}
    return [StageChanged(state.stage, now, cause)]


def sealed_state(current: RoundState) -> BundleRef | None:
    """Return the next state that more than half of the round's weight signed, if there is one."""
    return next((ref for ref, weight in current.backing.items() if 2 * weight > current.weight), None)


def _warrant(state: State, current: RoundState, member: Member) -> None:
    """Let a worker's share double with a round that was included, and halve with one that was not. (SPEC.md 4.1)"""
    work, steps = state.manifest.work, current.assignments[member.address].steps
    if current.was_included(member.address):
        member.capacity = min(work.max_steps, max(member.capacity, 2 * steps))
    elif not current.is_stuck(member.address) and _is_absent(state, current, member.address):
        member.capacity = max(work.leaf_every, steps // 2)


def _is_absent(state: State, current: RoundState, worker: Address) -> bool:
    """Return whether a worker did not do its part of the work. Of a crew that did not come to agree everyone has who
    committed; of one that cannot go on everyone but who was named for that and said nothing. (SPEC.md 3.8, 4.17)"""
    if current.was_included(worker):
        return False
    crew = current.crews[worker]
    if len(crew) > 1 and worker in current.commits:
        return is_whole(state, current, worker) and 2 * current.held.get(worker, 0) <= current.weight
    if current.is_stuck(worker):
        named = {current.stuck[member] for member in crew if member in current.stuck}
        return worker in named - current.stuck.keys()
    return True


def _count_absent(state: State, current: RoundState) -> list[Effect]:
    effects: list[Effect] = []
    for address in sorted(current.members.keys() | current.assignments.keys()):
        member = state.members[address]
        absent = (address in current.members and address not in current.attests) or (
            address in current.assignments and _is_absent(state, current, address)
        )
        member.missed = member.missed + 1 if absent else 0
        if address in current.assignments:
            _warrant(state, current, member)
        if member.missed >= state.manifest.work.miss_limit and member.standing is Standing.ACTIVE:
            effects += mark_away(state, member, Reason(Cause.MISSED, count=member.missed))
    return effects
