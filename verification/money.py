"""Every movement of money. Each function moves amounts between places that `total_money` counts, so none is made or
lost. (SPEC.md 7)"""

from collections.abc import Sequence

from verification.causes import Reason
from verification.effects import Effect, NotPaid, Paid, Payment, Slashed
from verification.errors import Refused
from verification.manifest import cost_of_work, fee_of, reward_of
from verification.state import Member, Phase, RoundState, Standing, State, last_sealed, open_questions
from verification.units import MILLION, Address, Amount, Round


def pay_stake(state: State, address: Address, amount: Amount) -> None:
    """Take `amount` from an account for a stake; raises as `require_funds`."""
    require_funds(state, address, amount)
    state.balances[address] = Amount(state.balances[address] - amount)


def require_funds(state: State, address: Address, amount: Amount) -> None:
    """Raise Refused for an account that the run knows not, or that holds less than an amount.

    Accounts are the founding's, so their number is fixed: keys alone cost nothing. (SPEC.md 3.10)
    """
    balance = state.balances.get(address)
    if balance is None:
        raise Refused("the sender has no account in this run")
    if balance < amount:
        raise Refused(f"the account holds {balance}, the stake is {amount}")


def credit(state: State, address: Address, amount: Amount) -> None:
    """Add `amount` to an account's balance."""
    state.balances[address] = Amount(state.balances.get(address, 0) + amount)


def set_aside(state: State, opened: RoundState) -> bool:
    """Move a round's worst case from the deposit into its reserve; returns whether there is as much. (SPEC.md 7.1)"""
    assigned = opened.assignments.values()
    needed = sum(cost_of_work(state.manifest, each.steps, each.post) for each in assigned)
    if state.deposit < needed:
        return False
    state.deposit, opened.reserve = Amount(state.deposit - needed), Amount(needed)
    return True


def release_reserves(state: State) -> None:
    """Give back to the deposit what rounds that nothing can be paid for any more did not need. (SPEC.md 7.1)

    The newest sealed round keeps its reserve: should it be the last, its audits are drawn again for everyone.
    """
    open_rounds, last = {number for number, _ in open_questions(state)}, last_sealed(state)
    for worked in state.rounds:
        is_over = worked.phase is Phase.SEALED and worked is not last
        if worked.reserve and is_over and worked.number not in open_rounds:
            state.deposit = Amount(state.deposit + worked.reserve)
            worked.reserve = Amount(0)


def reward_in(state: State, number: Round, worker: Address) -> Amount:
    """Return what a worker's part of a round earns. (SPEC.md 7.2)"""
    assigned = state.rounds[number].assignments[worker]
    return reward_of(state.manifest, assigned.steps, assigned.post)


def escrow_reward(state: State, member: Member, number: Round) -> None:
    """Move a round's reward from its reserve into the worker's escrow. (SPEC.md 7.2)"""
    amount = _draw(state.rounds[number], reward_in(state, number, member.address))
    member.escrow[number] = Amount(member.escrow.get(number, 0) + amount)


def pay_fee(state: State, verifier: Address, work: Round, worker: Address) -> list[Effect]:
    """Pay a verifier from the round's reserve for having audited a worker, or all of a crew. (SPEC.md 7.3)

    No more than the reserve is for: places change hands, and others may come to an audit that is drawn again.
    """
    member, worked = state.members[verifier], state.rounds[work]
    if worked.fees.get(worker, 0) >= state.manifest.work.max_verifiers:
        return []
    worked.fees[worker] = worked.fees.get(worker, 0) + 1
    assigned = [worked.assignments[each] for each in worked.crews[worker]]
    fee = sum(fee_of(state.manifest, each.steps, each.post) for each in assigned)
    amount = _draw(worked, Amount(fee))
    credit(state, member.address, amount)
    member.rewards = Amount(member.rewards + amount)
    return [Paid(member.address, amount, Payment.FEE)]


def _draw(worked: RoundState, amount: Amount) -> Amount:
    assert worked.reserve >= amount  # the reserve is the round's worst case
    worked.reserve = Amount(worked.reserve - amount)
    return amount


def release_escrow(state: State, before: Round) -> list[Effect]:
    """Pay out rewards of rounds before `before` that are settled, to members that nothing is held against.

    (SPEC.md 7.4)
    """
    accused = {dispute.accused for dispute in state.open_disputes()}
    questions = open_questions(state)
    effects: list[Effect] = []
    for member in state.members.values():
        if member.address in accused or member.standing is Standing.SUSPENDED:
            continue
        mature = [n for n in member.escrow if n < before and (n, member.address) not in questions]
        for number in mature:
            amount = member.escrow.pop(number)
            credit(state, member.address, amount)
            member.rewards = Amount(member.rewards + amount)
            effects.append(Paid(member.address, amount, Payment.REWARD))
    return effects


