"""A demo that others join: the ticket that it prints lets one in who shares nothing with it."""

import subprocess
from pathlib import Path

import pytest

from p2p.ticket import Ticket
from tests.checkout import environment
from tests.integration.test_demo_hosts import MODEL
from tests.swarm import Printing, final_state
from tests.tiny import TEXT
from trainer.folder import RunFolder
from trainer.lifetimes import python

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

DEMO = """
import sys
from pathlib import Path
from trainer.commands.demo import DemoSettings
from trainer.commands.open_demo import run_served
from trainer.commands.runs import LOCAL
out, text, model = sys.argv[1:]
sys.exit(run_served(DemoSettings(Path(out), "none", 4, 2, 1, 0, Path(text), late=-1, model=model), LOCAL))
"""
"""Its run waits for one worker more than its own, so that no guest comes too late."""
OFFER = "another machine joins with: proofswarm join "


def test_a_ticket_that_the_demo_prints_joins(tmp_path: Path) -> None:
    text, folder, here = tmp_path / "text.txt", RunFolder(tmp_path / "run"), RunFolder(tmp_path / "guest")
    text.write_text(TEXT, encoding="utf-8")
    demo = subprocess.Popen(
        python("-c", DEMO, str(folder.path), str(text), MODEL), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
    )  # fmt: skip
    guest: Printing | None = None
    told = list[str]()
    try:
        assert demo.stdout is not None
        for line in demo.stdout:
            told.append(line)
            if line.startswith(OFFER):
                ticket = line.removeprefix(OFFER).strip()
                guest = Printing(["join", ticket, "--folder", str(here.path)], tmp_path)
        assert demo.wait() == 0, told[-20:]
        assert guest is not None
        assert guest.wait() == 0
    finally:
        demo.kill()
        demo.communicate()
        if guest is not None:
            guest.stop()
    assert sum(line.startswith(OFFER) for line in told) == 1
    assert guest.lines("the host is reached at /ip4/127.0.0.1/")
    state = final_state(folder)
    identity = Ticket.parse(ticket).identity
    assert identity is not None
    assert state.members[identity.address].slashed == 0
    assert all(identity.address in worked.included for worked in state.rounds)
    assert sorted(path.stem for path in folder.keys.glob("peer-*.key")) == [
        "peer-0",
        "peer-1",
        "peer-2",
        "peer-4",
    ]
