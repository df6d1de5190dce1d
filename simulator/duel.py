"""One dispute before the law, without the run around it: a worker's round is sealed, and an audit finds another.

What both sides compute with is theirs: toy programs and any lie in tests, a real step with a fault in `bench dispute`.
"""

from collections.abc import Callable
from typing import Any

from trainer.rounds import reexecution
from trainer.rounds.engine import Engine, Job
from trainer.rounds.training import Disputed, Rounds
from verification import disputes, law
from verification.audits import salted_root
from verification.digest import ZERO, tagged
from verification.honest.actions import (
    Computed,
    FetchState,
    ListStates,
    OpenClaim,
    OpenValue,
    Results,
    Say,
    SplitClaim,
    Traced,
    TraceProgram,
)
from verification.honest.moves import moves_in
from verification.library import Library, Now
from verification.manifest import BundleRef, Manifest, Place
from verification.placed import ExecutionRef
from verification.signed import Said, make_statement
from verification.state import Assignment, Member, Phase, RoundState, Stage, State
from verification.statements import VERIFIER, WORKER, Body, ChallengeSeal, Commit, Opening, Reveal, Seal
from verification.tensors import Bundle, digest_of
from verification.units import Address, Amount, Count, Digest, Millis, Round

FIRST = Round(0)
NEVER = Millis(10**12)

Answerable = TraceProgram | SplitClaim | OpenClaim | OpenValue
"""What moves ask of an execution."""

Claim = tuple[tuple[Digest, ...], Digest]
"""The state digests at a round's leaves, and the contribution's or the failure's."""


def sealed_round(
    manifest: Manifest, chain: str, accused: Address, challenger: Address, steps: int, deposit: Amount
) -> State:
    """Return a run's state: `accused` worked `steps` in round 0, which is sealed, and `challenger` may audit it."""
    state = law.found(manifest, chain, Address(b"s" * 20), {}, deposit, Millis(0))
    state.stage, state.active_at = Stage.DRAINING, NEVER
    for address, role in ((accused, WORKER), (challenger, VERIFIER)):
        state.members[address] = Member(address, role, Amount(10_000), 1, ZERO, "", Round(-1))
    worked = RoundState(
        FIRST, manifest.start, state.beacon, tagged("head"), Millis(0), Millis(0), {},
        {accused: Assignment(0, steps, Amount(10_000))}, phase=Phase.SEALED,
    )  # fmt: skip
    worked.reserve, state.deposit = state.deposit, Amount(0)
    state.rounds.append(worked)
    return state


def contest(state: State, claimed: Claim, found: Claim, library: Library) -> tuple[Commit, Opening]:
    """Have the worker open what it `claimed` and the verifier reveal what it `found`: the dispute is open.

    Returns what the worker has said.
    """
    accused, challenger = state.members
    worked, (digests, contribution) = state.rounds[FIRST], claimed
    salts = (ZERO,) * len(digests)
    leaves = salted_root(state.run, FIRST, digests, salts)
    start, ref = state.manifest.start.digest, BundleRef(contribution, contribution)
    commit, opening = Commit(FIRST, start, leaves, ref, Count(0), ZERO), Opening(FIRST, digests, salts)
    worked.commits[accused] = commit
    ends = Place.PROLOGUE, Place.STEP
    failure = disputes.failure_in(state, (*digests, contribution), ends, None, library)
    if failure is not None:  # as `audits.process_opening` does
        worked.failures[accused] = failure
    worked.openings[accused] = opening
    reveal = Reveal(FIRST, FIRST, accused, found[0], (found[1],), ZERO)
    disputes.open_from_audit(state, challenger, reveal, Millis(0))
    return commit, opening