def withhold(state: State, number: Round, worker: Address) -> list[Effect]:
    """Take back the reward of a round that nobody was there to audit, of a crew all of its. (SPEC.md 7.4)"""
    effects: list[Effect] = []
    for each in state.rounds[number].crews[worker]:
        amount = state.members[each].escrow.pop(number, Amount(0))
        state.rounds[number].reserve = Amount(state.rounds[number].reserve + amount)
        effects += [NotPaid(each, number, amount)] if amount else []
    return effects


def slash(state: State, member: Member, finders: Sequence[Address], reason: Reason) -> Slashed:
    """Take the escrow and a graded part of the stake; burn a share, split the rest among `finders`. (SPEC.md 7.5)

    Without finders everything is burned. What does not divide evenly is burned too.
    """
    rules = state.manifest.money
    grade = rules.slash_grades[min(member.convictions, len(rules.slash_grades) - 1)]
    from_stake = Amount(member.stake * grade // MILLION)
    from_escrow = Amount(sum(member.escrow.values()))
    member.escrow.clear()
    member.stake = Amount(member.stake - from_stake)
    member.slashed = Amount(member.slashed + from_stake + from_escrow)
    member.convictions += 1
    taken = from_stake + from_escrow
    share = (taken - taken * rules.burned_share // MILLION) // len(finders) if finders else 0
    for finder in finders:
        credit(state, finder, Amount(share))
        state.members[finder].rewards = Amount(state.members[finder].rewards + share)
    rewarded = Amount(share * len(finders))
    state.burned = Amount(state.burned + taken - rewarded)
    return Slashed(member.address, from_stake, from_escrow, Amount(taken - rewarded), rewarded, reason)


def with_mates(state: State, number: Round, convict: Address, finder: Address) -> list[Address]:
    """Return the finders of what made a convict's crew work for nothing: who showed it, unless it is the convict, and
    all others of the crew that committed.

    They share what a conviction pays and no more: what it burns must be gone, or a ring that has a crew would lose
    nothing by a conviction. (SPEC.md 4.17, 7.5)
    """
    worked = state.rounds[number]
    mates = [mate for mate in worked.crews[convict] if mate in worked.commits]
    here = [mate for mate in mates if state.members[mate].standing is not Standing.EXCLUDED]
    return [each for each in dict.fromkeys((finder, *here)) if each != convict]


def charge_accuser(state: State, challenger: Member, accused: Address, reason: Reason) -> list[Effect]:
    """Take the bond of a wrong accuser: half to the accused, half burned, so accusing oneself costs. (SPEC.md 7.6)"""
    bond = Amount(min(challenger.stake, state.manifest.money.accuser_bond))
    if not bond:
        return []
    to_accused = Amount(bond // 2)
    challenger.stake = Amount(challenger.stake - bond)
    challenger.slashed = Amount(challenger.slashed + bond)
    credit(state, accused, to_accused)
    burned = Amount(bond - to_accused)
    state.burned = Amount(state.burned + burned)
    return [
        Slashed(challenger.address, bond, Amount(0), burned, to_accused, reason),
        Paid(accused, to_accused, Payment.BOND),
    ]


def charge_silent(state: State, member: Member, reason: Reason) -> list[Effect]:
    """Burn the bond of a verifier that never opened what it committed to blindly: as dear as a lie. (SPEC.md 7.7)"""
    bond = Amount(min(member.stake, state.manifest.money.accuser_bond))
    member.stake = Amount(member.stake - bond)
    member.slashed = Amount(member.slashed + bond)
    state.burned = Amount(state.burned + bond)
    return [Slashed(member.address, bond, Amount(0), bond, Amount(0), reason)] if bond else []


def refund_deposit(state: State) -> list[Effect]:
    """Give what is left of the deposit and of all reserves back to the submitter. (SPEC.md 7.8)"""
    amount = Amount(state.deposit + sum(worked.reserve for worked in state.rounds))
    state.deposit = Amount(0)
    for worked in state.rounds:
        worked.reserve = Amount(0)
    credit(state, state.submitter, amount)
    return [Paid(state.submitter, amount, Payment.REFUND)]


def withdraw_stake(state: State, member: Member) -> list[Effect]:
    """Move a member's stake back to its account. (SPEC.md 7.9)"""
    amount, member.stake = member.stake, Amount(0)
    credit(state, member.address, amount)
    return [Paid(member.address, amount, Payment.STAKE)]
