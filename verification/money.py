"""Every movement of money. Each function moves amounts between places that `total_money` counts, so none is made or
lost. (SPEC.md 7)"""

from collections.abc import Sequence

from verification.effects import Effect, Paid, Slashed
from verification.errors import Refused
from verification.manifest import fee_of, reward_of
from verification.state import Member, Standing, State
from verification.units import MILLION, Address, Amount, Round


def pay_stake(state: State, address: Address, amount: Amount) -> None:
    """Take `amount` from an account for a stake; raises Refused when the balance is smaller."""
    balance = state.balances.get(address, Amount(0))
    if balance < amount:
        raise Refused(f"the account holds {balance}, the stake is {amount}")
    state.balances[address] = Amount(balance - amount)


def credit(state: State, address: Address, amount: Amount) -> None:
    """Add `amount` to an account's balance."""
    state.balances[address] = Amount(state.balances.get(address, 0) + amount)


def escrow_reward(state: State, member: Member, number: Round, steps: int) -> None:
    """Move a round's reward from the deposit into the worker's escrow. (SPEC.md 7.2)"""
    amount = reward_of(state.manifest, steps)
    state.deposit = Amount(state.deposit - amount)
    member.escrow[number] = Amount(member.escrow.get(number, 0) + amount)


def pay_fee(state: State, member: Member, steps: int) -> list[Effect]:
    """Pay a verifier from the deposit for an audit of `steps` inner steps. (SPEC.md 7.3)"""
    amount = fee_of(state.manifest, steps)
    state.deposit = Amount(state.deposit - amount)
    credit(state, member.address, amount)
    member.rewards = Amount(member.rewards + amount)
    return [Paid(member.address, amount, "fee")]


def release_escrow(state: State, before: Round) -> list[Effect]:
    """Pay out rewards of rounds before `before` to members that nothing is held against. (SPEC.md 7.4)"""
    accused = {dispute.accused for dispute in state.open_disputes()}
    effects: list[Effect] = []
    for member in state.members.values():
        if member.address in accused or member.standing is Standing.SUSPENDED:
            continue
        for number in [number for number in member.escrow if number < before]:
            amount = member.escrow.pop(number)
            credit(state, member.address, amount)
            member.rewards = Amount(member.rewards + amount)
            effects.append(Paid(member.address, amount, "reward"))
    return effects


def slash(state: State, member: Member, finders: Sequence[Address], reason: str) -> Slashed:
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


def charge_accuser(state: State, challenger: Member, accused: Address, reason: str) -> list[Effect]:
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
        Paid(accused, to_accused, "bond"),
    ]


def charge_silent(state: State, member: Member, reason: str) -> list[Effect]:
    """Burn the bond of a verifier that never opened what it committed to blindly: as dear as a lie. (SPEC.md 7.7)"""
    bond = Amount(min(member.stake, state.manifest.money.accuser_bond))
    member.stake = Amount(member.stake - bond)
    member.slashed = Amount(member.slashed + bond)
    state.burned = Amount(state.burned + bond)
    return [Slashed(member.address, bond, Amount(0), bond, Amount(0), reason)] if bond else []


def refund_deposit(state: State) -> list[Effect]:
    """Give what is left of the deposit back to the submitter. (SPEC.md 7.8)"""
    amount, state.deposit = state.deposit, Amount(0)
    credit(state, state.submitter, amount)
    return [Paid(state.submitter, amount, "refund")]


def withdraw_stake(state: State, member: Member) -> list[Effect]:
    """Move a member's stake back to its account. (SPEC.md 7.9)"""
    amount, member.stake = member.stake, Amount(0)
    credit(state, member.address, amount)
    return [Paid(member.address, amount, "stake")]
