"""A peer that misbehaves: what it forges goes past its journal, and an honest peer reports it from the ledger."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio

from p2p.identity import load
from trainer.events import EventLog
from trainer.folder import RunFolder
from trainer.peer.rogue import Rogue
from trainer.peer.runtime import Peer, PeerConfig
from trainer.runs.create import Created
from verification import law
from verification.adversaries import Behaviour, Forge, View
from verification.digest import ZERO
from verification.honest.actions import (
    Computed,
    FetchState,
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


async def opened(
    run: RunFolder, kind: type[Peer], name: str, nursery: trio.Nursery, cheat: str = "none"
) -> Peer:
    """Return a peer with its ledger open, that takes no part yet."""
    identity = load(run.keys / f"{name}.key")
    config = PeerConfig(run, name, identity, "worker", cheat=cheat)
    run.peer(name).mkdir(parents=True)
    peer = kind(config, read_genesis(run.ledger), nursery, EventLog(run.log(name), name))
    await peer._ledger.open()
    return peer


def own(run: RunFolder, name: str) -> Me:
    """Return what a peer is."""
    identity = load(run.keys / f"{name}.key")
    return Me(identity.address, identity.salt_secret, "worker", Amount(1_000_000), 1, "")


async def test_a_second_statement_is_refused_kept_and_reported_by_an_honest_peer(run: RunFolder) -> None:
    head = law.GENESIS_HEAD
    async with trio.open_nursery() as nursery:
        rogue = await opened(run, Rogue, "peer-0", nursery, "equivocate")
        honest = await opened(run, Peer, "peer-1", nursery)
        for peer in (rogue, honest):
            await peer._do(Say(JOIN), head)
        await rogue._do(Forge(OTHER), head)
        await honest._ledger.refresh()
        ((author, _, _),) = honest._ledger.contradictions
        assert author == load(run.keys / "peer-0.key").address
        async with honest._ledger.state() as state:
            (report,) = (a for a in honest._decide(state, own(run, "peer-1")) if _is_report(a))
        await honest._do(report, head)
        async with honest._ledger.state() as state:
            assert state.members[author].standing.value == "excluded"
            assert not any(_is_report(act) for act in honest._decide(state, own(run, "peer-1")))
    journal = sqlite3.connect(run.peer("peer-0") / "said.sqlite")
    assert journal.execute("SELECT count(*) FROM said").fetchone() == (1,)
    journal.close()


def _is_report(act: Any) -> bool:
    return isinstance(act, Say) and isinstance(act.body, Contradiction)


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

    async def compute(self: Peer, action: Computed) -> str:
        computed.append(action)
        return "true"

    monkeypatch.setattr(Peer, "_compute", compute)
    async with trio.open_nursery() as nursery:
        rogue = await opened(run, Rogue, "peer-0", nursery, "dawdle")
        assert isinstance(rogue, Rogue)
        rogue._behaviours, rogue._me = [Meddler()], own(run, "peer-0")
        assert await rogue._compute(FetchState(Round(0))) == "invented"
        wanted = RunRound(Round(0), Address(bytes(20)))
        assert await rogue._compute(wanted) == "true"
    assert computed == [wanted]
    assert rogue._behaviours[0].faults == 1
