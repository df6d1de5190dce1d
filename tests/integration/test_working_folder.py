"""A working folder with files of our names, Python's and libraries': whose maker is not the user, so none may run."""

import shutil
from pathlib import Path

import pytest

from tests.checkout import ROOT
from tests.patience import PATIENCE
from tests.swarm import PeerProcess
from trainer.commands.demo import DemoSettings, cast
from trainer.commands.scene import in_one_folder
from trainer.folder import RunFolder
from trainer.runs.create import Created
from verification.statements import WORKER

pytestmark = [pytest.mark.integration, pytest.mark.slow]
TRAPS = (
    "trainer/__init__.py", "trainer/compute.py", "trainer/cli.py", "torch/__init__.py",
    "trainer.py", "verification.py", "p2p.py", "torch.py", "numpy.py", "json.py", "trio.py",
)  # fmt: skip
"""Packages, which come before modules of their names, and modules."""


@pytest.fixture
def traps(tiny_run: Created, tmp_path: Path) -> RunFolder:
    """A run's folder into which its maker put files that leave a mark when they run."""
    folder = RunFolder(Path(shutil.copytree(tiny_run.folder.path, tmp_path / "run")))
    for name in TRAPS:
        path = folder.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(folder.path / 'ran')!r}, 'a').write({name!r})\n")
    return folder


def test_a_peer_in_a_runs_folder_runs_none_of_it(traps: RunFolder) -> None:
    peer = PeerProcess(traps, "peer-0", WORKER)
    try:
        peer.wait_line(lambda line: line.startswith("measured golden=True"))
    finally:
        peer.stop()
    assert not (traps.path / "ran").exists()


def test_the_demos_peers_run_none_of_it(traps: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(traps.path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    seats = cast(traps, DemoSettings(traps.path, "none", 3, 1, 1, 0, None))
    traps.keys.rename(traps.path / "aside")  # they end when they have begun
    with in_one_folder(traps, seats):
        assert [seat.process.wait(PATIENCE) for seat in seats if seat.process is not None] == [2, 2]
    for name in ("peer-0", "peer-1"):
        assert "no key file" in (traps.peer(name) / "output.log").read_text()
    assert not (traps.path / "ran").exists()
