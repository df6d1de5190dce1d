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
from verification.executor import Executor
from verification.honest.actions import (
    Computed,
    FetchState,
    ListStates,
    OpenNode,
    OpenValue,
    Results,
    Say,
    Traced,
    TraceProgram,
)
from verification.honest.moves import moves_in
from verification.manifest import BundleRef, Manifest, Place
from verification.state import Assignment, Member, Phase, RoundState, Stage, State
from verification.statements import VERIFIER, WORKER, Body, Commit, Opening, Reveal
from verification.tensors import Bundle, digest_of
from verification.units import Address, Amount, Count, Digest, Millis, Round

FIRST = Round(0)
NEVER = Millis(10**12)

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


def contest(state: State, claimed: Claim, found: Claim, executor: Executor) -> tuple[Commit, Opening]:
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
    failure = disputes.failure_in(state, (*digests, contribution), (Place.PROLOGUE, Place.STEP), executor)
    if failure is not None:  # as `audits.process_opening` does
        worked.failures[accused] = failure
    reveal = Reveal(FIRST, FIRST, accused, *found, ZERO)
    disputes.open_from_audit(state, challenger, opening, reveal, Millis(0))
    return commit, opening


class Party:
    """One side: it computes the round on its engine, and what its moves ask for."""

    def __init__(self, engine: Engine, rounds: Rounds, job: Job, start: Bundle) -> None:
        """`rounds` run on `engine`; `job` is the accused's, from the state `start`."""
        self.engine, self.rounds = engine, rounds
        self._job, self._start = job, start

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
        assert isinstance(action, TraceProgram | OpenNode | OpenValue)
        execution = action.execution
        known = None if results is None else results.done.get(TraceProgram(execution))
        return answer(self.engine, self.execution(execution.place, execution.step), action, known)


def answer(
    engine: Engine,
    disputed: Disputed,
    action: TraceProgram | OpenNode | OpenValue,
    known: Traced | None = None,
) -> Any:
    """Return what a move asks of a disputed execution; `known` is its trace where that has been made."""
    traced = reexecution.trace(engine, disputed) if known is None else known
    match action:
        case TraceProgram():
            return traced
        case OpenNode(_, node, trail):
            return reexecution.make_inputs(engine, disputed, traced.results, node, trail)
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
