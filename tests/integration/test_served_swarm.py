"""A swarm of which no two processes share a folder: each peer follows the served ledger with a copy of its own."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import environment
from tests.swarm import PeerProcess, final_digests, final_state
from tests.tiny import make_run
from trainer.folder import RunFolder
from trainer.lifetimes import python
from verification.ledger.local import verify_log
from verification.state import Stage
from verification.statements import VERIFIER, WORKER

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class HostProcess:
    """One `proofswarm run serve`."""

    def __init__(self, folder: RunFolder) -> None:
        """Start it, and learn how it is followed."""
        command = python("-m", "trainer.cli", "run", "serve", str(folder.path))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline()
        words = self.process.stdout.readline().split()
        self.options = tuple(words[words.index("--ledger") :])

    def kill(self) -> None:
        """Kill it as a power cut does; once is enough."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[RunFolder, HostProcess]]:
    """A run of four rounds, and its host."""
    (tmp_path / "host").mkdir()
    folder = make_run(tmp_path / "host", {"training.rounds": 4}).folder
    host = HostProcess(folder)
    yield folder, host
    host.kill()


def away(folder: RunFolder, number: int, base: Path) -> RunFolder:
    """Return a folder for one peer, with its key and nothing else."""
    own = RunFolder(base / f"machine-{number}" / "run")
    own.keys.mkdir(parents=True)
    shutil.move(folder.keys / f"peer-{number}.key", own.keys / f"peer-{number}.key")
    return own


def test_peers_that_share_no_folder_end_on_one_state_though_their_host_was_killed(
    served: tuple[RunFolder, HostProcess], tmp_path: Path
) -> None:
    folder, host = served
    peers: list[PeerProcess] = []
    again: HostProcess | None = None
    try:
        for number, role in enumerate((WORKER, WORKER, VERIFIER)):
            own = away(folder, number, tmp_path)
            peers.append(PeerProcess(own, f"peer-{number}", role, *host.options))
        for peer in peers:
            peer.wait_line(lambda line: line.startswith("state round=1"))
        host.kill()
        for peer in peers:
            peer.wait_line(lambda line: line.startswith("the ledger's host does not answer"))
        again = HostProcess(folder)
        assert again.first.startswith("serves run ")
        assert [peer.wait() for peer in peers] == [0, 0, 0]
        assert len(final_digests(peers)) == 1
        for peer in peers:
            assert len(peer.lines("the ledger's host does not answer")) == 1
            assert peer.lines("the ledger's host answers again")
    finally:
        for peer in peers:
            peer.stop()
        if again is not None:
            again.kill()
    state = final_state(folder)
    assert state.stage is Stage.ENDED
    assert not any(member.slashed for member in state.members.values())
    assert {verify_log(peer.folder.ledger) for peer in peers} == {verify_log(folder.ledger)}
