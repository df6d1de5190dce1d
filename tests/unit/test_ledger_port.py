"""The ledger held by a process that does not let go of it, and one whose host is slow: nothing is lost."""

import shutil
import sqlite3
from pathlib import Path

import pytest
import trio

from p2p.identity import load
from simulator.toy import ToyLibrary
from tests.contract.ledgers import LIBRARY
from tests.contract.test_ledger import join, said, secret
from tests.unit.test_follower import Stage
from trainer.folder import RunFolder
from trainer.peer.ledger import LedgerPort
from trainer.runs.create import Created
from verification import law
from verification.digest import ZERO
from verification.errors import Unavailable
from verification.ledger import local, served
from verification.signed import make_statement, sign_statement
from verification.signing import address_of
from verification.statements import Join
from verification.units import Amount, Count


async def test_others_look_while_a_host_is_asked_and_nobody_else_asks(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    (tmp_path / "copy.sqlite").rename(tmp_path / "ledger.sqlite")
    port, asked, answered = LedgerPort(RunFolder(tmp_path), LIBRARY), trio.Event(), trio.Event()
    is_slow = False

    async def wait() -> None:
        asked.set()
        await answered.wait()

    def ask(name: str, body: bytes) -> bytes:
        if is_slow:
            trio.from_thread.run(wait)
        return stage.wire.ask(name, body)

    await port.follow(ask, stage.told.append)
    is_slow, stage.wire.asked = True, []
    host = stage.serve()
    async with trio.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(port.submit, said(host, name, join(name)))
        await asked.wait()
        async with port.state() as state:
            assert not state.members
        assert not stage.wire.asked
        answered.set()
    async with port.state() as state:
        assert set(state.members) == {address_of(secret(name)) for name in "ab"}


def test_a_host_reads_an_entry_once_that_its_followers_take_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path)
    followers = [stage.follow() for _ in range(2)]
    host = stage.serve()
    host.submit(said(host, "a", join("a")))
    monkeypatch.setattr(served, "ANSWER_BYTES", 10)
    reads = []
    records = host.records
    monkeypatch.setattr(host, "records", lambda after, limit: reads.append(after) or records(after, limit))
    for follower in followers:
        follower.catch_up()
        assert follower.state == host.state
    assert reads == [0]


def test_a_locked_ledger_is_unavailable_and_works_again_when_it_is_free(
    tiny_run: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "BUSY_SECONDS", 0.01)
    shutil.copytree(tiny_run.folder.path, tmp_path / "run")
    path = tmp_path / "run" / "ledger.sqlite"
    ledger = local.LocalLedger(path, ToyLibrary())
    identity = load(tmp_path / "run" / "keys" / "peer-0.key")
    joined = Join("worker", Amount(1_000_000), Count(1), ZERO, "/ip4/127.0.0.1/tcp/1")
    statement = make_statement(ledger.state.chain, ledger.state.run, law.GENESIS_HEAD, joined)
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
