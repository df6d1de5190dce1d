"""`demand`: paid for and shown, not shown, refused; on a real ledger file with what a simulated run said."""

import random
from pathlib import Path

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.toy import ToyLibrary, minimal
from simulator.world import World
from trainer.commands.demand import Names, asked, choose, demand, outcome, wait
from verification import codec
from verification.availability import show_chunk
from verification.errors import UserError
from verification.honest.actions import OpenChunk
from verification.ledger.local import LocalLedger, create
from verification.ledger.log import Genesis
from verification.signing import checksum
from verification.state import Phase
from verification.units import Millis, Round


class Run:
    """A simulated run up to the end of its round 1, and the same on a ledger file whose clock the test sets."""

    def __init__(self, folder: Path) -> None:
        """Play, then say the same again at the same times."""
        self.actors: list[Actor] = [Worker("w0"), Worker("w1"), Verifier("v0")]
        self.world = World(minimal(rounds=4), self.actors, random.Random(7))
        self.world.run(
            until=lambda world: len(world.state.rounds) == 2 and world.state.current.phase is Phase.SEAL
        )
        first, *rest = self.world.ledger.log
        self.now = first.at
        path = folder / "ledger.sqlite"
        create(path, codec.decode(Genesis, first.data), first.at)
        self.ledger = LocalLedger(path, ToyLibrary(), lambda: self.now)
        for line in rest:
            self.now = line.at
            if line.kind == "tick":
                assert self.ledger.tick()
            else:
                self.ledger.submit(line.data)
        assert self.ledger.state.head == self.world.state.head
        self.names = Names({checksum(actor.address): actor.name for actor in self.actors})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of the test's own."""
    return Run(tmp_path)


def test_a_demand_is_shown_and_half_of_the_price_goes_to_who_showed_it(run: Run) -> None:
    payer, server = run.actors[2], run.actors[1]
    before = run.ledger.state.balances[server.address]
    found = demand(run.ledger, payer.secret, choose(run.ledger.state, 1, run.actors[0].address))
    assert "v0 pays 100 to see a chunk of w0's contribution to round 1; " in asked(
        run.ledger.state, found, run.names
    )
    waits = []

    def serve() -> None:
        waits.append(run.now)
        commit = run.ledger.state.rounds[1].commits[found.worker]
        action = OpenChunk(found.number, commit.contribution, found.seed)
        chunk = show_chunk(action.number, action.seed, run.world.blobs.bundles[commit.contribution.digest])
        run.ledger.submit(server.sign(run.ledger.state, chunk))

    shown = wait(run.ledger, found, serve)
    assert shown is not None
    assert shown[0] == server.address
    assert len(waits) == 1
    assert run.ledger.state.balances[server.address] == before + 50
    assert outcome(run.ledger.state, found, shown, run.names).startswith(
        "shown by w1, which got 50 of the 100: "
    )
    assert (
        demand(run.ledger, payer.secret, choose(run.ledger.state, 1, found.worker)) is found
    )  # known, not paid again


def test_nobody_shows_it_and_the_price_comes_back(run: Run) -> None:
    payer = run.actors[2]
    before = run.ledger.state.balances[payer.address]
    found = demand(run.ledger, payer.secret, choose(run.ledger.state, None, None))

    def pass_time() -> None:
        run.now = Millis(run.now + 100)

    assert wait(run.ledger, found, pass_time) is None
    assert run.ledger.state.balances[payer.address] == before
    said = outcome(run.ledger.state, found, None, run.names)
    assert said.startswith("not shown: the 100 came back, and ")
    assert "w1" in said


def test_what_nobody_promised_cannot_be_demanded(run: Run) -> None:
    with pytest.raises(UserError, match="nobody has attested such a contribution"):
        choose(run.ledger.state, 3, None)
    with pytest.raises(UserError, match="no peer 'w9': give an account, or one of v0, w0, w1"):
        run.names.address("w9")
    stranger = Worker("stranger")
    with pytest.raises(UserError, match="the ledger refuses the demand: "):
        demand(run.ledger, stranger.secret, choose(run.ledger.state, Round(1), None))
