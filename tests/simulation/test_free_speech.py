"""What could once be said without end or price, and now cannot: announcements, demands, bytes. (SPEC.md 3.10)"""

import dataclasses
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import ToyLibrary, minimal
from simulator.world import World
from tests.property.arena import Arena
from tests.property.strategies import of
from verification import law
from verification.adversaries import Behaviour, View
from verification.availability import show_chunk
from verification.causes import Cause, Reason
from verification.content import chunks_root, content_address
from verification.digest import ZERO, tagged
from verification.effects import Paid, Slashed
from verification.errors import BadEvidence, Malformed, Violation
from verification.honest.actions import RunRound, Say, Work
from verification.manifest import BundleRef, Place
from verification.membership import mark_away
from verification.program import outputs_of
from verification.signed import make_statement, open_statement, sign_statement
from verification.spoilage import fault
from verification.state import Standing
from verification.statements import (
    KINDS,
    Announce,
    Body,
    ChallengeSeal,
    Commit,
    Contradiction,
    Demand,
    Reveal,
    Spoiled,
    Trace,
    Withdraw,
)
from verification.units import MILLION, Amount, Count, Round

WRONG = tagged("wrong")


def signed(arena: Arena, sender: Actor, body: Body) -> bytes:
    """Return a body as `sender` signs it now, whatever it has said before."""
    state = arena.state
    head = law.head_of(state, body.round)
    return sign_statement(sender.secret, make_statement(state.chain, state.run, head, body))


def refused(arena: Arena, sender: Actor, body: Body) -> str:
    """Return why the law refuses a statement."""
    with pytest.raises(Violation) as caught:
        arena.ledger.submit(signed(arena, sender, body))
    return str(caught.value)


def begun(cheat: str = "none") -> Arena:
    """Return a run in its round 1, in which the others do their work too."""
    arena = Arena(cheat, Verifier("bad-v"))
    while arena.state.newest < 1:
        assert [arena.act(actor) for actor in [*arena.honest, *arena.others]].count(True)
    return arena


def excluded(arena: Arena) -> Actor:
    """Return a member of a run that has just been excluded, for two announcements in one place."""
    liar, reporter = arena.others[0], arena.honest[0]
    both = [signed(arena, liar, Announce(arena.state.newest, Count(0), f"/toy/{n}")) for n in range(2)]
    assert arena.submit(signed(arena, reporter, Contradiction(*both)))
    assert arena.state.members[liar.address].standing is Standing.EXCLUDED
    return liar


def test_a_member_announces_itself_once_a_round_and_the_excluded_never() -> None:
    """An excluded member once said 4,000 announcements in 26 s, for nothing, and all members kept them for ever."""
    arena = Arena("none", Verifier("bad-v"))
    everyone = [*arena.honest, *arena.others]
    for actor in everyone:
        arena.act(actor)
    who, newest = arena.others[0], arena.state.newest
    assert arena.submit(signed(arena, who, Announce(newest, Count(0), "/toy/first")))
    assert (
        refused(arena, who, Announce(newest, Count(0), "/toy/second"))
        == "the sender has spoken in this slot already"
    )
    for other in (newest + 1, newest + 99):
        assert "another round" in refused(arena, who, Announce(Round(other), Count(0), "/toy/other"))
    assert arena.state.members[who.address].endpoint == "/toy/first"
    length = len(arena.ledger.log)
    excluded(arena)
    for number in range(50):
        refused(arena, who, Announce(Round(number), Count(0), f"/toy/{number}"))
    assert len(arena.ledger.log) == length + 1


def test_who_went_away_again_in_the_round_of_its_announcement_may_come_back_in_it() -> None:
    """Where no round opens without it, nobody could go on before the run stalled."""
    arena = begun()
    who, member = arena.others[0], arena.state.members[arena.others[0].address]
    assert arena.submit(signed(arena, who, Announce(arena.state.newest, Count(0), "/toy/first")))
    mark_away(arena.state, member, Reason(Cause.IDLE, count=2))
    said = [action.body for action in who.decide(arena.state, arena.now) if isinstance(action, Say)]
    (back,) = [body for body in said if isinstance(body, Announce)]
    assert arena.submit(signed(arena, who, back))
    assert (member.standing, member.endpoint) == (Standing.ACTIVE, who.me.endpoint)
    assert "spoken in this slot" in refused(arena, who, Announce(arena.state.newest, Count(1), "/toy/other"))
    assert "another time away" in refused(arena, who, Announce(arena.state.newest, Count(2), "/toy/other"))


