"""The law: statements and time in, effects out. The state is changed only by a statement that is admitted whole.

`apply` checks the envelope and dispatches; `advance` lets time pass; both then run every transition that is due.
Whoever drives the law appends what it admitted to a log; folding the log gives the same state anywhere. (SPEC.md 3.3)
"""

from collections.abc import Callable, Mapping
from typing import Any

from verification import (
    audits,
    availability,
    contradiction,
    disputes,
    membership,
    money,
    rounds,
    silence,
    spoilage,
)
from verification.causes import Cause
from verification.debts import ChunkDebt
from verification.effects import Effect, StageChanged
from verification.errors import Refused
from verification.executor import Executor, Now
from verification.manifest import Manifest, cost_of_round, run_id
from verification.sampling import next_beacon
from verification.state import Phase, RoundState, Session, Stage, Standing, State, Watch
from verification.statements import (
    Announce,
    Answer,
    Attest,
    Body,
    ChallengeSeal,
    Chunk,
    Commit,
    Contradiction,
    Demand,
    Evidence,
    Finished,
    Join,
    Link,
    Mismatch,
    NodeList,
    Opening,
    Point,
    Reveal,
    Said,
    Seal,
    Spoiled,
    Trace,
    Verdict,
    Withdraw,
)
from verification.units import Address, Amount, Digest, Millis, Round

GENESIS_HEAD = Digest(bytes(32))


def found(
    manifest: Manifest,
    chain: str,
    submitter: Address,
    balances: Mapping[Address, Amount],
    deposit: Amount,
    now: Millis,
) -> State:
    """Return the state of a new run; raises Refused when the deposit cannot pay one round. (SPEC.md 3.1, 7.1)"""
    needed = cost_of_round(manifest)
    if deposit < needed:
        raise Refused(f"the deposit of {deposit} does not cover a round's worst case of {needed}")
    return State(
        manifest, run_id(manifest), chain, submitter, GENESIS_HEAD, dict(balances), deposit, now, now
    )


def head_of(state: State, number: Round) -> Digest:
    """Return the ledger head that statements about a round are signed over: the one at which it opened."""
    return state.rounds[number].head if number < len(state.rounds) else GENESIS_HEAD


def apply(state: State, said: Said[Body], now: Millis, executor: Executor) -> list[Effect]:
    """Admit one statement and return its effects; raises Refused or BadEvidence and changes nothing otherwise."""
    _check_place(state, said)
    if now < state.now:
        raise Refused("time does not run backwards")
    if (due := next_deadline(state)) is not None and due <= now:
        raise Refused("a deadline has passed: let time pass before the statement")
    effects = HANDLERS[type(said.body)](state, said, Now(now, executor))
    state.said[said.place] = said.digest
    state.now = now
    return [*effects, *_run_transitions(state, now)]


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
    return _run_transitions(state, state.now)


def next_deadline(state: State) -> Millis | None:
    """Return the earliest time at which `advance` would change something; None when only a statement can."""
    times: list[int] = []
    if state.stage is Stage.RUNNING:
        current = state.current
        can_close = current.phase is Phase.ATTEST and rounds.has_attested_majority(current)
        if current.phase is Phase.COMMIT or can_close or current.is_committee:
            times.append(current.deadline)
    if state.stage in (Stage.GATHERING, Stage.RUNNING):
        times.append(state.active_at + state.manifest.windows.stall)
    session = _oldest_session(state)
    if session is not None:
        times.append(session.deadline)
    times += [d.deadline for d in state.demands if not d.is_met and not d.is_overdue]
    times += [ends for d in state.open_disputes() if (ends := disputes.clock_ends(state, d)) is not None]
    silence = state.manifest.windows.silence
    debtors = (state.members[address] for address in state.debtors)
    times += [since + silence for m in debtors if (since := m.suspended_at) is not None]
    return Millis(min(times)) if times and state.stage is not Stage.ENDED else None


def _check_place(state: State, said: Said[Body]) -> None:
    """Refuse what is signed for another chain, run or head, or says a second thing in one place. (SPEC.md 3.2)"""
    if said.run != (state.chain, state.run):
        raise Refused("the statement belongs to another chain or run")
    if said.statement.head != head_of(state, said.body.round):
        raise Refused("the statement is signed over another ledger head")
    if said.place in state.said:
        raise Refused("the sender has spoken in this slot already")
    if state.stage is Stage.ENDED and not isinstance(said.body, Withdraw):
        raise Refused("the run has ended")


Handler = Callable[[State, Said[Any], Now], list[Effect]]

HANDLERS: dict[type[Body], Handler] = {
    Join: membership.process_join,
    Announce: membership.process_announce,
    Withdraw: membership.process_withdraw,
    Commit: rounds.process_commit,
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
    Point: disputes.process_point,
    Mismatch: disputes.process_mismatch,
    Evidence: disputes.process_evidence,
    Demand: availability.process_demand,
    Chunk: availability.process_chunk,
    Spoiled: spoilage.process_spoiled,
    Contradiction: contradiction.process_contradiction,
}
"""The rule of each kind. A handler checks, then changes; where it raises a Violation it has changed nothing."""


