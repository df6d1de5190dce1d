"""The law: statements and time in, effects out. The state is changed only by a statement that is admitted whole.

`apply` checks the envelope and dispatches; `advance` lets time pass; both then run every transition that is due.
Whoever drives the law appends what it admitted to a log; folding the log gives the same state anywhere. (SPEC.md 3.3)
"""

from collections.abc import Callable, Mapping
from typing import Any

from verification import audits, availability, contradiction, disputes, membership, rounds, spoilage
from verification.effects import Effect
from verification.errors import Refused
from verification.library import Library, Now
from verification.manifest import Manifest, cost_of_round, run_id
from verification.signed import Said
from verification.state import Stage, Standing, State
from verification.statements import (
    Announce,
    Answer,
    Attest,
    Block,
    Body,
    ChallengeSeal,
    Chunk,
    Commit,
    Contradiction,
    Demand,
    Evidence,
    FailedAt,
    Finished,
    Join,
    Link,
    Mismatch,
    NodeList,
    Opening,
    Point,
    RangeList,
    Receipt,
    ResultList,
    Reveal,
    Seal,
    Spoiled,
    Stuck,
    TotalList,
    Trace,
    Verdict,
    Withdraw,
)
from verification.transitions import next_deadline, run_due
from verification.units import Address, Amount, Digest, Millis, Round

__all__ = [
    "GENESIS_HEAD",
    "HANDLERS",
    "advance",
    "apply",
    "found",
    "head_of",
    "is_known",
    "next_deadline",
    "said_instead",
]

GENESIS_HEAD = Digest(bytes(32))


def found(
    manifest: Manifest,
    chain: str,
    submitter: Address,
    balances: Mapping[Address, Amount],
    deposit: Amount,
    now: Millis,
) -> State:
    """Return the state of a new run; raises Refused when the deposit cannot pay one round. (SPEC.md 3.1, 7.1)

    `chain` names this ledger and no other: all that is said here, and every secret that a peer makes for the run,
    depends on it.
    """
    needed = cost_of_round(manifest)
    if deposit < needed:
        raise Refused(f"the deposit of {deposit} does not cover a round's worst case of {needed}")
    run = run_id(manifest, chain)
    return State(manifest, run, chain, submitter, GENESIS_HEAD, dict(balances), deposit, now, now)


def head_of(state: State, number: Round) -> Digest:
    """Return the ledger head that statements about a round are signed over: the one at which it opened."""
    return state.rounds[number].head if number < len(state.rounds) else GENESIS_HEAD


def apply(state: State, said: Said[Body], now: Millis, library: Library) -> list[Effect]:
    """Admit one statement and return its effects; raises Refused or BadEvidence and changes nothing otherwise."""
    _check_place(state, said)
    if now < state.now:
        raise Refused("time does not run backwards")
    if (due := next_deadline(state)) is not None and due <= now:
        raise Refused("a deadline has passed: let time pass before the statement")
    effects = HANDLERS[type(said.body)](state, said, Now(now, library))
    state.said[said.place] = said.digest
    state.now = now
    return [*effects, *run_due(state)]


def is_known(state: State, said: Said[Body]) -> bool:
    """Return whether these very bytes have been admitted: a restarted peer repeats itself. (SPEC.md 3.2)"""
    return state.said.get(said.place) == said.digest


def said_instead(state: State, said: Said[Body]) -> Digest | None:
    """Return the digest of what the author of a statement has said in its place, if it is something else.

    (SPEC.md 6.9)
    """
    before = state.said.get(said.place)
    return before if said.run == (state.chain, state.run) and before != said.digest else None


def advance(state: State, now: Millis) -> list[Effect]:
    """Let time pass: run every transition whose deadline has come. Anyone may trigger it. (SPEC.md 3.9)"""
    state.now = max(state.now, now)
    return run_due(state)


def _check_place(state: State, said: Said[Body]) -> None:
    """Refuse what is signed for another chain, run or head, or says a second thing in one place, or begins something
    for an excluded member. (SPEC.md 3.2, 3.7)"""
    if said.run != (state.chain, state.run):
        raise Refused("the statement belongs to another chain or run")
    if said.statement.head != head_of(state, said.body.round):
        raise Refused("the statement is signed over another ledger head")
    if said.place in state.said:
        raise Refused("the sender has spoken in this slot already")
    if state.stage is Stage.ENDED and not isinstance(said.body, Withdraw):
        raise Refused("the run has ended")
    member = state.members.get(said.sender)
    if said.body.begins and member is not None and member.standing is Standing.EXCLUDED:
        raise Refused("the sender is excluded: it may only end what is open")


Handler = Callable[[State, Said[Any], Now], list[Effect]]

HANDLERS: dict[type[Body], Handler] = {
    Join: membership.process_join,
    Announce: membership.process_announce,
    Withdraw: membership.process_withdraw,
    Commit: rounds.process_commit,
    Receipt: rounds.process_receipt,
    Stuck: rounds.process_stuck,
    Attest: rounds.process_attest,
    Seal: rounds.process_seal,
    Verdict: audits.process_verdict,
    Finished: audits.process_finished,
    Opening: audits.process_opening,
    Reveal: audits.process_reveal,
    Link: audits.process_link,
    ChallengeSeal: disputes.process_challenge_seal,
    Answer: disputes.process_list,
    Trace: disputes.process_list,
    NodeList: disputes.process_list,
    ResultList: disputes.process_list,
    Block: disputes.process_list,
    TotalList: disputes.process_list,
    RangeList: disputes.process_list,
    FailedAt: disputes.process_list,
    Point: disputes.process_point,
    Mismatch: disputes.process_mismatch,
    Evidence: disputes.process_evidence,
    Demand: availability.process_demand,
    Chunk: availability.process_chunk,
    Spoiled: spoilage.process_spoiled,
    Contradiction: contradiction.process_contradiction,
}
"""The rule of each kind. A handler checks, then changes; where it raises a Violation it has changed nothing."""
