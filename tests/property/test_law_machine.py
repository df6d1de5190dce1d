"""The law under random statements from random senders at random times, with honest peers among them."""

import copy
import dataclasses
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from simulator.cast import Verifier
from simulator.toy import BrokenEngine
from tests.property.arena import Arena
from tests.property.strategies import of
from trainer.rounds.cheats import CHEATS
from verification import codec, law
from verification.adversaries import FalseAccuser, Invent, Mute, SkipDuties, WrongSeal
from verification.content import chunks_root
from verification.digest import ZERO, tagged
from verification.honest.actions import Say
from verification.honest.decide import decide
from verification.signed import make_statement, open_statement, sign_statement
from verification.state import Stage
from verification.statements import KINDS, ChallengeSeal, Contradiction, OpenedInput, Spoiled
from verification.units import Address, Count, Digest, Millis, Round

WRONG = tagged("wrong")
NAPS = 5_000
"""Milliseconds for which honest peers may be gone in all: less than `silence`, which is for the whole of a dispute."""
kinds = st.sampled_from(sorted(KINDS))


class LawMachine(RuleBasedStateMachine):
    """Honest peers follow `decide`; a worker and a verifier mix honest, altered and invented statements."""

    arena: Arena

    @initialize(
        cheat=st.sampled_from(sorted(CHEATS)),
        leaf=st.sampled_from([None, 0, 1, 3]),
        who=st.integers(0, 4),
        funded=st.sampled_from([3, 1]),
        committee=st.sampled_from([0, 1, 3, 5]),
        overlap=st.booleans(),
        in_crews=st.booleans(),
        broken=st.sampled_from([None, ("prologue", 0), ("inner", 3), ("inner", 8), ("epilogue", 3)]),
    )
    def sit_down(
        self,
        cheat: str,
        leaf: int | None,
        who: int,
        funded: int,
        committee: int,
        overlap: bool,
        in_crews: bool,
        broken: tuple[str, int] | None,
    ) -> None:
        """Choose how the two others lie when they do compute."""
        lies = [[], [FalseAccuser(leaf)], [Invent()], [WrongSeal(), Mute(ChallengeSeal)], [SkipDuties()]][who]
        liar = Verifier("bad-v", *lies)
        self.arena = Arena(cheat, liar, funded, in_crews, committee=committee, overlap=overlap)
        self.naps = NAPS
        if broken is not None:
            self.arena.others[0].engine = BrokenEngine(*broken)
        for actor in [*self.arena.honest, *self.arena.others]:
            self.arena.act(actor)

    @rule(duration=st.sampled_from([10, 50, 100, 500, 1500, 7000]), awake=st.sets(st.integers(0, 1)))
    def time_passes(self, duration: int, awake: set[int]) -> None:
        """Honest peers act; silence may run out for those of the others that do not."""
        self.arena.awake = [self.arena.others[who] for who in sorted(awake)]
        self.arena.pass_time(duration)

    @rule(who=st.integers(0, 5))
    def someone_is_killed_and_starts_again(self, who: int) -> None:
        """Only its key and what it has signed are left."""
        self.arena.kill([*self.arena.honest, *self.arena.others][who])

    @rule(who=st.integers(0, 3), duration=st.sampled_from([50, 300, 1200, 2500]))
    def an_honest_peer_is_gone_for_a_while(self, who: int, duration: int) -> None:
        """In all for less than `silence`: it comes back and answers what it owes."""
        if duration < self.naps:
            self.naps -= duration
            self.arena.asleep = {self.arena.honest[who].address}
            self.arena.pass_time(duration)
            self.arena.asleep = set()
            self.arena.kill(self.arena.honest[who])

    @rule(times=st.integers(1, 6))
    def everyone_acts(self, times: int) -> None:
        """Go on by a few actions without time passing, so that lies fall into every phase."""
        for _ in range(times):
            for actor in [*self.arena.honest, *self.arena.others]:
                self.arena.act(actor)

    @rule(who=st.integers(0, 1), choice=st.integers(0, 5), data=st.data())
    def other_alters_what_it_should_say(self, who: int, choice: int, data: st.DataObject) -> None:
        """Change one field of an honest statement, sometimes twice in one place."""
        actor, arena = self.arena.others[who], self.arena
        says = [
            a for a in decide(arena.state, actor.me, actor.results, Millis(arena.now)) if isinstance(a, Say)
        ]
        if says:
            arena.submit(actor.sign(arena.state, altered(data.draw, says[choice % len(says)].body)))

    @rule(who=st.integers(0, 2), kind=kinds, data=st.data())
    def someone_invents_a_statement(self, who: int, kind: str, data: st.DataObject) -> None:
        """Fill a statement of any kind with values from this run, or with noise."""
        arena = self.arena
        sender = [*arena.others, arena.stranger][who]
        body = self._invented(data.draw, KINDS[kind])
        if body is not None:
            head = data.draw(st.sampled_from([law.head_of(arena.state, body.round), ZERO, WRONG]))
            statement = make_statement(arena.state.chain, arena.state.run, head, body)
            arena.submit(sign_statement(sender.secret, statement))

    @rule(place=st.integers(0, 10**6), flip=st.integers(1, 255), data=st.data())
    def bytes_are_repeated_or_damaged(self, place: int, flip: int, data: st.DataObject) -> None:
        """What was admitted is acknowledged again; one flipped byte is refused."""
        said = self.arena.said
        if said:
            old = bytearray(data.draw(st.sampled_from(said[-20:])))
            assert not self.arena.submit(bytes(old))
            old[place % len(old)] ^= flip
            assert not self.arena.submit(bytes(old))

    @rule(who=st.integers(0, 1), reporter=st.integers(0, 6), place=st.integers(0, 50))
    def someone_reports_a_contradiction(self, who: int, reporter: int, place: int) -> None:
        """Two different statements of one place convict; the same one twice, or honest ones, never do."""
        arena = self.arena
        journal = sorted(
            arena.others[who].journal.items(), key=lambda item: (item[0][0], item[0][1], item[0][2])
        )
        if journal and place % 5 == 0:
            (_, slot, head), data = journal[place % len(journal)]
            body = open_statement(data).body
            other = altered(lambda strategy: None, body, WRONG)
            statement = make_statement(arena.state.chain, arena.state.run, head, other)
            second = sign_statement(arena.others[who].secret, statement) if statement.slot == slot else data
            sender = [*arena.honest, *arena.others, arena.stranger][reporter]
            arena.submit(sender.sign(arena.state, Contradiction(data, second)))

    @rule(place=st.integers(0, 50), flip=st.integers(0, 255), told=st.booleans(), whose=st.integers(0, 2))
    def someone_shows_bytes_as_spoiled(self, place: int, flip: int, told: bool, whose: int) -> None:
        """Right ones, damaged ones, of a right or a wrong size: no honest commitment is spoiled by any."""
        arena = self.arena
        commits = [(w, c) for worked in arena.state.rounds for w, c in sorted(worked.commits.items())]
        if commits:
            worker, commit = commits[place % len(commits)]
            data = bytearray(codec.encode(arena.blobs.get(commit.contribution.digest)))
            data[place % len(data)] ^= flip
            size, chunks = Count(len(data) + whose), chunks_root(bytes(data))
            body = Spoiled(commit.round, worker, size, chunks, bytes(data) if told else b"")
            sender = [*arena.others, arena.stranger][whose]
            statement = make_statement(
                arena.state.chain, arena.state.run, law.head_of(arena.state, commit.round), body
            )
            arena.submit(sign_statement(sender.secret, statement))

    @invariant()
    def nothing_is_lost_and_no_honest_peer_pays(self) -> None:
        """Check money and deadlines."""
        self.arena.check()

    @invariant()
    def nobody_is_parted_over_work_that_counts(self) -> None:
        """Of each pair there is a round of theirs that did not."""
        state = self.arena.state
        for one, other in state.parted:
            shared = [worked for worked in state.rounds if other in worked.crews.get(one, ())]
            assert any(not worked.was_included(one) for worked in shared)

    def teardown(self) -> None:
        """Replay the log; let the run end, once as it is and once with everyone silent: nothing stays locked."""
        assert self.arena.ledger.replay() == self.arena.state
        silent = copy.deepcopy(self.arena.ledger)
        for _ in range(300):  # far more deadlines than three rounds have
            if (deadline := law.next_deadline(silent.state)) is not None:
                silent.clock.now = deadline
                assert silent.tick()
        silent_end = copy.copy(self.arena)
        silent_end.ledger = silent
        silent_end.check_end()
        for _ in range(14):
            if self.arena.state.stage is not Stage.ENDED:
                self.arena.pass_time(7_000)
        self.arena.check()
        self.arena.check_end()

    def _invented(self, draw: Any, kind: type) -> Any:
        state = self.arena.state
        people = [actor.address for actor in [*self.arena.honest, *self.arena.others, self.arena.stranger]]
        pools: dict[Any, list[Any]] = {
            Round: list(range(len(state.rounds) + 2)),
            Address: people,
            Digest: [ZERO, WRONG, *(worked.start.digest for worked in state.rounds)],
        }
        if kind is Contradiction:
            return None
        body = draw(of(kind))
        values = {}
        for field in dataclasses.fields(kind):
            hint = KINDS_HINTS[kind][field.name]
            if hint in pools:
                values[field.name] = draw(st.sampled_from(pools[hint]))
            elif field.name in ("dispute", "demand", "level", "index"):
                values[field.name] = draw(st.integers(0, 4))
            elif hint == tuple[Address, ...]:
                values[field.name] = tuple(draw(st.lists(st.sampled_from(people), max_size=3)))
        return dataclasses.replace(body, **values)


def altered(draw: Any, body: Any, fixed: Digest | None = None) -> Any:
    """Return the body with one digest (or list of them) changed, where it has one."""
    hints = KINDS_HINTS[type(body)]
    names = [
        name for name, hint in hints.items() if hint in (Digest, tuple[Digest, ...], tuple[OpenedInput, ...])
    ]
    if not names:
        return body
    name = names[0] if fixed is not None else draw(st.sampled_from(names))
    value = getattr(body, name)
    if hints[name] is Digest:
        return dataclasses.replace(body, **{name: WRONG})
    if not value or fixed is not None:
        return dataclasses.replace(body, **{name: ()})
    place = draw(st.integers(0, len(value) - 1))
    is_digests = hints[name] == tuple[Digest, ...]
    changed = WRONG if is_digests else dataclasses.replace(value[place], path=(WRONG,))
    return dataclasses.replace(body, **{name: (*value[:place], changed, *value[place + 1 :])})


KINDS_HINTS = {
    kind: {field.name: field.type for field in dataclasses.fields(kind)} for kind in KINDS.values()
}  # fmt: skip

TestLaw = pytest.mark.slow(LawMachine.TestCase)
TestLaw.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
