"""One dispute over toy programs, played move by move through the law: an accused of any kind against a challenger.

`simulator.duel` with any lie, and what holds after every move.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from simulator.cast import job_of
from simulator.duel import FIRST, Claim, Party, contest, next_move, sealed_round
from simulator.toy import DATA, START, ToyEngine, ToyLibrary, minimal, reference, vector
from trainer.rounds import reexecution
from trainer.rounds.training import Rounds
from verification import law
from verification.claims import Split
from verification.digest import ZERO, integer, tagged
from verification.honest.actions import (
    FetchState,
    ListStates,
    Results,
    Say,
    SplitClaim,
    Traced,
    TraceProgram,
)
from verification.honest.moves import moves_in
from verification.honest.within import Held
from verification.library import Now, failed
from verification.manifest import Place
from verification.narrowing import lists_needed, positions
from verification.placed import ExecutionRef
from verification.program import elements, first_node, values
from verification.sampling import leaf_steps
from verification.signed import Said, make_statement
from verification.state import Dispute, Turn, total_money
from verification.statements import Body
from verification.tensors import Bundle, Tensor, bundle_digest
from verification.units import Address, Amount, Count, Digest, Millis

ACCUSED, CHALLENGER = Address(b"accused".ljust(20)), Address(b"challenger".ljust(20))
DEPOSIT = Amount(40_000)
MONEY = DEPOSIT + 20_000


@dataclass(frozen=True)
class Lie:
    """What an accused claims of one execution, and answers from: results and outputs of its nodes, or a failure.

    `made` are those of its results, by place, that are not the true ones: their tensors, so that it can go on below.
    """

    place: Place
    step: int
    program: Digest
    results: tuple[Digest, ...]
    outputs: tuple[Digest, ...]
    failed: int | None = None
    made: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def claim(self) -> Digest:
        """Return the value that the lie stands for."""
        return bundle_digest(self.outputs) if self.failed is None else failed(self.program, self.failed)

    def state(self, step: int, true: Digest) -> Digest:
        """Return the claimed state after a step: right before the lie, and something after it."""
        if self.place is Place.EPILOGUE or step < self.step:
            return true
        if self.failed is not None:
            return self.claim
        return self.claim if step == self.step else tagged("invented", self.claim, integer(step))


def said(sender: Address, body: Body) -> Said[Any]:
    """Return a statement as the law's handlers take it: admitted, its signature checked."""
    return Said(sender, make_statement("toy", ZERO, ZERO, body), body, b"")


