"""A verifier in a swarm of real processes that has less memory than a step of the model takes."""

from pathlib import Path

import pytest

from p2p.identity import load
from tests.patience import PATIENCE
from tests.swarm import final_state, library_of, swarm
from tests.tiny import make_run
from trainer.shards.spool import PAGE
from verification.ledger.local import read_genesis
from verification.manifest import Place
from verification.program import outputs_of, peak_bytes, size_bytes
from verification.state import Ruling
from verification.statements import VERIFIER, WORKER

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_a_verifier_with_two_fifths_of_the_memory_convicts_a_cheat(tmp_path: Path) -> None:
    """By a dispute that begins with its audit, and ends at one number of the step that was left out."""
    changes = {"model.config.num_hidden_layers": 2, "model.config.hidden_size": 48, "training.rounds": 2}
    folder = make_run(tmp_path, {**changes, "swarm.min_workers": 1}, accept_unsound=True).folder
    programs = read_genesis(folder.ledger).manifest.programs
    inner = library_of(folder).program(programs.inner.digest)
    little = ("--memory", f"{0.4 * peak_bytes(inner) / 2**30:.12f}")
    cheat = ("--cheat", "skip-steps", "--cheat-from", "0")
    with swarm(folder, [WORKER, WORKER, VERIFIER], {1: cheat, 2: little}, workers_first=True) as peers:
        assert [peer.wait(2 * PATIENCE) for peer in peers] == [0, 0, 0]
        assert len(peers[2].lines("slow: a program takes up to ")) == 1
        assert not peers[0].lines("slow: a program takes")
    state = final_state(folder)
    convict, verifier = (load(folder.keys / f"peer-{n}.key").address for n in (1, 2))
    assert {(each.accused, each.challenger, each.ruling, each.place) for each in state.disputes} == {
        (convict, verifier, Ruling.GUILTY, Place.STEP)
    }
    assert {address for address, member in state.members.items() if member.slashed} == {convict}
    assert any(size_bytes(output) > PAGE for output in outputs_of(inner))
    assert not list((folder.peer("peer-2") / "blobs" / "partial").glob("value-*"))