def test_the_excluded_end_what_is_open_and_begin_nothing() -> None:
    arena = begun()
    liar = excluded(arena)
    number, worker = Round(0), arena.honest[0].address
    words = "the sender is excluded: it may only end what is open"
    said = [
        signed(arena, arena.others[1], Announce(arena.state.newest, Count(0), text)) for text in ("/a", "/b")
    ]
    begins: list[Body] = [
        Announce(arena.state.newest, Count(0), "/x"), ChallengeSeal(number, worker), Demand(number, worker),
        Spoiled(number, worker, Count(1), ZERO, b""), Contradiction(said[0], said[1]),
    ]  # fmt: skip
    assert [refused(arena, liar, body) for body in begins] == [words] * len(begins)
    arena.pass_time(60_000)
    arena.check_end()
    assert arena.submit(signed(arena, liar, Withdraw()))
    assert not arena.submit(signed(arena, liar, Withdraw()))


def test_a_demand_that_shows_its_own_chunk_pays_something() -> None:
    arena = begun()
    doubter = arena.others[1]
    worked = next(worked for worked in arena.state.rounds if worked.included)
    before, burned = arena.state.balances[doubter.address], arena.state.burned
    assert arena.submit(signed(arena, doubter, Demand(worked.number, worked.included[0])))
    contribution = worked.commits[worked.included[0]].contribution
    shown = show_chunk(0, arena.state.demands[0].seed, arena.blobs.get(contribution.digest))
    assert arena.submit(signed(arena, doubter, shown))
    price = arena.state.manifest.money.chunk_price
    paid = [e for line in arena.ledger.log for e in line.effects if isinstance(e, Paid) and e.what == "chunk"]
    assert [(e.address, e.amount) for e in paid] == [(doubter.address, price // 2)]
    assert arena.state.balances[doubter.address] == before - price + price // 2
    assert arena.state.burned == burned + price - price // 2
    arena.check()


def test_keys_without_an_account_say_nothing_even_where_nothing_costs() -> None:
    arena = begun()
    free = dataclasses.replace(arena.state.manifest.money, chunk_price=Amount(0))
    arena.state.manifest = dataclasses.replace(arena.state.manifest, money=free)
    worked = next(worked for worked in arena.state.rounds if worked.included)
    demand = Demand(worked.number, worked.included[0])
    assert refused(arena, arena.stranger, demand) == "the sender has no account in this run"


class Garrulous(Behaviour):
    """A verifier that audits by an invented result of a thousand leaves."""

    def result(self, view: View, action: Any, compute: Callable[[], Any]) -> Any:
        """Invent what it should compute of others."""
        if not isinstance(action, RunRound):
            return compute()
        self.faults += 1
        return Work((WRONG,) * 1_000, BundleRef(WRONG, WRONG), Count(0))


def test_a_reveal_has_the_leaves_of_the_round_or_costs_what_silence_costs() -> None:
    """A blind verdict may hide any number of digests; a mebibyte of them for each audit was once free."""
    talker, others = Verifier("talker", Garrulous()), [Worker("w0"), Worker("w1"), Verifier("v0")]
    world = World(minimal(audit_rate=MILLION), [talker, *others], random.Random(3), check=Invariants(others))
    world.run()
    assert talker.behaviours[0].faults > 0
    said = [open_statement(line.data) for line in world.ledger.log if line.kind == "statement"]
    assert not [s for s in said if isinstance(s.body, Reveal) and s.sender == talker.address]
    slashed = [effect for effect in world.seen(Slashed) if effect.address == talker.address]
    assert slashed
    assert {effect.reason.cause for effect in slashed} == {Cause.SILENT}


def test_bytes_that_show_nothing_are_not_taken() -> None:
    """A contribution of a size that none has is shown by its size: a quarter of a gibibyte beside it is refused."""
    data, program = b"too short", minimal().programs.epilogue.digest
    chunks, outputs = chunks_root(data), outputs_of(ToyLibrary().program(program))
    ref = BundleRef(WRONG, content_address(Count(len(data)), chunks))
    commit = Commit(Round(0), ZERO, ZERO, ref, Count(0), ZERO)
    shown = Spoiled(Round(0), Worker("w0").address, Count(len(data)), chunks, b"")
    assert fault(commit, outputs, shown) is Cause.SPOILED_SIZE
    with pytest.raises(BadEvidence, match="show nothing"):
        fault(commit, outputs, dataclasses.replace(shown, data=data))


def test_a_statement_about_an_execution_names_one_of_the_law_s_places() -> None:
    """A place of any text would carry a mebibyte of it into the report, by way of a contradiction."""
    arena = begun()
    trace = Trace(Round(0), Place.STEP, Count(1), None, (), ())
    object.__setattr__(trace, "place", "x" * 300_000)
    with pytest.raises(Malformed, match="no such Place"):
        open_statement(signed(arena, arena.others[0], trace))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_slot_has_no_words_of_its_author(kind: Any, data: st.DataObject) -> None:
    """The reason of a conviction names the slot of a contradiction."""
    slot = data.draw(of(kind)).slot
    assert len(slot) < 200
    assert set(slot.split("/")[1:]) <= {*Place} | {
        p for p in slot.split("/") if re.fullmatch(r"[0-9a-f]*", p)
    }