class Duel:
    """A dispute in progress; `moves` counts what was admitted."""

    def __init__(self, steps: int, chain: int = 0, first: int = 1, leaf_every: int = 0) -> None:
        """Open a round of `steps` from a state whose first parameter is `first`."""
        manifest = minimal(max_steps=steps, leaf_every=leaf_every or steps, batch=1, chain=chain)
        self.start = Bundle((vector([first, 2, 3, 4]), START.tensors[1]))
        manifest = replace(manifest, start=reference(self.start))
        self.state = sealed_round(manifest, "toy", ACCUSED, CHALLENGER, steps, DEPOSIT)
        self.job, engine = job_of(self.state, FIRST, ACCUSED), ToyEngine()
        self.honest = Party(engine, Rounds(engine, manifest, DATA), self.job, self.start)
        self.states = self.honest.states(tuple(range(steps + 1)))
        self.library = ToyLibrary()
        self.moves = 0

    @property
    def dispute(self) -> Dispute:
        """Return the one dispute."""
        return self.state.disputes[0]

    def truth(self, place: Place, step: int) -> Lie:
        """Return what an honest worker would say of an execution."""
        disputed = self.honest.execution(place, step)
        traced = reexecution.trace(ToyEngine(), disputed)
        return Lie(place, step, disputed.program, traced.results, traced.outputs, traced.failed)

    def open(self, lie: Lie, seen: Lie | None = None) -> None:
        """Let the worker open what it claims and the verifier reveal the truth, or `seen`."""
        _, end = self.honest.claim()
        leaves = leaf_steps(self.job.steps, self.state.manifest.work.leaf_every)

        def side(claim: Lie | None) -> Claim:
            ends_round = claim is not None and (claim.place is Place.EPILOGUE or claim.failed is not None)
            own = claim.claim if claim is not None and ends_round else end
            states = [
                self.states[leaf] if claim is None else claim.state(leaf, self.states[leaf])
                for leaf in leaves
            ]
            return tuple(states), own

        contest(self.state, side(lie), side(seen), self.library)

    def say(self, sender: Address, body: Body) -> None:
        """Make a move and check what holds after every one."""
        law.HANDLERS[type(body)](self.state, said(sender, body), Now(Millis(1), self.library))
        self.moves += 1
        self.check()

    def check(self) -> None:
        """Check the invariants of a dispute."""
        dispute = self.dispute
        # Whatever is said, nobody makes money.
        assert total_money(self.state) == MONEY
        # What is disputed only shrinks, so the game ends: a list and a point for each level, and one last move.
        assert 0 <= dispute.game.low <= dispute.game.high <= self.job.steps
        assert self.moves <= self.bound
        # A ruling closes the dispute.
        assert (dispute.ruling is None) == (dispute.turn is not Turn.CLOSED)

    @property
    def bound(self) -> int:
        """Return how many moves a dispute takes at most. (SPEC.md 6.10)"""
        programs = [self.library.program(ref.digest) for ref in self.state.manifest.programs.all()]
        nodes = max(len(program.nodes) for program in programs)
        longest = max(elements(value) for program in programs for value in values(program))
        # Rows, blocks, a block's bytes, totals, and ranges of the terms.
        within = 3 * lists_needed(longest) + 2
        return 2 * (lists_needed(self.job.steps) + max(1, lists_needed(nodes)) + within) + 1

    def accused_says(self, lie: Lie) -> Body:
        """Return the list that the dispute waits for, made from a lie (or the truth)."""
        results, dispute = Results(), self.dispute
        results.done[FetchState(FIRST)] = True
        if isinstance(dispute.game.claim, Split) and dispute.game.node is not None:
            action = SplitClaim(dispute.execution, dispute.game.node, dispute.game.claim)
            results.done[action] = self.held(lie, dispute.game.node).split(dispute.game.claim)
        if dispute.game.trace is None and dispute.game.high - dispute.game.low > 1:
            steps = positions(dispute.game.low, dispute.game.high)
            own = tuple(lie.state(step, self.states[step]) for step in steps)
            results.done[ListStates(FIRST, ACCUSED, steps)] = own
        else:
            execution = TraceProgram(dispute.execution)
            outputs = lie.outputs if lie.failed is None else ()
            results.done[execution] = Traced(lie.failed, outputs, lie.results)
        (action,) = moves_in(self.state, dispute, results)
        assert isinstance(action, Say)
        return action.body

    def held(self, lie: Lie, number: int) -> Held:
        """Return what an accused holds of a node: the true one, or what it made of it."""
        execution = self.honest.execution(lie.place, lie.step)
        held = reexecution.hold(self.honest.engine, execution, number).held
        altered = lie.made.get(number - first_node(self.library.program(lie.program)))
        return held if altered is None else replace(held, made=altered)

    def challenger_says(self, seen: Lie | None = None) -> Body:
        """Return what an honest challenger says next, computing what it needs; one that saw `seen` believes that."""
        results = Results()
        if seen is not None:
            step = Count(seen.step if seen.place is Place.STEP else 0)
            execution = TraceProgram(ExecutionRef(FIRST, ACCUSED, seen.place, step))
            results.done[execution] = Traced(seen.failed, seen.outputs, seen.results)
        return next_move(self.state, results, self.honest.compute)

    def play(self, lie: Lie) -> Dispute:
        """Play to the end: an accused that answers from `lie` against an honest challenger."""
        while self.dispute.ruling is None:
            if self.dispute.turn is Turn.LIST:
                self.say(ACCUSED, self.accused_says(lie))
            else:
                self.say(CHALLENGER, self.challenger_says())
        return self.dispute
