"""Whatever members and strangers submit, each has only so much on the ledger. (SPEC.md 3.10)"""

import dataclasses
import random
from collections.abc import Iterator
from itertools import islice, product
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from simulator.cast import Actor, Verifier
from simulator.toy import minimal
from tests.property.arena import Arena
from verification import bounds, law
from verification.adversaries import FalseAccuser, Invent, SkipDuties
from verification.digest import ZERO
from verification.errors import Violation
from verification.manifest import BundleRef
from verification.placed import OfRun, Once
from verification.signed import make_statement, open_statement, sign_statement
from verification.state import Stage
from verification.statements import KINDS, Contradiction
from verification.units import Address, Count, Digest, Round

FLOOD = 6
"""Statements of one kind that each of them submits at once."""


class Flood(RuleBasedStateMachine):
    """Honest peers follow `decide`; two members, also once they are excluded, and a stranger say all they can."""

    arena: Arena

    @initialize(
        cheat=st.sampled_from(["skip-steps", "noise", "none"]),
        who=st.integers(0, 3),
        committee=st.sampled_from([0, 3]),
        overlap=st.booleans(),
    )
    def sit_down(self, cheat: str, who: int, committee: int, overlap: bool) -> None:
        """The two lie in their work too, so that there are disputes, demands and convicts."""
        lies = [[], [FalseAccuser(None)], [Invent()], [SkipDuties()]][who]
        self.arena = Arena(cheat, Verifier("bad-v", *lies), committee=committee, overlap=overlap)
        for actor in [*self.arena.honest, *self.arena.others]:
            self.arena.act(actor)

    @rule(duration=st.sampled_from([10, 100, 500, 1500, 7000]), awake=st.sets(st.integers(0, 1)))
    def time_passes(self, duration: int, awake: set[int]) -> None:
        """Honest peers act; the others are excluded for their silence sooner or later."""
        self.arena.awake = [self.arena.others[who] for who in sorted(awake)]
        self.arena.pass_time(duration)

    @rule(seed=st.integers(0, 10**6))
    def all_three_say_what_they_can(self, seed: int) -> None:
        """Every kind with every round, worker, dispute, number and text, as many as can matter."""
        arena, rng = self.arena, random.Random(seed)
        for kind in KINDS.values():
            bodies = list(islice(every(kind, arena), 500))
            for body in rng.sample(bodies, min(FLOOD, len(bodies))):
                for sender in [*arena.others, arena.stranger]:
                    self._say(sender, body)

    def _say(self, sender: Actor, body: Any) -> None:
        arena, state = self.arena, self.arena.state
        before = {address: dataclasses.replace(member) for address, member in state.members.items()}
        statement = make_statement(state.chain, state.run, law.head_of(state, body.round), body)
        data = sign_statement(sender.secret, statement)
        try:
            is_new = arena.ledger.submit(data)
        except Violation:
            return
        if is_new:
            arena.count(before, open_statement(data))

    @invariant()
    def nobody_has_more_than_its_bound(self) -> None:
        """Entries of one sender about one round; `Arena.submit` counts each kind."""
        arena = self.arena
        arena.check()
        manifest, members = arena.state.manifest, {sender for sender, _, _ in arena.spoken}
        assert len(members) <= arena.accounts
        whole = sum(
            bounds.most(kind, manifest, arena.accounts) for kind in KINDS.values() if issubclass(kind, OfRun)
        )
        about_rounds = bounds.most_entries(manifest, arena.accounts) * (arena.state.newest + 1)
        for member in members:
            said = sum(count for (sender, _, _), count in arena.spoken.items() if sender == member)
            assert said <= about_rounds + whole

    def teardown(self) -> None:
        """The run ends all the same, and then everyone takes its stake once."""
        for _ in range(14):
            if self.arena.state.stage is not Stage.ENDED:
                self.arena.pass_time(7_000)
        self.all_three_say_what_they_can(0)
        self.arena.check()


def every(kind: Any, arena: Arena) -> Iterator[Any]:
    """Yield bodies of a kind with every combination of values that mean something in a run."""
    if kind is Contradiction:
        return
    people = [actor.address for actor in [*arena.honest, *arena.others, arena.stranger]]
    pools: dict[Any, list[Any]] = {
        Round: [Round(number) for number in range(len(arena.state.rounds) + 3)],
        Address: people, tuple[Address, ...]: [(), tuple(people[:1])], Digest: [ZERO], bytes: [b""],
        str: ["/toy/here", "/toy/there"], BundleRef: [BundleRef(ZERO, ZERO)],
        Count: [Count(number) for number in range(6)],
    }  # fmt: skip
    fields = dataclasses.fields(kind)
    if any(field.type not in pools for field in fields):
        return
    for values in product(*(pools[field.type] for field in fields)):
        yield kind(*values)


TestFlood = pytest.mark.slow(Flood.TestCase)
TestFlood.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_a_kind_has_a_bound_that_the_founding_gives(kind: Any) -> None:
    assert isinstance(kind.once, Once)
    assert bounds.most(kind, minimal(), 1) >= 1
    assert bounds.most(kind, minimal(), 7) <= 10**4


def test_the_bound_of_a_round_grows_with_the_square_of_the_accounts_at_most() -> None:
    few, many = (bounds.most_entries(minimal(), accounts) for accounts in (10, 1_000))
    assert few < 10**4
    assert many <= 100 * few
