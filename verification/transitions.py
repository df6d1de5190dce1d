"""What the law does by itself: every transition with its deadline, in the order in which due ones run. (SPEC.md 3.9)

A transition is due when its deadline has come, or earlier when what it waits for is there (`is_ready`). `make docs`
prints the table into SPEC.md, from the first lines of the functions named here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from verification import audits, availability, disputes, membership, money, rounds, silence, waiting
from verification.causes import Cause
from verification.debts import ChunkDebt
from verification.effects import Effect, StageChanged
from verification.sampling import next_beacon
from verification.state import Phase, Stage, State
from verification.units import Millis, Round


def never(state: State) -> None:
    """Never."""


@dataclass(frozen=True)
class Transition:
    """One transition: when it is due, and what it does then. Each `run` changes the state, and a run has only so many.

    `deadline` gives a time or None; only it can make the transition due while nothing is said.
    """

    name: str
    run: Callable[[State], list[Effect]]
    deadline: Callable[[State], Millis | None] = never
    is_ready: Callable[[State], bool | None] = never

    def is_due(self, state: State) -> bool:
        """Return whether it must run at the state's own time."""
        deadline = self.deadline(state)
        return (deadline is not None and deadline <= state.now) or bool(self.is_ready(state))


def next_deadline(state: State) -> Millis | None:
    """Return the earliest time at which something is due although nothing is said; None without one."""
    if state.stage is Stage.ENDED:
        return None
    times = [time for each in TRANSITIONS if (time := each.deadline(state)) is not None]
    return min(times, default=None)


def run_due(state: State) -> list[Effect]:
    """Run what is due, the first in order at a time, until nothing is left."""
    effects: list[Effect] = []
    while (due := _first_due(state)) is not None:
        effects += due.run(state)
    return effects


def _first_due(state: State) -> Transition | None:
    if state.stage is Stage.ENDED:
        return None
    return next((each for each in TRANSITIONS if each.is_due(state)), None)


def _can_gather(state: State) -> bool:
    """Enough members have joined."""
    return state.stage is Stage.GATHERING and rounds.can_gather(state)


def _gather(state: State) -> list[Effect]:
    """The run begins, and round 0 opens. (SPEC.md 4.1)"""
    state.stage = Stage.RUNNING
    changed = StageChanged(state.stage, state.now, Cause.GATHERED)
    return [changed, *rounds.open_round(state, state.now)]


def _stall_ends(state: State) -> Millis | None:
    """`stall` after the last round opened, or the founding, while members gather or rounds run."""
    is_moving = state.stage in (Stage.GATHERING, Stage.RUNNING)
    return Millis(state.active_at + state.manifest.windows.stall) if is_moving else None


def _stall(state: State) -> list[Effect]:
    """The run drains. (SPEC.md 4.8)"""
    return rounds.drain(state, state.now, Cause.STALLED)


def _is_in(state: State, *phases: Phase) -> bool:
    return state.stage is Stage.RUNNING and state.deciding.phase in phases


def _commit_ends(state: State) -> Millis | None:
    """The end of the commit window; sooner once most of the work is in, or all but who missed its last round (3.8)."""
    return waiting.commits_end(state, state.deciding) if _is_in(state, Phase.COMMIT) else None


def _have_all_committed(state: State) -> bool:
    """All assigned have committed, but for crews that cannot go on, and some were assigned."""
    # A round without workers waits its window out, so that those who come back find rounds left to train.
    if not _is_in(state, Phase.COMMIT):
        return False
    return bool(state.deciding.assignments) and state.deciding.commits.keys() >= state.deciding.awaited


def _close_commits(state: State) -> list[Effect]:
    """Attestations begin. (SPEC.md 4.4)"""
    return rounds.close_commits(state, state.deciding, state.now)


def _is_attested(state: State) -> bool:
    return _is_in(state, Phase.ATTEST) and waiting.has_attested_majority(state.deciding)


def _attest_ends(state: State) -> Millis | None:
    """Likewise of the attest window, once more than half of the weight has attested (3.8)."""
    return waiting.attests_end(state, state.deciding) if _is_attested(state) else None


def _have_all_attested(state: State) -> bool:
    """All active members have attested, and they are more than half of the weight."""
    return _is_attested(state) and waiting.have_all_attested(state, state.deciding)


def _close_round(state: State) -> list[Effect]:
    """What is included is decided, the beacon is drawn, and the round's audits with it. (SPEC.md 4.6, 5.1)"""
    current = state.deciding
    effects = rounds.close_round(state, current, state.now)
    audits.open_session(state, current.number, state.now)
    return effects


def _is_sealed(state: State) -> bool:
    """More than half of the weight has signed one state."""
    return _is_in(state, Phase.SEAL) and rounds.sealed_state(state.deciding) is not None


def _seal_round(state: State) -> list[Effect]:
    """It is the next state; after the last round the run drains. (SPEC.md 4.7, 4.8)"""
    return rounds.seal_round(state, state.deciding, state.now)


