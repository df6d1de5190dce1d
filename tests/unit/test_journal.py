"""The journal: one signed statement per place for ever, whatever happens to the process."""

import os
import sqlite3
from pathlib import Path

import pytest

from p2p.identity import Identity
from simulator.memory import Clock, MemoryLedger
from simulator.toy import minimal
from trainer.peer.journal import Journal, journal_of
from verification.digest import ZERO, tagged
from verification.errors import UserError
from verification.ledger.log import Genesis
from verification.signed import open_statement
from verification.signing import checksum
from verification.state import Member
from verification.statements import WORKER, Attest, Body, Finished, Verdict, Withdraw
from verification.units import Amount, Millis, Round

ALICE, BOB = (Identity(bytes([number]) * 32) for number in (1, 2))
RUN, HEAD = tagged("run"), tagged("head")
SAID = Attest(Round(3), (ALICE.address,))
CHANGED = Attest(Round(3), (ALICE.address, BOB.address))


def journal(path: Path, chain: str = "local", run: str = "run") -> Journal:
    """Open Alice's journal."""
    return Journal(path / "said.sqlite", ALICE.secret, chain, tagged(run))


def test_a_statement_is_signed_for_its_place(tmp_path: Path) -> None:
    data = journal(tmp_path).sign(HEAD, SAID)
    said = open_statement(data)
    statement = said.statement
    assert (said.sender, said.body) == (ALICE.address, SAID)
    assert (statement.chain, statement.run, statement.round, statement.head) == ("local", RUN, 3, HEAD)


def test_one_place_keeps_its_first_bytes(tmp_path: Path) -> None:
    own = journal(tmp_path)
    first = own.sign(HEAD, SAID)
    assert own.sign(HEAD, CHANGED) == first
    own.close()
    again = journal(tmp_path)
    assert again.sign(HEAD, CHANGED) == first
    assert again.sign(HEAD, SAID) == first


def test_what_the_disk_does_not_take_is_not_signed(tmp_path: Path) -> None:
    own = journal(tmp_path)
    (pages,) = own._connection.execute("PRAGMA page_count").fetchone()
    own._connection.execute(f"PRAGMA max_page_count={pages}")
    long = Attest(Round(3), (ALICE.address,) * 1000)
    with pytest.raises(UserError, match=r"said\.sqlite: database or disk is full; free space on its disk"):
        own.sign(HEAD, long)
    assert own.signed(HEAD, long) is None


def test_two_processes_with_one_key_say_the_same(tmp_path: Path) -> None:
    one, two = journal(tmp_path), journal(tmp_path)
    assert one.sign(HEAD, SAID) == two.sign(HEAD, CHANGED) == one.sign(HEAD, CHANGED)


def test_a_process_that_is_overtaken_between_look_and_write_repeats_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = journal(tmp_path), journal(tmp_path)
    first: list[bytes] = []
    look = one._said

    def overtaken(place: str) -> bytes | None:
        found = look(place)
        if not first:
            first.append(two.sign(HEAD, CHANGED))
        return found

    monkeypatch.setattr(one, "_said", overtaken)
    assert one.sign(HEAD, SAID) == first[0]
    assert open_statement(first[0]).body == CHANGED


OTHER_PLACES: dict[str, Body] = {
    "round": Attest(Round(4), (ALICE.address,)),
    "slot": Finished(Round(3)),
    "worker within a slot": Verdict(Round(3), Round(3), ALICE.address, HEAD),
    "other worker within a slot": Verdict(Round(3), Round(3), BOB.address, HEAD),
    "run": Withdraw(),
}


