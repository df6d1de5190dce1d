"""The law of crews without anything computed: who works together, who missed a round, who is paid. (SPEC.md 4.17)"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

from simulator.memory import Clock, MemoryLedger
from simulator.toy import PROGRAMS
from simulator.toy_crew import with_crews
from trainer.peer.crew import outlook
from trainer.peer.share import Outlook
from verification import law, signing
from verification.crews import disagreeing, neighbours
from verification.digest import ZERO, tagged
from verification.economics import adversaries
from verification.effects import Slashed
from verification.errors import UserError
from verification.forming import Apart
from verification.game import Game
from verification.ledger.log import Genesis
from verification.manifest import (
    BundleRef,
    Crossing,
    Cut,
    Manifest,
    Place,
    Post,
    WorkUnits,
    cost_of_round,
)
from verification.parting import apart_in, part
from verification.program import Node
from verification.signed import make_statement, sign_statement
from verification.staking import require_posts
from verification.state import (
    GRACE,
    Dispute,
    Member,
    Parting,
    Phase,
    RoundState,
    Standing,
    State,
    Turn,
    open_questions,
)
from verification.statements import (
    VERIFIER,
    WORKER,
    Attest,
    Body,
    Commit,
    Contradiction,
    Join,
    Receipt,
    Seal,
    Stuck,
)
from verification.units import Address, Amount, Count, Millis, Round
from verification.waiting import commits_end

SPEED = 1_000_000
FUNDS = Amount(50_000)


def post(shard: int) -> Post:
    return Post(Count(0), Count(shard))


def chain_of(shards: int, **rules: Any) -> Manifest:
    """A manifest with a cut of so many shards, of which each has a crossing with the next, both ways."""
    made = with_crews(**rules)
    shard, count = made.cuts[0].shards[0], range(shards)
    ways = [way for place in count[1:] for way in ((place - 1, place), (place, place - 1))]
    cut = Cut(
        tuple(dataclasses.replace(shard, parameters=(Count(place),)) for place in count),
        tuple(Crossing(Count(maker), (Count(taker),)) for maker, taker in ways),
    )
    return dataclasses.replace(made, cuts=(cut,))


class Town:
    """Accounts that say what a test wants, to a ledger that counts all money."""

    def __init__(self, manifest: Manifest, crews: Sequence[str], *others: str) -> None:
        """Each of `crews` has a member for each shard, named by it: they, then the `others` and a verifier join."""
        self.shards = len(manifest.cuts[0].shards)
        members = {f"{crew}{shard}": post(shard) for crew in crews for shard in range(self.shards)}
        names = [*members, *others, "verifier"]
        self._secrets = {name: hashlib.sha256(name.encode()).digest() for name in names}
        self.address = {name: signing.address_of(secret) for name, secret in self._secrets.items()}
        balances = tuple((address, FUNDS) for address in self.address.values())
        deposit = Amount(cost_of_round(manifest) * manifest.work.rounds)
        genesis = Genesis(manifest, "toy", ZERO, Address(b"submitter".ljust(20, b"\0")), balances, deposit)
        self.ledger = MemoryLedger.found(genesis, Clock(Millis(0)))
        for name in names:
            role = VERIFIER if name == "verifier" else WORKER
            stake = Amount(5_000 if role == VERIFIER else 10_000)
            self.say(name, Join(role, stake, Count(SPEED), ZERO, "/here", members.get(name)))

    @property
    def state(self) -> State:
        return self.ledger.state

    @property
    def current(self) -> RoundState:
        return self.state.current

    def member(self, name: str) -> Member:
        return self.state.members[self.address[name]]

    def sign(self, name: str, body: Body) -> bytes:
        head = law.head_of(self.state, body.round)
        return sign_statement(
            self._secrets[name], make_statement(self.state.chain, self.state.run, head, body)
        )

    def say(self, name: str, body: Body) -> None:
        self.ledger.submit(self.sign(name, body))

    def commit(self, name: str, wrong: int | None = None) -> Commit:
        """What a worker commits to; a member to the root `wrong` with one of its neighbours."""
        own = self.current.assignments[self.address[name]].post
        near = () if own is None else neighbours(self.state.manifest.cuts[0], int(own.shard))
        shared = tuple(tagged("root") if other != wrong else tagged("wrong") for other in near)
        digest = tagged("work", name.encode())
        ref, start = BundleRef(digest, digest), self.current.start.digest
        return Commit(self.current.number, start, digest, ref, Count(1), ZERO, own, shared)

    def decide(self) -> None:
        """All members attest what there is, and seal."""
        worked = self.current
        for name in self.address:
            if worked.phase is Phase.ATTEST and self.member(name).standing is Standing.ACTIVE:
                self.say(name, Attest(worked.number, tuple(sorted(worked.commits))))
        for name in self.address:
            if worked.phase is Phase.SEAL and self.address[name] in worked.members:
                self.say(name, Seal(worked.number, BundleRef(tagged("next"), tagged("next"))))


def test_nobody_misses_a_round_because_another_of_its_crew_says_that_it_is_stuck() -> None:
    town = Town(chain_of(3, min_workers=2), ["a"], "whole")
    for name in ("a0", "a1", "a2"):
        town.member(name).capacity = 3
    town.say("a0", Stuck(Round(0), town.address["a1"]))
    town.say("a1", Stuck(Round(0), town.address["a0"]))
    town.say("whole", town.commit("whole"))
    town.decide()
    assert town.state.rounds[0].phase is Phase.SEALED
    assert [town.member(name).missed for name in ("a0", "a1", "a2")] == [0, 0, 0]
    assert [town.member(name).capacity for name in ("a0", "a1", "a2")] == [3, 3, 3]


def test_who_is_named_and_says_nothing_has_missed_the_round_and_keeps_its_share() -> None:
    town = Town(chain_of(3, min_workers=2), ["a"], "whole")
    town.member("a1").capacity = 3
    town.say("a0", Stuck(Round(0), town.address["a1"]))
    town.say("whole", town.commit("whole"))
    town.decide()
    assert [town.member(name).missed for name in ("a0", "a1", "a2")] == [0, 1, 0]
    assert town.member("a1").capacity == 3


def pairs(town: Town, *names: str) -> set[tuple[Address, ...]]:
    """Pairs as `parted` has them, each named by a word."""
    return {tuple(sorted(town.address[name] for name in pair.split())) for pair in names}


@pytest.mark.parametrize("silent", ["a0", "a1", "a2"])
def test_who_alone_does_not_commit_is_not_waited_for_long_and_parted(silent: str) -> None:
    town = Town(chain_of(3, min_workers=2), ["a"], "whole")
    others = [name for name in ("a0", "a1", "a2") if name != silent]
    for name in (*others, "whole"):
        town.say(name, town.commit(name))
    grace = town.state.manifest.windows.commit // GRACE
    assert commits_end(town.state, town.current) == grace < town.current.deadline
    town.ledger.clock.now = Millis(grace)
    town.ledger.tick()
    town.decide()
    near = {"a0": ["a1"], "a1": ["a0", "a2"], "a2": ["a1"]}[silent]
    assert town.state.parted.keys() == pairs(town, *(f"{silent} {mate}" for mate in near))
    assert {name: town.member(name).missed for name in ("a0", "a1", "a2")} == {silent: 1} | dict.fromkeys(
        others, 0
    )
    assert not any(isinstance(each, Slashed) for each in town.ledger.effects)


def test_each_time_two_are_parted_for_twice_as_many_rounds_and_once_at_a_time() -> None:
    town = Town(chain_of(2), ["a"])
    one, other = town.address["a0"], town.address["a1"]
    for number in (0, 0, 1, 2, 3, 7, 8):
        part(town.state, other, one, Round(number))
    (key,) = pairs(town, "a0 a1")
    assert town.state.parted == {key: Parting(3, Round(16))}
    assert apart_in(town.state, Round(16)) == Apart({key}, {key})
    assert apart_in(town.state, Round(17)) == Apart({key}, set())


@pytest.mark.parametrize("lead", ["a0", "b0"])
def test_whichever_crew_is_parted_its_members_work_in_the_next_round(lead: str) -> None:
    town = Town(chain_of(2, min_workers=2), ["a", "b"])
    apart = town.current.crews[town.address[lead]]
    town.say(lead, Stuck(Round(0), apart[1]))
    for name in ("a0", "a1", "b0", "b1"):
        if town.address[name] not in apart:
            town.say(name, town.commit(name))
    town.decide()
    assert town.current.number == 1
    assert len(town.current.assignments) == 4
    assert apart[1] not in town.current.crews[apart[0]]


def test_who_may_lack_another_that_is_missing_has_the_whole_window() -> None:
    town = Town(chain_of(3, min_workers=2), ["a"], "whole")
    for name in ("a0", "whole"):
        town.say(name, town.commit(name))
    assert commits_end(town.state, town.current) == town.current.deadline
    town.ledger.clock.now = town.current.deadline
    town.ledger.tick()
    town.decide()
    assert town.state.parted.keys() == pairs(town, "a0 a1")  # for a2 nobody vouches


def test_a_liar_that_commits_first_parts_nobody_but_itself() -> None:
    """Without its receipt a0 cannot commit, and says so; a2 has signed for all that there was."""
    town = Town(chain_of(3, min_workers=2), ["a"], "whole")
    for name in ("a1", "whole"):
        town.say(name, town.commit(name))
    assert commits_end(town.state, town.current) == Millis(town.state.manifest.windows.commit // GRACE)
    town.say("a0", Stuck(Round(0), town.address["a1"]))
    assert town.current.phase is Phase.ATTEST
    town.decide()
    assert town.state.parted.keys() == pairs(town, "a0 a1")
    assert [town.member(name).missed for name in ("a0", "a1", "a2")] == [0, 0, 0]


def test_a_member_that_others_hurry_has_time_to_commit_and_then_to_name_who_did_without_its_receipt() -> None:
    town = Town(chain_of(3, min_workers=2), ["a"], "whole")
    for name in ("a1", "whole"):
        town.say(name, town.commit(name))
    a0, a1 = (town.address[name] for name in ("a0", "a1"))
    end = commits_end(town.state, town.current)
    assert outlook(town.state, Round(0), a0, [a1], Millis(end // 2 - 1)) == Outlook(None, False, a1)
    assert outlook(town.state, Round(0), a0, [a1], Millis(end - end // 20)) == Outlook(None, True, a1)
    town.say("a0", Stuck(Round(0), a1))
    assert outlook(town.state, Round(0), town.address["a2"], [a1], end) == Outlook(a1, False)


def test_a_contradiction_about_a_round_that_never_opened_convicts() -> None:
    town = Town(chain_of(3, min_workers=2), ["a"], "whole")
    one = dataclasses.replace(town.commit("a1"), round=Round(999))
    two = dataclasses.replace(one, norm=Count(2))
    town.say("a0", Contradiction(town.sign("a1", one), town.sign("a1", two)))
    assert town.member("a1").standing is Standing.EXCLUDED


def test_mates_whose_work_counts_are_paid_for_it_once() -> None:
    town = Town(chain_of(2, min_workers=2), ["a"], "whole")
    for name in ("a0", "a1", "whole"):
        town.say(name, town.commit(name))
    other = dataclasses.replace(town.commit("a1"), norm=Count(2))
    contradiction = Contradiction(town.sign("a1", town.commit("a1")), town.sign("a1", other))
    town.say("whole", contradiction)
    assert town.member("a1").standing is Standing.EXCLUDED
    town.decide()
    assert town.address["a0"] in town.state.rounds[0].included
    assert town.member("a0").rewards == 0
    assert town.member("a0").escrow[Round(0)] > 0


@pytest.mark.parametrize("closes_first", [False, True])
def test_mates_are_paid_for_work_that_a_lie_took_whenever_it_is_shown(closes_first: bool) -> None:
    town = Town(chain_of(3, min_workers=2), ["a"], "whole")
    receipt = town.sign("a1", Receipt(Round(0), Count(0), tagged("root")))
    lie = town.commit("a1", wrong=0)
    for name in ("a0", "a2", "whole"):
        town.say(name, town.commit(name))
    town.say("a1", lie)
    signed = town.sign("a1", lie)
    if closes_first:
        town.decide()
    town.say("a0", Contradiction(receipt, signed))
    (slashed,) = (each for each in town.ledger.effects if isinstance(each, Slashed))
    share = (slashed.stake - slashed.burned) // 2
    assert [town.member(name).rewards for name in ("a0", "a2")] == [share, share]
    assert 2 * slashed.burned >= slashed.stake


def test_crews_are_compared_in_time_that_grows_with_their_number() -> None:
    cut = chain_of(64).cuts[0]
    commits = [
        Commit(
            Round(0), ZERO, ZERO, BundleRef(ZERO, ZERO), Count(1), ZERO, post(shard),
            (ZERO,) * len(neighbours(cut, shard)),
        )
        for shard in range(64)
    ]  # fmt: skip
    assert disagreeing(cut, commits) == []
    commits[5] = dataclasses.replace(commits[5], shared=(tagged("else"), ZERO))
    assert disagreeing(cut, commits) == [(4, 5)]


def test_a_crew_that_computes_nothing_gains_all_its_rewards_and_loses_one_stake() -> None:
    rules = {"rounds": 10, "max_steps": 64, "reward_per_step": 1, "fee_per_step": 10, "min_verifiers": 2}
    manifest = chain_of(4, escrow_rounds=2, worker_stake=3_000, **rules)
    part = WorkUnits(*(Count(max(1, units // 4)) for units in dataclasses.astuple(manifest.units)))
    cut = manifest.cuts[0]
    equal = tuple(dataclasses.replace(shard, units=part) for shard in cut.shards)
    manifest = dataclasses.replace(manifest, cuts=(dataclasses.replace(cut, shards=equal),))
    assert not any(row.pays for row in adversaries(dataclasses.replace(manifest, cuts=())))
    identities = [row for row in adversaries(manifest) if row.name.startswith("an identity")]
    alone, crews = sorted(identities, key=lambda row: "crew" in row.name)
    assert crews.pays
    assert crews.gain * 10 > alone.gain * 9  # as much for all members as for a whole worker, but for rounding
    assert crews.loss * 3 < alone.loss


def test_nothing_about_a_crew_is_final_while_one_of_it_is_accused() -> None:
    town = Town(chain_of(3, min_workers=2), ["a"], "whole")
    for name in ("a0", "a1", "a2", "whole"):
        town.say(name, town.commit(name))
    accused, challenger = town.address["a1"], town.address["verifier"]
    game = Game(Place.STEP, 0, 1, ZERO, ZERO)
    town.state.running[0] = Dispute(
        0,
        Round(0),
        accused,
        challenger,
        1,
        opened=game,
        game=game,
        turn=Turn.LIST,
        since=Millis(0),
        clocks={},
    )
    assert open_questions(town.state) >= {(Round(0), town.address[name]) for name in ("a0", "a1", "a2")}
    assert (Round(0), town.address["whole"]) not in open_questions(town.state)


def test_an_outer_step_that_reads_a_contributions_norm_has_no_crews() -> None:
    """Of a crew there are several: nobody could say which one an outer step reads."""
    manifest = with_crews()
    programs = {place: PROGRAMS[manifest.programs.at(place).digest] for place in Place}
    places = (Place.PROLOGUE, Place.STEP, Place.EPILOGUE)
    shards = {at: {p: PROGRAMS[manifest.shard(at).at(p).digest] for p in places} for at in manifest.posts()}
    require_posts(manifest, programs, shards)
    outer = programs[Place.OUTER]
    norm = next(number for number, port in enumerate(outer.inputs) if port.name == "norm0")
    reading = Node("absolute", (Count(norm),), (), "int64", (Count(1),))
    wrong = programs | {Place.OUTER: dataclasses.replace(outer, nodes=(*outer.nodes, reading))}
    with pytest.raises(UserError, match="norm or loss, of which a crew has several"):
        require_posts(manifest, wrong, shards)
    with pytest.raises(UserError, match="not of one number"):
        require_posts(manifest, programs, {})
