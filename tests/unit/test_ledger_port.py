"""The ledger's file held by a process that does not let go of it: the others wait, and nothing is lost."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from p2p.identity import load
from simulator.toy import ToyLibrary
from trainer.runs.create import Created
from verification import law
from verification.digest import ZERO
from verification.errors import Unavailable
from verification.ledger import local
from verification.signed import make_statement, sign_statement
from verification.statements import Join
from verification.units import Amount, Count


def test_a_locked_ledger_is_unavailable_and_works_again_when_it_is_free(
    tiny_run: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "BUSY_SECONDS", 0.01)
    shutil.copytree(tiny_run.folder.path, tmp_path / "run")
    path = tmp_path / "run" / "ledger.sqlite"
    ledger = local.LocalLedger(path, ToyLibrary())
    identity = load(tmp_path / "run" / "keys" / "peer-0.key")
    join = Join("worker", Amount(1_000_000), Count(1), ZERO, "/ip4/127.0.0.1/tcp/1")
    statement = make_statement(ledger.state.chain, ledger.state.run, law.GENESIS_HEAD, join)
    data = sign_statement(identity.secret, statement)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(Unavailable, match="is locked by another process"):
            ledger.submit(data)
    assert not ledger.state.members
    holder.execute("ROLLBACK")
    ledger.submit(data)
    assert set(ledger.state.members) == {identity.address}
    assert local.verify_log(path) == 2
