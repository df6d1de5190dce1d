"""What a peer says: once per place as long as it is refused, over the head of its round, and from its journal."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2p.identity import load
from trainer.events import EventLog
from trainer.folder import RunFolder
from trainer.peer.journal import Journal, journal_of
from trainer.peer.runtime import Peer, PeerConfig
from trainer.runs.create import Created
from verification import law
from verification.digest import ZERO
from verification.errors import UserError
from verification.honest.actions import Say
from verification.ledger.local import read_genesis
from verification.statements import Attest, Join, Link
from verification.units import Amount, Count, Round

pytestmark = pytest.mark.slow
JOIN = Join("worker", Amount(1_000_000), Count(1), ZERO, "/ip4/127.0.0.1/tcp/1")


@pytest.fixture
def run(tiny_run: Created, tmp_path: Path) -> RunFolder:
    """A run of the test's own."""
    return RunFolder(Path(shutil.copytree(tiny_run.folder.path, tmp_path / "run")))


async def opened(run: RunFolder, name: str) -> Peer:
    """Return a peer with its ledger open, that takes no part yet."""
    run.peer(name).mkdir(parents=True, exist_ok=True)
    key = run.keys / f"{name}.key"
    config = PeerConfig(run, key, load(key), "worker")
    peer = Peer(config, read_genesis(run.ledger), EventLog(run.log(name), name))
    await peer._ledger.open()
    return peer


def journal_in(run: RunFolder, name: str) -> Journal:
    """Return a peer's journal, opened beside it."""
    key, genesis = run.keys / f"{name}.key", read_genesis(run.ledger)
    identity = load(key)
    return Journal(journal_of(key, identity.address), identity.secret, genesis.chain, genesis.run)


def events(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    """Return what peer-0 wrote down of a kind."""
    lines = run.log("peer-0").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


async def test_what_is_refused_is_said_again_when_the_ledger_has_moved_and_not_before(run: RunFolder) -> None:
    """Attestations of a round that is not there are refused; another place is another matter."""
    peer, other = await opened(run, "peer-0"), await opened(run, "peer-1")
    early = Say(Attest(Round(0), ()))
    for _ in range(3):
        await peer._policy.say(early)
    assert len(events(run, "declined")) == 1
    await peer._policy.say(Say(Link(Round(0), ZERO)))
    assert len(events(run, "declined")) == 2
    await other._policy.say(Say(JOIN))
    await peer._ledger.refresh()
    for _ in range(3):
        await peer._policy.say(early)
    assert [event["statement"] for event in events(run, "declined")] == ["Attest", "Link", "Attest"]


async def test_a_join_that_the_run_would_not_take_is_not_signed(run: RunFolder) -> None:
    peer, poor = await opened(run, "peer-0"), replace(JOIN, stake=Amount(5))
    journal = journal_in(run, "peer-0")
    with pytest.raises(UserError, match=r"as a worker that stakes 5: .* see --stake"):
        await peer._policy.say(Say(poor))
    assert journal.signed(law.GENESIS_HEAD, poor) is None
    await peer._policy.say(Say(JOIN))
    async with peer._ledger.state() as state:
        assert state.members[load(run.keys / "peer-0.key").address].stake == JOIN.stake


async def test_a_join_that_was_refused_is_never_said_differently(run: RunFolder) -> None:
    poor, head = replace(JOIN, stake=Amount(5)), law.GENESIS_HEAD
    await opened(run, "peer-0")
    signed = journal_in(run, "peer-0").sign(head, poor)  # by one that lost its place between look and word
    for wanted in (poor, JOIN):
        peer = await opened(run, "peer-0")
        with pytest.raises(UserError, match=r"stakes 5: .* cannot say otherwise: take another --key"):
            await peer._policy.say(Say(wanted))
        assert journal_in(run, "peer-0").sign(head, wanted) == signed
    async with peer._ledger.state() as state:
        assert not state.members


async def test_what_is_said_wakes_the_peer_and_is_on_record(run: RunFolder) -> None:
    peer = await opened(run, "peer-0")
    assert not peer._wake.is_set()
    await peer._policy.say(Say(JOIN))
    assert peer._wake.is_set()
    ((said),) = events(run, "said")
    assert (said["statement"], said["size"] > 100) == ("Join", True)
    async with peer._ledger.state() as state:
        assert load(run.keys / "peer-0.key").address in state.members
