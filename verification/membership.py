"""Joining, coming back, going away, suspension and exclusion. (SPEC.md 3)"""

from verification.causes import Cause, Reason
from verification.debts import Debt
from verification.effects import Effect, MemberJoined, StandingChanged
from verification.errors import Refused
from verification.library import Now
from verification.manifest import Manifest, Post, least_stake
from verification.money import pay_stake, require_funds, withdraw_stake
from verification.signed import Said
from verification.state import MOST_ROUNDS_OUT, Member, Phase, Stage, Standing, State
from verification.statements import VERIFIER, WORKER, Announce, Join, Withdraw
from verification.units import Address, Millis, Round


def get_member(state: State, address: Address) -> Member:
    """Return a member, whatever its standing: the excluded may still answer; raises Refused for strangers."""
    member = state.members.get(address)
    if member is None:
        raise Refused("the sender is no member of this run")
    return member


def active(state: State, role: str | None = None, counted_in: Round | None = None) -> list[Member]:
    """Return ACTIVE members in address order, of one role and old enough for round `counted_in` if given."""
    return [
        member
        for _, member in sorted(state.members.items())
        if member.standing is Standing.ACTIVE
        and role in (None, member.role)
        and (counted_in is None or member.joined < counted_in)
    ]


def process_join(state: State, said: Said[Join], now: Now) -> list[Effect]:
    """Stake and join; counts from the round after the next beacon. (SPEC.md 3.4)

    Raises Refused for a member, when the run takes no more, and for a stake that is too small or not there.
    """
    sender, body = said.sender, said.body
    require_place(state, sender, body, now.time)
    pay_stake(state, sender, body.stake)
    state.joined[body.role] = state.joined.get(body.role, 0) + 1
    state.members[sender] = Member(
        sender, body.role, body.stake, body.speed, body.tip, body.endpoint, _counts_after(state),
        capacity=state.manifest.work.leaf_every, post=body.post,
    )  # fmt: skip
    return [MemberJoined(sender, body.role, body.stake)]


def require_place(state: State, sender: Address, body: Join, now: Millis) -> None:
    """Raise Refused where the run does not take a sender as it wants to join. (SPEC.md 3.4)"""
    if sender in state.members:
        raise Refused("the sender has joined already")
    if state.stage not in (Stage.GATHERING, Stage.RUNNING):
        raise Refused("the run takes no more members")
    if body.post is not None and not has_post(state.manifest, body.post):
        raise Refused("the run has no such shard")
    money = state.manifest.money
    least = least_stake(state.manifest, body.post) if body.role == WORKER else money.verifier_stake
    if body.stake < least:
        raise Refused(f"a {body.role} stakes at least {least}")
    if body.role == VERIFIER and not has_free_place(state, now):
        raise Refused("the run has all the verifiers that its deposit can pay")
    require_funds(state, sender, body.stake)


def has_post(manifest: Manifest, post: Post) -> bool:
    """Return whether a run has a shard."""
    return post.cut < len(manifest.cuts) and post.shard < len(manifest.cuts[post.cut].shards)


def process_announce(state: State, said: Said[Announce], now: Now) -> list[Effect]:
    """Take a member's new endpoint, once a round; one that was away is active again. (SPEC.md 3.5)

    It counts later each time, and is not waited for until it has done its part in a round. Raises Refused for
    strangers, for an announcement of another round than the newest or of another time away, and for a verifier whose
    place has gone to another.
    """
    body, member = said.body, get_member(state, said.sender)
    if (body.round, body.lapse) != (state.newest, member.lapses):
        raise Refused("an announcement of another round than the newest, or of another time away")
    if not can_return(state, member, now.time):
        raise Refused("the sender was away for long, and its place has gone to another verifier")
    member.endpoint = body.endpoint
    if member.standing is not Standing.AWAY:
        return []
    rounds_out = min(1 << min(member.lapses, 32), 2 * MOST_ROUNDS_OUT) // 2
    member.standing, member.missed = Standing.ACTIVE, 1
    member.joined = Round(_counts_after(state) + max(0, rounds_out - 1))
    return [StandingChanged(member.address, member.standing, Reason(Cause.ANNOUNCED))]


def process_withdraw(state: State, said: Said[Withdraw], now: Now) -> list[Effect]:
    """Pay a member out after the run has ended; raises Refused before, and for strangers. (SPEC.md 7.9)"""
    member = get_member(state, said.sender)
    if state.stage is not Stage.ENDED:
        raise Refused("stakes unlock when the run has ended")
    return withdraw_stake(state, member)


def suspend(state: State, member: Member, owed: Debt, now: Millis) -> list[Effect]:
    """Freeze a silent party: no work, stake and escrow locked, until it gives what it owes. (SPEC.md 3.6)"""
    member.owes.setdefault(owed, now)
    state.debtors.add(member.address)
    if member.standing in (Standing.SUSPENDED, Standing.EXCLUDED):
        return []
    member.standing = Standing.SUSPENDED
    return [StandingChanged(member.address, member.standing, Reason(Cause.OWES, debt=owed))]


def settle_debt(state: State, member: Member, owed: Debt) -> list[Effect]:
    """Cross off what a suspended party has now given; with nothing owed it is active again."""
    forget_debt(state, member, owed)
    if member.owes or member.standing is not Standing.SUSPENDED:
        return []
    member.standing, member.missed, member.joined = Standing.ACTIVE, 0, _counts_after(state)
    return [StandingChanged(member.address, member.standing, Reason(Cause.PAID))]


def forget_debt(state: State, member: Member, owed: Debt) -> None:
    """Cross off a debt, whoever gave what for it; its member stays where it stands."""
    member.owes.pop(owed, None)
    if not member.owes:
        state.debtors.discard(member.address)


def exclude(member: Member, reason: Reason) -> list[Effect]:
    """Take a convict out of the run for good; its remaining stake stays locked to the end. (SPEC.md 3.7)"""
    if member.standing is Standing.EXCLUDED:
        return []
    member.standing = Standing.EXCLUDED
    return [StandingChanged(member.address, member.standing, reason)]


def mark_away(state: State, member: Member, reason: Reason) -> list[Effect]:
    """Take a member that missed too much out of the denominator. (SPEC.md 3.8)"""
    member.standing, member.away_at = Standing.AWAY, state.now
    member.lapses += 1
    return [StandingChanged(member.address, member.standing, reason)]


def has_free_place(state: State, now: Millis) -> bool:
    """Return whether a verifier can take a place: the excluded and those long away hold none. (SPEC.md 3.4)"""
    held = (member for member in state.members.values() if _holds_place(state, member, now))
    return sum(1 for _ in held) < state.manifest.work.max_verifiers


def can_return(state: State, member: Member, now: Millis) -> bool:
    """Return whether an announcement is taken: not from a verifier whose place has gone to another."""
    has_place = (
        member.role != VERIFIER or member.standing is not Standing.AWAY or _holds_place(state, member, now)
    )
    return has_place or has_free_place(state, now)


def _holds_place(state: State, member: Member, now: Millis) -> bool:
    if member.role != VERIFIER or member.standing is Standing.EXCLUDED:
        return False
    since = member.away_at if member.standing is Standing.AWAY else None
    return since is None or now < since + state.manifest.windows.silence


def _counts_after(state: State) -> Round:
    """Return the last round that a newcomer does not count in: the next one's beacon must not be drawn yet."""
    if not state.rounds:
        return Round(-1)
    number = state.current.number
    drawing = number - state.manifest.work.overlap
    is_drawn = drawing < 0 or state.rounds[drawing].phase in (Phase.SEAL, Phase.SEALED)
    return Round(number + is_drawn)