def contest_seal(
    state: State, claimed: Digest, found: Digest, contribution: Digest, library: Library
) -> tuple[Commit, Seal]:
    """Have both sides seal a next state, made of the worker's `contribution`, and one contest the other's: the dispute
    is open.

    Returns what the accused has said.
    """
    accused, challenger = state.members
    worked = state.rounds[FIRST]
    start, ref = state.manifest.start.digest, BundleRef(contribution, contribution)
    commit, seal = Commit(FIRST, start, ZERO, ref, Count(0), ZERO), Seal(FIRST, BundleRef(claimed, claimed))
    worked.commits[accused], worked.included = commit, (accused,)
    worked.seals |= {accused: seal.state, challenger: BundleRef(found, found)}
    body = ChallengeSeal(FIRST, accused)
    statement = make_statement(state.chain, state.run, law.head_of(state, FIRST), body)
    disputes.process_challenge_seal(state, Said(challenger, statement, body, b""), Now(Millis(0), library))
    return commit, seal


class Party:
    """One side: it computes the round on its engine, and what its moves ask for."""

    def __init__(self, engine: Engine, rounds: Rounds, job: Job, start: Bundle) -> None:
        """`rounds` run on `engine`; `job` is the accused's, from the state `start`."""
        self.engine, self.rounds = engine, rounds
        self._job, self._start = job, start.tensors
        self._holding: tuple[ExecutionRef, int, reexecution.Holding] | None = None

    def claim(self) -> Claim:
        """Return what the round comes to."""
        outcome = self.rounds.run(self._job, self._start)
        end = outcome.failed if outcome.contribution is None else digest_of(outcome.contribution)
        assert end is not None
        return outcome.digests, end

    def execution(self, place: Place, step: int) -> Disputed:
        """Return an execution of the round."""
        return self.rounds.disputed(self._job, self._start, place, step)

    def states(self, steps: tuple[int, ...]) -> tuple[Digest, ...]:
        """Return the state digests after these steps."""
        return self.rounds.digests_after(self._job, self._start, steps)

    def compute(self, action: Computed, results: Results | None = None) -> Any:
        """Return what a move asks for; a trace that is among the `results` is not made again."""
        if isinstance(action, ListStates):
            return self.states(action.steps)
        assert isinstance(action, Answerable)
        execution = action.execution
        known = None if results is None else results.done.get(TraceProgram(execution))
        if isinstance(action, SplitClaim):
            return self.hold(action).held.split(action.claim)
        if isinstance(action, OpenClaim) and known is not None:
            return reexecution.open_claim(self.hold(action), known.results, action.claim, action.trail)
        return answer(self.engine, self.execution(execution.place, execution.step), action, known)

    def hold(self, action: SplitClaim | OpenClaim) -> reexecution.Holding:
        """Return the node that a move asks about; the last one is kept."""
        wanted = action.execution, action.node
        if self._holding is None or self._holding[:2] != wanted:
            disputed = self.execution(action.execution.place, int(action.execution.step))
            self._holding = *wanted, reexecution.hold(self.engine, disputed, action.node)
        return self._holding[2]


def answer(
    engine: Engine,
    disputed: Disputed,
    action: Answerable,
    known: Traced | None = None,
) -> Any:
    """Return what a move asks of a disputed execution; `known` is its trace where that has been made."""
    if isinstance(action, SplitClaim):
        return reexecution.hold(engine, disputed, action.node).held.split(action.claim)
    traced = reexecution.trace(engine, disputed) if known is None else known
    match action:
        case TraceProgram():
            return traced
        case OpenClaim(_, node, claim, trail):
            holding = reexecution.hold(engine, disputed, node)
            return reexecution.open_claim(holding, traced.results, claim, trail)
        case OpenValue(_, value, trail):
            return reexecution.open_value(engine, disputed, traced.results, value, trail)


def next_move(state: State, results: Results, compute: Callable[[Computed], Any]) -> Body:
    """Return what an honest party says next in the one dispute; what `compute` finds is kept among the results."""
    results.done[FetchState(FIRST)] = True
    while True:
        (action,) = moves_in(state, state.disputes[0], results)
        if isinstance(action, Say):
            return action.body
        assert isinstance(action, Computed)
        results.done[action] = compute(action)