def _can_open(state: State) -> bool:
    """The last is far on, as many verifiers are active as are promised, and audits and disputes are not far behind."""
    if state.stage is not Stage.RUNNING or not rounds.may_open(state):
        return False
    behind = Round(max(0, len(state.rounds) - state.manifest.money.escrow_rounds))
    return rounds.has_promised_verifiers(state) and audits.are_judged_before(state, behind)


def _open_round(state: State) -> list[Effect]:
    """The next round opens, or the run drains because the deposit cannot pay one. (SPEC.md 4.1)"""
    return rounds.open_round(state, state.now)


def _committee_ends(state: State) -> Millis | None:
    """The end of the attest or seal window, while a committee decides."""
    is_waiting = _is_in(state, Phase.ATTEST, Phase.SEAL) and state.deciding.is_committee
    return state.deciding.deadline if is_waiting else None


def _replace_committee(state: State) -> list[Effect]:
    """Everyone decides in its place, with one more window. (SPEC.md 4.14)"""
    return rounds.let_everyone_decide(state, state.deciding, state.now)


def _session_ends(state: State) -> Millis | None:
    """The end of the phase of the oldest session that is not done."""
    session = audits.oldest_session(state)
    return None if session is None else session.deadline


def _is_session_answered(state: State) -> bool:
    """Everyone that its phase waits for has spoken."""
    session = audits.oldest_session(state)
    return session is not None and audits.is_session_answered(state, session)


def _move_session(state: State) -> list[Effect]:
    """Its next phase begins; after the last its audits are judged. (SPEC.md 5.6, 5.9)"""
    session = audits.oldest_session(state)
    assert session is not None
    return audits.end_phase(state, session, state.now)


def _clock_ends(state: State) -> Millis | None:
    """The first end of a party's clock in a dispute whose move it is, unless it is suspended for that already."""
    ends = (disputes.clock_ends(state, dispute) for dispute in state.open_disputes())
    return min((end for end in ends if end is not None), default=None)


def _suspend_mover(state: State) -> list[Effect]:
    """It is suspended, from the end of its clock on. (SPEC.md 6.8)"""
    for dispute in state.open_disputes():
        ends = disputes.clock_ends(state, dispute)
        if ends is not None and ends <= state.now:
            # From when the clock ended: who was late in this dispute before has that much less time left.
            return membership.suspend(state, state.members[disputes.mover(dispute)], dispute.debt, ends)
    raise AssertionError("no clock has run out")


def _can_end(state: State) -> bool:
    """The run drains, and no session, dispute or debt but a chunk is open."""
    if state.stage is not Stage.DRAINING or audits.oldest_session(state) or state.open_disputes():
        return False
    debts = (owed for address in state.debtors for owed in state.members[address].owes)
    return all(isinstance(owed, ChunkDebt) for owed in debts)


def _end(state: State) -> list[Effect]:
    """Lost audits are drawn once more while someone can take them; else the run ends. (SPEC.md 4.9)"""
    # Numbered past the run's rounds: a round that stalled before it closed has commits, but no audits are due on them.
    number = Round(max(state.manifest.work.rounds, max(state.sessions, default=-1) + 1))
    if state.redraws:
        state.beacon = next_beacon(state.beacon, state.fresh_links, [])
        state.fresh_links = []
        audits.open_session(state, number, state.now)
        if state.sessions[number].public:
            return []
        del state.sessions[number]
    unpaid: list[Effect] = []
    if not rounds.has_promised_verifiers(state):
        for work, worker in sorted(state.redraws):
            if not audits.was_passed(state, work, worker):
                unpaid += money.withhold(state, work, worker)
    state.redraws.clear()
    assert not state.queued  # each waits for an open dispute, or for a verifier that has been excluded
    state.stage = Stage.ENDED
    return [
        StageChanged(state.stage, state.now, Cause.SETTLED),
        *unpaid,
        *availability.close_demands(state),
        *money.release_escrow(state, Round(len(state.rounds))),
        *money.refund_deposit(state),
    ]


TRANSITIONS = (
    Transition("gather", _gather, is_ready=_can_gather),
    Transition("stall", _stall, _stall_ends),
    Transition("close commits", _close_commits, _commit_ends, _have_all_committed),
    Transition("close round", _close_round, _attest_ends, _have_all_attested),
    Transition("seal round", _seal_round, is_ready=_is_sealed),
    Transition("open round", _open_round, is_ready=_can_open),
    Transition("replace committee", _replace_committee, _committee_ends),
    Transition("move session", _move_session, _session_ends, _is_session_answered),
    Transition("suspend mover", _suspend_mover, _clock_ends),
    Transition("convict silent", silence.convict_silent, silence.silence_ends),
    Transition("void demand", availability.void_demand, availability.demand_ends),
    Transition("judge queued", audits.judge_queued, is_ready=audits.can_judge_queued),
    Transition("end", _end, is_ready=_can_end),
)
"""All transitions, in the order in which due ones run."""
