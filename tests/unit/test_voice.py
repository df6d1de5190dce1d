"""What a peer says: once per place as long as it is refused, over the head of its round, and from its journal."""

import json
import os
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2p.identity import load
from trainer.events import EventLog
from trainer.folder import RunFolder
from trainer.peer.config import Account, Joining, PeerConfig
from trainer.peer.journal import Journal
from trainer.peer.runtime import Peer, run_peer
from trainer.programs.options import AS_PEERS
from trainer.runs.create import Created
from verification.digest import ZERO
from verification.errors import UserError
from verification.honest.actions import Say
from verification.law import GENESIS_HEAD
from verification.ledger.local import read_genesis
from verification.statements import Attest, Join, Link
from verification.units import Amount, Count, Round

pytestmark = pytest.mark.slow
JOIN = Join("worker", Amount(1_000_000), Count(1), ZERO, "/ip4/127.0.0.1/tcp/1")
POOR = replace(JOIN, stake=Amount(5))


@pytest.fixture
def run(tiny_run: Created, tmp_path: Path) -> RunFolder:
    """A run of the test's own."""
    return RunFolder(Path(shutil.copytree(tiny_run.folder.path, tmp_path / "run")))


def journal(run: RunFolder) -> Journal:
    """Return the journal of peer-0's account."""
    account, genesis = Account.read(run.keys / "peer-0.key"), read_genesis(run.ledger)
    return Journal(account.journal, account.identity.secret, genesis.chain, genesis.run)


async def opened(run: RunFolder, name: str) -> Peer:
    """Return a peer with its ledger open, that takes no part yet."""
    run.peer(name).mkdir(parents=True, exist_ok=True)
    config = PeerConfig(run, Account.read(run.keys / f"{name}.key"), Joining("worker"))
    peer = Peer(config, read_genesis(run.ledger), EventLog(run.log(name), name))
    await peer._ledger.open()
    return peer


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


async def test_what_is_said_wakes_the_peer_and_is_on_record(run: RunFolder) -> None:
    peer = await opened(run, "peer-0")
    assert not peer._wake.is_set()
    await peer._policy.say(Say(JOIN))
    assert peer._wake.is_set()
    ((said),) = events(run, "said")
    assert (said["statement"], said["size"] > 100) == ("Join", True)
    async with peer._ledger.state() as state:
        assert load(run.keys / "peer-0.key").address in state.members
        assert [digest.hex() for digest in state.said.values()] == [said["digest"]]


async def test_a_join_that_the_run_would_not_take_is_not_signed(run: RunFolder) -> None:
    peer = await opened(run, "peer-0")
    with pytest.raises(UserError, match=r"as a worker that stakes 5: .* see --stake"):
        await peer._policy.say(Say(POOR))
    with closing(journal(run)) as own:
        assert own.signed(GENESIS_HEAD, POOR) is None
    await peer._policy.say(Say(JOIN))
    async with peer._ledger.state() as state:
        assert state.members[peer._config.account.address].stake == JOIN.stake


async def test_a_join_that_was_refused_is_never_said_differently(run: RunFolder) -> None:
    with closing(journal(run)) as own:
        signed = own.sign(GENESIS_HEAD, POOR)  # as a peer did that lost its place between look and word
        for wanted in (POOR, JOIN):
            peer = await opened(run, "peer-0")
            with pytest.raises(UserError, match=r"stakes 5: .* cannot say otherwise: take another --key"):
                await peer._policy.say(Say(wanted))
            assert own.sign(GENESIS_HEAD, wanted) == signed
    async with peer._ledger.state() as state:
        assert not state.members


async def test_what_a_peer_writes_is_for_nobody_else_to_read(run: RunFolder) -> None:
    account, before = Account.read(run.keys / "peer-0.key"), os.umask(0)
    config = PeerConfig(run, account, Joining("worker"), options=replace(AS_PEERS, memory=Count(1)))
    try:
        with pytest.raises((UserError, BaseExceptionGroup)):
            await run_peer(config)
    finally:
        os.umask(before)
    modes = {
        path: path.stat().st_mode & 0o777 for path in (run.peer("peer-0"), run.log("peer-0"), account.journal)
    }
    assert list(modes.values()) == [0o700, 0o600, 0o600]
