"""A run that is joined by tickets, from folders that share nothing; one join is cut off and begun again."""

import shutil
import subprocess
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from p2p.blobs import BlobStore
from tests.checkout import environment
from tests.patience import PATIENCE
from tests.swarm import PeerProcess, Printing
from trainer.events import Event, read_events
from trainer.folder import RunFolder
from trainer.lifetimes import python
from trainer.runs.create import Created
from trainer.runs.ledgers import genesis_of
from trainer.runs.library import published
from verification.statements import WORKER

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def events(log: Path, kind: str) -> list[Event]:
    """Return a log's events of a kind."""
    return [event for event in read_events(log) if event["kind"] == kind]


def invited(folder: RunFolder, count: int) -> list[str]:
    """Return tickets for so many."""
    command = python("-m", "trainer.cli", "run", "invite", str(folder.path), "--count", str(count))
    answer = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    secret, near = answer.stderr.splitlines()
    assert "holds the secret key of an account" in secret and "on this machine alone" in near
    return answer.stdout.split()


def test_a_run_is_joined_by_tickets_and_a_join_that_was_killed_goes_on(
    tiny_run: Created, tmp_path: Path
) -> None:
    folder = RunFolder(Path(shutil.copytree(tiny_run.folder.path, tmp_path / "run")))
    wanted = {blob.hex() for blob in published(genesis_of(folder).manifest)}
    with ExitStack() as held:
        host = PeerProcess(folder, "peer-0", WORKER, "--serve")
        held.callback(host.stop)
        host.wait_line(lambda line: line.startswith("serves run "))
        tickets = invited(folder, 2)
        joined: list[tuple[Printing, Path]] = []
        for number, ticket in enumerate(tickets):
            machine = tmp_path / f"machine-{number}"
            machine.mkdir()
            (machine / "ticket").write_text(ticket + "\n")
            role = ("worker", "verifier")[number]
            process = Printing(["join", "ticket", "--role", role, "--accept-unsound"], machine)
            held.callback(process.stop)
            joined.append((process, machine))
        worker, verifier = joined[0][0], joined[1][0]
        worker.wait_line(lambda line: line.startswith("reads the ledger"))
        worker.stop()
        worker.wait()
        worker.restart()
        for process in (host, worker):
            process.wait_line(lambda line: line.startswith("committed "))
        verifier.wait_line(lambda line: line.startswith("joined "))
    for process, machine in joined:
        (run,) = (machine / "runs").iterdir()
        (log,) = RunFolder(run).events.glob("peer-*.jsonl")
        fetched = Counter(str(event["blob"]) for event in events(log, "fetched"))
        assert max(fetched.values()) == 1
        assert {blob.hex() for blob in BlobStore(RunFolder(run).blobs).blobs()} == wanted
        (arrived,) = events(log, "joined")
        assert arrived["seconds"] > 0 and arrived["received"] > 0
        if process is worker:
            (first,) = events(log, "committed")
            assert first["seconds"] > arrived["seconds"] and first["received"] > arrived["received"]
        else:
            assert wanted <= fetched.keys()
