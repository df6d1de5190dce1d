"""What a peer says: once per place as long as it is refused, over the head of its round, and from its journal."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from p2p.identity import load
from trainer.events import EventLog
from trainer.folder import RunFolder
from trainer.peer.runtime import Peer, PeerConfig
from trainer.runs.create import Created
from verification.digest import ZERO
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
    run.peer(name).mkdir(parents=True)
    config = PeerConfig(run, name, load(run.keys / f"{name}.key"), "worker")
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