def test_every_part_of_a_place_tells_places_apart(tmp_path: Path) -> None:
    said = {journal(tmp_path).sign(HEAD, body) for body in (SAID, *OTHER_PLACES.values())}
    said.add(journal(tmp_path).sign(tagged("other head"), SAID))
    said.add(journal(tmp_path, chain="other").sign(HEAD, SAID))
    said.add(journal(tmp_path, run="other").sign(HEAD, SAID))
    assert len(said) == len(OTHER_PLACES) + 4
    rows = sqlite3.connect(tmp_path / "said.sqlite").execute("SELECT data FROM said").fetchall()
    assert {bytes(data) for (data,) in rows} == said


def test_a_statement_is_on_disk_before_it_is_returned(tmp_path: Path) -> None:
    own = journal(tmp_path)
    data = own.sign(HEAD, SAID)
    reader = sqlite3.connect(f"file:{tmp_path / 'said.sqlite'}?mode=ro", uri=True)
    assert [bytes(row[0]) for row in reader.execute("SELECT data FROM said")] == [data]
    assert own._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    own.close()


def test_what_was_signed_is_told_and_stays(tmp_path: Path) -> None:
    own = journal(tmp_path)
    assert own.signed(HEAD, CHANGED) is None
    kept = own.sign(HEAD, SAID)
    assert own.signed(HEAD, CHANGED) == SAID
    assert own.sign(HEAD, CHANGED) == kept
    assert not {name for name in dir(own) if "forget" in name or "delete" in name}


def test_a_journal_is_the_account_s_whatever_its_key_file_is_called(tmp_path: Path) -> None:
    places = {journal_of(tmp_path / name, ALICE.address) for name in ("peer-0.key", "renamed.key", "old")}
    assert places == {tmp_path / f"{checksum(ALICE.address)}.said.sqlite"}
    assert journal_of(tmp_path / "peer-0.key", BOB.address) not in places


def test_nobody_else_reads_what_is_signed_before_it_is_said(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        own = journal(tmp_path)
        own.sign(HEAD, SAID)
        files = sorted(path.name for path in tmp_path.iterdir())
        assert files == ["said.sqlite", "said.sqlite-shm", "said.sqlite-wal"]
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
        own.close()
        (tmp_path / "said.sqlite").chmod(0o644)
        journal(tmp_path).close()
        assert (tmp_path / "said.sqlite").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_a_damaged_journal_is_named_and_not_replaced(tmp_path: Path) -> None:
    path, damage = tmp_path / "said.sqlite", b"no database, but long enough to be taken for one " * 20
    path.write_bytes(damage)
    with pytest.raises(UserError, match=r"said\.sqlite: cannot be used"):
        journal(tmp_path)
    assert path.read_bytes() == damage


def test_another_key_cannot_open_a_journal(tmp_path: Path) -> None:
    own = journal(tmp_path)
    own.sign(HEAD, SAID)
    own.close()
    with pytest.raises(UserError, match="another key"):
        Journal(tmp_path / "said.sqlite", BOB.secret, "local", RUN)
    assert open_statement(journal(tmp_path).sign(HEAD, CHANGED)).body == SAID


def test_a_journal_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "said.sqlite").mkdir()
    with pytest.raises(UserError, match="cannot be opened"):
        journal(tmp_path)


def test_a_member_that_has_said_nothing_here_is_spoken_for_by_somebody_else(tmp_path: Path) -> None:
    """A ticket in two machines made two peers of one account, which convict each other."""
    run = MemoryLedger.found(
        Genesis(minimal(), "toy", ZERO, BOB.address, (), Amount(10**9)), Clock(Millis(0))
    )
    state, own = run.state, Journal(tmp_path / "said.sqlite", ALICE.secret, run.state.chain, run.state.run)
    own.require_own(state)
    state.members[ALICE.address] = Member(ALICE.address, WORKER, Amount(1), 1, ZERO, "", Round(0))
    journal(tmp_path).sign(HEAD, SAID)  # in another run
    with pytest.raises(UserError, match="already, from another folder or machine: go on there, bring 0x"):
        own.require_own(state)
    own.sign(HEAD, SAID)
    own.require_own(state)
