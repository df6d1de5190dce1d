"""A peer that misbehaves: what it forges goes past its journal, and an honest peer reports it from the ledger."""

import shutil
import sqlite3
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from p2p.identity import load
from trainer.events import EventLog
from trainer.folder import RunFolder
from trainer.peer.config import Account, Joining, PeerConfig
from trainer.peer.deeds import Deeds
from trainer.peer.rogue import Rogue, misbehaving
from trainer.peer.runtime import Peer
from trainer.runs.create import Created
from verification.adversaries import Behaviour, Forge, View
from verification.digest import ZERO
from verification.honest.actions import (
    Computed,
    FetchState,
    ListStates,
    RunRound,
    Say,
)
from verification.honest.decide import Me
from verification.ledger.local import read_genesis
from verification.statements import Contradiction, Join
from verification.units import Address, Amount, Count, Round

pytestmark = pytest.mark.slow

JOIN = Join("worker", Amount(1_000_000), Count(1), ZERO, "/ip4/127.0.0.1/tcp/1")
OTHER = Join("worker", Amount(1_000_001), Count(1), ZERO, "/ip4/127.0.0.1/tcp/1")


@pytest.fixture
def run(tiny_run: Created, tmp_path: Path) -> RunFolder:
    """A run of the test's own."""
    return RunFolder(Path(shutil.copytree(tiny_run.folder.path, tmp_path / "run")))


async def opened(run: RunFolder, name: str, cheat: str = "none") -> Peer:
    """Return a peer with its ledger open, that takes no part yet."""
    config = PeerConfig(run, Account.read(run.keys / f"{name}.key"), Joining("worker"))
    if cheat != "none":
        config = misbehaving(config, cheat, 1)
    run.peer(name).mkdir(parents=True)
    peer = Peer(config, read_genesis(run.ledger), EventLog(run.log(name), name))
    await peer._ledger.open()
    return peer


async def reports(peer: Peer, me: Me) -> list[Say]:
    """Return the contradictions that a peer would report now."""
    async with peer._look(me) as view:
        wanted = peer._policy.decide(view, peer._ledger.contradictions)
    return [act for act in wanted if isinstance(act, Say) and isinstance(act.body, Contradiction)]


def own(run: RunFolder, name: str) -> Me:
    """Return what a peer is."""
    identity = load(run.keys / f"{name}.key")
    return Me(identity.address, identity.salt_secret, "worker", Amount(1_000_000), 1, "")


async def test_a_second_statement_is_refused_kept_and_reported_by_an_honest_peer(run: RunFolder) -> None:
    rogue = await opened(run, "peer-0", "equivocate")
    honest = await opened(run, "peer-1")
    for peer in (rogue, honest):
        await peer._policy.say(Say(JOIN))
    await rogue._policy.say(Forge(OTHER))
    await honest._ledger.refresh()
    ((author, _, _),) = honest._ledger.contradictions
    assert author == load(run.keys / "peer-0.key").address
    (report,) = await reports(honest, own(run, "peer-1"))
    await honest._policy.say(report)
    async with honest._ledger.state() as state:
        assert state.members[author].standing.value == "excluded"
    assert not await reports(honest, own(run, "peer-1"))
    journal = sqlite3.connect(rogue._config.account.journal)
    assert journal.execute("SELECT count(*) FROM said").fetchone() == (1,)
    journal.close()


class Meddler(Behaviour):
    """Invents a start state and asks for the true result of everything else."""

    def result(self, view: View, action: Computed, compute: Any) -> Any:
        """Count what it was given."""
        if isinstance(action, FetchState):
            return "invented"
        true = compute()
        if true is not None:
            self.faults += 1
        return true


async def test_what_a_behaviour_invents_is_not_computed_and_what_it_wants_is_computed_once(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[Computed] = []

    async def compute(self: Deeds, action: Computed, as_auditor: bool) -> str:
        computed.append(action)
        return "true"

    monkeypatch.setattr(Deeds, "compute", compute)
    peer = await opened(run, "peer-0", "dawdle")
    rogue, me = peer._policy, own(run, "peer-0")
    assert isinstance(rogue, Rogue)
    rogue._behaviours = [Meddler()]

    def look() -> AbstractAsyncContextManager[View]:
        return peer._look(me)

    assert await rogue.compute(FetchState(Round(0)), look) == "invented"
    wanted = RunRound(Round(0), Address(bytes(20)))
    assert await rogue.compute(wanted, look) == "true"
    assert computed == [wanted]
    assert rogue._behaviours[0].faults == 1


async def test_a_cheat_that_answers_honestly_lists_as_an_auditor_and_trains_as_it_does(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own round is a cheat's; what it lists of it in a dispute is the true engine's."""
    asked: list[tuple[Computed, bool]] = []

    async def compute(self: Deeds, action: Computed, as_auditor: bool) -> None:
        asked.append((action, as_auditor))

    monkeypatch.setattr(Deeds, "compute", compute)
    me = own(run, "peer-0")
    round_, states = RunRound(Round(1), me.address), ListStates(Round(1), me.address, (1, 2))
    for name, cheat in (("peer-0", "skip-steps,answers-honestly"), ("peer-1", "skip-steps,dawdle")):
        peer = await opened(run, name, cheat)
        assert peer._bench._program == ("trainer.shards.cheating", cheat, "1")
        for action in (round_, states):
            await peer._policy.compute(action, lambda seen=peer: seen._look(me))
    assert asked == [(round_, False), (states, True), (round_, False), (states, False)]