def _run_transitions(state: State, now: Millis) -> list[Effect]:
    """Run due transitions until none is left; each changes the state, and a run has finitely many."""
    effects: list[Effect] = []
    while (more := _next_transition(state, now)) is not None:
        effects += more
    return effects


def _next_transition(state: State, now: Millis) -> list[Effect] | None:
    """Run the first transition that is due and return its effects; None when there is none."""
    for transition in (
        _move_stage,
        _move_round,
        _move_session,
        _move_disputes,
        silence.next_silent,
        availability.next_overdue,
        audits.next_accusation,
        _move_end,
    ):
        effects = transition(state, now)
        if effects is not None:
            return effects
    return None


def _move_stage(state: State, now: Millis) -> list[Effect] | None:
    if state.stage is Stage.GATHERING and rounds.can_gather(state):
        state.stage = Stage.RUNNING
        return [StageChanged(state.stage, now, Cause.GATHERED), *rounds.open_round(state, now)]
    is_moving = state.stage in (Stage.GATHERING, Stage.RUNNING)
    if is_moving and now >= state.active_at + state.manifest.windows.stall:
        return rounds.drain(state, now, Cause.STALLED)
    return None


def _move_round(state: State, now: Millis) -> list[Effect] | None:
    if state.stage is not Stage.RUNNING:
        return None
    current = state.current
    is_late = now >= current.deadline
    if current.phase is Phase.COMMIT:
        # A round without workers waits its window out, so that those who come back find rounds left to train.
        is_done = bool(current.assignments) and current.commits.keys() == current.assignments.keys()
        return rounds.close_commits(state, current, now) if is_late or is_done else None
    if current.phase is Phase.ATTEST and rounds.has_attested_majority(current):
        if not is_late and not _have_all_attested(state, current):
            return None
        effects = rounds.close_round(state, current, now)
        audits.open_session(state, current.number, now)
        return effects
    if current.phase is Phase.SEAL and rounds.sealed_state(current) is not None:
        return rounds.seal_round(state, current, now)
    return rounds.let_everyone_decide(state, current, now) if current.is_committee and is_late else None


def _have_all_attested(state: State, current: RoundState) -> bool:
    return not any(
        state.members[address].standing is Standing.ACTIVE
        for address in current.members
        if address not in current.attests
    )


def _oldest_session(state: State) -> Session | None:
    """Return the first session that is not done: sessions end in order, so the open ones are the newest."""
    oldest = None
    for session in reversed(state.sessions.values()):
        if session.watch is Watch.DONE:
            break
        oldest = session
    return oldest


def _move_session(state: State, now: Millis) -> list[Effect] | None:
    """Sessions end in order, so that a link never shows before the verdicts of earlier ones are in."""
    session = _oldest_session(state)
    if session is None or not (now >= session.deadline or audits.is_session_answered(state, session)):
        return None
    steps = {
        Watch.VERDICT: audits.end_verdicts,
        Watch.OPENING: audits.end_openings,
        Watch.REVEAL: audits.end_reveals,
    }
    return steps[session.watch](state, session, now)


def _move_disputes(state: State, now: Millis) -> list[Effect] | None:
    for dispute in state.open_disputes():
        ends = disputes.clock_ends(state, dispute)
        if ends is not None and now >= ends:
            party = state.members[disputes.mover(dispute)]
            # From when the clock ended: who was late in this dispute before has that much less time left.
            return membership.suspend(state, party, dispute.debt, ends)
    return None


def _move_end(state: State, now: Millis) -> list[Effect] | None:
    """End the run once nothing about it is open; draw what was lost again as long as someone can. (SPEC.md 4.9)"""
    if state.stage is not Stage.DRAINING or _oldest_session(state) or state.open_disputes():
        return None
    if any(not isinstance(owed, ChunkDebt) for a in state.debtors for owed in state.members[a].owes):
        return None
    # Numbered past the run's rounds: a round that stalled before it closed has commits, but no audits are due on them.
    number = Round(max(state.manifest.work.rounds, max(state.sessions, default=-1) + 1))
    if state.redraws:
        state.beacon = next_beacon(state.beacon, state.fresh_links, [])
        state.fresh_links = []
        audits.open_session(state, number, now)
        if state.sessions[number].public:
            return []
        del state.sessions[number]
        state.redraws.clear()
    assert not state.queued  # each waits for an open dispute, or for a verifier that has been excluded
    state.stage = Stage.ENDED
    effects = [
        *availability.close_demands(state),
        *money.release_escrow(state, Round(len(state.rounds))),
        *money.refund_deposit(state),
    ]
    return [StageChanged(state.stage, now, Cause.SETTLED), *effects]
