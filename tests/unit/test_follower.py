"""A follower and its host in one process: a host that goes away, loses entries, tells another log, or is another."""

import itertools
import shutil
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import coincurve
import pytest
from coincurve._libsecp256k1 import ffi

from simulator.memory import Clock
from tests.contract.ledgers import LIBRARY, SECRET
from tests.contract.test_ledger import BEGAN, STALL, genesis, join, said, secret
from verification import codec, law
from verification.codec import encode
from verification.digest import tagged
from verification.errors import BadSignature, Malformed, Refused, Unavailable, UserError
from verification.ledger import served, view
from verification.ledger.follower import FIRST_WAIT, LONGEST_WAIT, Follower, Forked
from verification.ledger.heads import Head, open_head, sign_head, unpack_fork, verify_fork
from verification.ledger.local import (
    LocalLedger,
    ServedTime,
    SqliteCopy,
    SqliteLog,
    create,
    create_copy,
    host_of,
    take_over,
    verify_log,
)
from verification.ledger.log import Fold, next_head
from verification.ledger.remote import Remote
from verification.ledger.served import MAX_SAID, AskHead, Follow, Followed, Host, Piece, Submit
from verification.ledger.view import RUNS_ON
from verification.library import Library
from verification.signed import Signed
from verification.signing import address_of
from verification.units import Count, Digest, Millis, Signature

HOST = address_of(SECRET)


@dataclass
class Wire:
    """Carries questions to a host that is there or not, and counts them; a lost answer was given all the same."""

    host: Host | None
    asked: list[str] = field(default_factory=list)
    lose_answers: int = 0

    def ask(self, name: str, body: bytes) -> bytes:
        """Return the host's answer."""
        self.asked.append(name)
        if self.host is None:
            raise Unavailable("connection refused")
        answer = self.host.answer(name, body)
        if self.lose_answers:
            self.lose_answers -= 1
            raise Unavailable("late")
        return answer


class Stage:
    """A host's file and a follower's, in a folder, and all that the follower told."""

    def __init__(self, folder: Path) -> None:
        """Found the run and begin a copy."""
        self.folder, self.clock, self.told = folder, Clock(BEGAN), list[str]()
        create(folder / "host.sqlite", genesis(), BEGAN)
        self.wire = Wire(None)
        self.serve()
        create_copy(folder / "copy.sqlite", self.remote().founding(), HOST)

    def serve(self, secret: bytes = SECRET, file: str = "host.sqlite") -> LocalLedger:
        """Serve a file in the place of whatever was served."""
        ledger = LocalLedger(self.folder / file, LIBRARY, self.clock)
        self.wire.host = Host(ledger, secret)
        return ledger

    def remote(self) -> Remote:
        """Return the host as a follower sees it."""
        return Remote(self.wire.ask, HOST, genesis().run)

    def follow(self, library: Library = LIBRARY) -> Follower:
        """Open the copy."""
        copy = SqliteCopy(self.folder / "copy.sqlite")
        return Follower(copy, library, self.clock, self.remote(), self.told.append)

    def kept(self, file: str, as_file: str) -> None:
        """Make a backup of a ledger file, as another file."""
        for end in ("", "-wal", "-shm"):
            source = self.folder / (file + end)
            (self.folder / (as_file + end)).unlink(missing_ok=True)
            if source.is_file():
                shutil.copy(source, self.folder / (as_file + end))

    def pass_time(self, millis: int) -> None:
        """Let time go on."""
        self.clock.now = Millis(self.clock.now + millis)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A run that nobody has joined."""
    return Stage(tmp_path)


def test_a_follower_goes_on_with_what_it_has_while_its_host_is_away_and_says_so_once(stage: Stage) -> None:
    follower = stage.follow()
    assert follower.submit(said(follower, "a", join("a")))
    stage.wire.host, before = None, follower.state.head
    for _ in range(5):
        follower.catch_up()
        assert not follower.tick()
        with pytest.raises(Unavailable, match="does not answer"):
            follower.submit(said(follower, "b", join("b")))
    assert follower.state.head == before
    assert len(stage.told) == 1
    assert "connection refused" in stage.told[0]
    stage.serve()
    stage.pass_time(FIRST_WAIT)
    follower.catch_up()
    assert len(stage.told) == 2
    assert stage.told[1] == "the ledger's host answers again"
    assert follower.submit(said(follower, "b", join("b")))


def test_an_absent_host_is_asked_ever_more_seldom_and_at_once_when_there_is_news(stage: Stage) -> None:
    follower = stage.follow()
    stage.wire.host, stage.wire.asked = None, []
    moments = []
    for _ in range(4_000):
        before = len(stage.wire.asked)
        follower.catch_up()
        if len(stage.wire.asked) > before:
            moments.append(stage.clock.now)
        stage.pass_time(50)
    for earlier, later in itertools.pairwise(moments):
        due = min(LONGEST_WAIT, max(FIRST_WAIT, (earlier - moments[0]) // 4))
        assert due <= later - earlier < due + 50
    assert moments[-1] - moments[-2] == LONGEST_WAIT
    before = len(stage.wire.asked)
    follower.contact.again()
    follower.catch_up()
    assert len(stage.wire.asked) == before + 1


def test_a_host_that_hangs_holds_its_follower_half_of_the_time_at_most(stage: Stage) -> None:
    class Hanging(Host):
        def answer(self, name: str, body: bytes) -> bytes:
            stage.pass_time(15_000)
            raise Unavailable("late")

    follower = stage.follow()
    stage.wire.host, stage.wire.asked = Hanging(stage.serve(), SECRET), []
    began = stage.clock.now
    while stage.clock.now < began + 120_000:
        follower.catch_up()
        stage.pass_time(100)
    assert 2 <= len(stage.wire.asked) <= 4


def test_a_copy_opens_without_its_host(stage: Stage) -> None:
    follower = stage.follow()
    follower.submit(said(follower, "a", join("a")))
    state = follower.state
    follower.close()
    stage.wire.host = None
    again = stage.follow()
    assert again.state == state
    assert again.now() == state.now


def test_time_stands_still_while_nobody_serves(stage: Stage) -> None:
    follower = stage.follow()
    stage.pass_time(500)
    assert follower.now() == BEGAN + 500
    stage.wire.host = None
    stage.pass_time(3_600_000)
    follower.catch_up()
    assert follower.now() == BEGAN + RUNS_ON
    assert not follower.tick()


def test_an_answer_that_was_lost_is_given_again(stage: Stage) -> None:
    follower = stage.follow()
    data, stage.wire.lose_answers = said(follower, "a", join("a")), 1
    with pytest.raises(Unavailable, match="late"):
        follower.submit(data)
    stage.pass_time(FIRST_WAIT)
    assert not follower.submit(data)
    assert stage.wire.lose_answers == 0
    assert len(follower.state.members) == 1


def test_a_host_that_lost_what_it_had_acknowledged_is_refused(stage: Stage) -> None:
    stage.kept("host.sqlite", "backup.sqlite")
    follower = stage.follow()
    follower.submit(said(follower, "a", join("a")))
    stage.serve(file="backup.sqlite")
    for attempt in (follower.catch_up, follower.tick, stage.follow):
        with pytest.raises(UserError, match="is ahead of its host's log") as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert not isinstance(caught.value, Forked)


def test_a_host_that_tells_another_log_of_the_same_length_is_proven_to(stage: Stage) -> None:
    stage.kept("host.sqlite", "backup.sqlite")
    follower = stage.follow()
    follower.submit(said(follower, "a", join("a")))
    other = stage.serve(file="backup.sqlite")
    other.submit(said(other, "b", join("b")))
    with pytest.raises(Forked, match="tells another log") as caught:
        follower.catch_up()
    proof = caught.value.proof
    assert proof is not None
    found = verify_fork(unpack_fork(proof))
    assert (found.host, found.run, found.seq) == (HOST, genesis().run, 1)
    assert set(found.heads) == {follower.state.head, other.state.head}


def test_a_host_that_went_on_from_a_backup_is_proven_to(stage: Stage) -> None:
    stage.kept("host.sqlite", "backup.sqlite")
    follower = stage.follow()
    follower.submit(said(follower, "a", join("a")))
    head = follower.state.head
    other = stage.serve(file="backup.sqlite")
    for name in "bcd":
        other.submit(said(other, name, join(name)))
    with pytest.raises(Forked) as caught:
        stage.follow()
    assert caught.value.proof is not None
    assert verify_fork(unpack_fork(caught.value.proof)).seq == 1
    assert stage.wire.asked[-1] == "head"
    assert verify_log(stage.folder / "copy.sqlite") == 2
    assert follower.state.head == head


def test_a_host_with_another_key_is_no_host(stage: Stage) -> None:
    follower = stage.follow()
    ledger = stage.serve(secret=bytes(31) + b"\2")
    ledger.submit(said(ledger, "a", join("a")))
    follower.catch_up()
    assert not follower.state.members
    assert "is signed by 0x" in stage.told[0]
    with pytest.raises(Unavailable, match="is signed by 0x"):
        follower.submit(said(follower, "b", join("b")))
    assert not ledger.state.members.keys() & {address_of(SECRET)}


def test_a_host_of_another_run_is_refused_before_a_copy_is_begun(stage: Stage) -> None:
    with pytest.raises(Malformed, match="another run"):
        Remote(stage.wire.ask, HOST, bytes(32)).founding()  # type: ignore[arg-type]


def test_an_entry_that_the_law_refuses_is_not_taken_on_the_host_s_word(stage: Stage) -> None:
    follower = stage.follow()
    head, run, forged = follower.state.head, genesis().run, b"forged"
    piece = Piece(
        Count(1), BEGAN, "statement", Count(6), forged, next_head(head, 1, BEGAN, "statement", forged)
    )
    answer = Followed((piece,), (), sign_head(SECRET, Head(run, Count(1), piece.head, BEGAN)))
    lying = Remote(lambda name, body: encode(answer), HOST, run)
    with pytest.raises(UserError, match="the law refuses entry 1 that its host ordered"):
        Follower(SqliteCopy(stage.folder / "copy.sqlite"), LIBRARY, stage.clock, lying)
    assert verify_log(stage.folder / "copy.sqlite") == 1
    follower.catch_up()
    assert follower.state.head == head


def test_a_host_signs_the_number_of_the_entry_whoever_else_looks_at_its_ledger(stage: Stage) -> None:
    ledger = stage.serve()
    ledger.submit(said(ledger, "a", join("a")))
    ledger.entries()
    host = Host(ledger, SECRET)
    (entry,) = ledger.records(0, 1)
    _, head = open_head(host.head(AskHead(None)))
    assert (head.seq, head.head) == (1, entry.head)


def test_a_host_that_fails_in_the_middle_of_an_entry_signs_none_of_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two heads for one number would convict it of a fork."""
    host, other = Host(stage.serve(), SECRET), LocalLedger(stage.folder / "host.sqlite", LIBRARY, stage.clock)
    before = open_head(host.head(AskHead(None)))
    other.submit(said(other, "a", join("a")))

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(law, "apply", fail)
        with pytest.raises(MemoryError):
            host.follow(Follow(Count(0), Count(0), Count(0)))
    answer = host.submit(Submit(b"no statement"))
    assert answer.refusal == "Malformed"
    assert open_head(answer.head) == before


def test_ticks_that_no_deadline_asks_for_fill_no_copy(stage: Stage) -> None:
    ledger = stage.serve()
    log = SqliteLog(stage.folder / "host.sqlite")
    fold = Fold()
    fold.follow(log.read(-1, 1)[0], LIBRARY)
    with log.writing():
        for _ in range(3):
            log.append(fold.extend(BEGAN, None, LIBRARY))
    ledger.catch_up()
    with pytest.raises(UserError, match="entry 1 is a tick that no deadline asked for"):
        stage.follow()
    assert len(LocalLedger(stage.folder / "host.sqlite", LIBRARY, stage.clock).records(-1, 9)) == 4
    assert verify_log(stage.folder / "copy.sqlite") == 1


class Accuser(Host):
    """A host that passes off any statement as one that was refused for contradicting another."""

    accused: bytes

    def _refused(self, skip: int, room: int, most: int) -> list[bytes]:
        return [self.accused]


def signed_again(data: bytes) -> bytes:
    """Return a's statement under another signature of a's: nobody but the author can make one."""
    opened = codec.decode(Signed, data)
    nonce = (ffi.NULL, ffi.new("unsigned char[32]", bytes(31) + b"\1"))
    key, digest = coincurve.PrivateKey(secret("a")), tagged("sign/statement", opened.statement)
    again = key.sign_recoverable(digest, hasher=None, custom_nonce=nonce)
    return encode(Signed(opened.statement, Signature(again)))


@pytest.mark.parametrize("case", ["the same", "too large"])
def test_a_host_makes_no_follower_accuse_what_nobody_can_be_convicted_of(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    follower = stage.follow()
    first = said(follower, "a", join("a"))
    assert follower.submit(first)
    host = Accuser(stage.serve(), SECRET)
    if case == "the same":
        host.accused = signed_again(first)
        assert host.accused != first
    else:
        host.accused = said(follower, "a", join("a", speed=2))
        monkeypatch.setattr(view, "MAX_CONTRADICTION", len(host.accused) - 1)
    stage.wire.host = host
    follower.catch_up()
    assert follower.contradictions() == []


def test_a_large_log_comes_in_many_answers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = stage.follow()
    names = [f"{crowd}{number}" for crowd in "abcd" for number in range(6)]
    host = stage.serve()
    for name in names:
        host.submit(said(host, name, join(name)))
    monkeypatch.setattr(served, "ANSWER_ENTRIES", 5)
    stage.wire.asked = []
    follower.catch_up()
    assert stage.wire.asked == ["follow"] * 5
    assert follower.state == host.state


def test_entries_that_no_answer_holds_whole_come_in_one_look(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = stage.follow()
    host = stage.serve()
    for name in "abc":
        host.submit(said(host, name, join(name)))
    size = sum(len(record.data) for record in host.records(0, 9))
    monkeypatch.setattr(served, "ANSWER_BYTES", 100)
    stage.wire.asked = []
    follower.catch_up()
    assert follower.state == host.state
    assert stage.wire.asked == ["follow"] * -(-size // 100)


def test_two_who_follow_into_one_file_have_one_log(stage: Stage) -> None:
    one, other = stage.follow(), stage.follow()
    one.submit(said(one, "a", join("a")))
    other.submit(said(other, "b", join("b")))
    one.catch_up()
    assert one.state == other.state
    assert verify_log(stage.folder / "copy.sqlite") == 3


def test_nobody_adds_to_a_copy_and_nobody_follows_the_original(stage: Stage) -> None:
    assert host_of(stage.folder / "copy.sqlite") == HOST
    assert host_of(stage.folder / "host.sqlite") is None
    with pytest.raises(UserError, match="only its host adds to it"):
        LocalLedger(stage.folder / "copy.sqlite", LIBRARY)
    with pytest.raises(UserError, match="is the ledger itself"):
        SqliteCopy(stage.folder / "host.sqlite")


def test_a_statement_that_no_answer_holds_is_refused_before_it_is_sent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = stage.follow()
    data = said(follower, "a", join("a"))
    monkeypatch.setattr("verification.ledger.follower.MAX_SAID", len(data) - 1)
    stage.wire.asked = []
    with pytest.raises(Refused, match="at most"):
        follower.submit(data)
    assert stage.wire.asked == []
    assert MAX_SAID > 1 << 20


def test_a_pause_of_the_host_brings_no_deadline_nearer(stage: Stage) -> None:
    path = stage.folder / "host.sqlite"
    serving = ServedTime(path, stage.clock)
    follower, local = stage.follow(), LocalLedger(path, LIBRARY, stage.clock)
    for _ in range((STALL - 2_000) // 2_000):
        stage.pass_time(2_000)
        serving.note()
    serving.close()
    stage.wire.host = None
    stage.pass_time(10 * STALL)
    assert not follower.tick()
    serving = ServedTime(path, stage.clock)
    ledger = stage.serve()
    follower.contact.again()
    for handle in (follower, local, ledger):
        assert not handle.tick()
        assert handle.now() == BEGAN + STALL - 2_000
    stage.pass_time(2_000)
    assert follower.tick()
    assert [record.at for record in follower.records(0, 9)] == [BEGAN + STALL]
    assert follower.state == ledger.state


def test_no_handle_passes_a_deadline_while_nobody_serves(stage: Stage) -> None:
    path = stage.folder / "host.sqlite"
    ServedTime(path, stage.clock).close()
    local = LocalLedger(path, LIBRARY, stage.clock)
    stage.pass_time(10 * STALL)
    assert not local.tick()
    assert local.now() == BEGAN + RUNS_ON


@pytest.mark.parametrize("jump", [10 * STALL, -10 * STALL])
def test_a_clock_that_jumps_under_a_host_brings_no_deadline_nearer_and_puts_none_off(
    stage: Stage, jump: int
) -> None:
    path = stage.folder / "host.sqlite"
    serving, ledger, follower = ServedTime(path, stage.clock), stage.serve(), stage.follow()
    stage.pass_time(2_000)
    serving.note()
    stage.pass_time(jump)
    assert not ledger.tick()
    assert not follower.tick()
    serving.note()
    ledger.catch_up()
    before = ledger.now()
    assert BEGAN + 2_000 <= before <= BEGAN + 2_000 + RUNS_ON
    stage.pass_time(1_000)
    assert ledger.now() == before + 1_000


def test_a_clock_that_was_put_back_between_two_hosts_goes_on(stage: Stage) -> None:
    path = stage.folder / "host.sqlite"
    stage.pass_time(STALL // 2)
    ServedTime(path, stage.clock).close()
    stage.clock.now = Millis(5)
    ServedTime(path, stage.clock).close()
    ledger = LocalLedger(path, LIBRARY, stage.clock)
    assert ledger.now() == BEGAN
    stage.pass_time(700)
    assert ledger.now() == BEGAN + 700


def test_two_hosts_of_one_file_have_one_time(stage: Stage) -> None:
    path = stage.folder / "host.sqlite"
    one = ServedTime(path, stage.clock)
    stage.pass_time(9_000)
    two, ledger, times = (
        ServedTime(path, stage.clock),
        LocalLedger(path, LIBRARY, stage.clock),
        list[Millis](),
    )
    for host in (one, two, one, two):
        stage.pass_time(100)
        host.note()
        ledger.catch_up()
        times.append(ledger.now())
    assert times == [BEGAN + 100 * number for number in (1, 2, 3, 4)]


def test_a_host_waits_for_whoever_holds_its_file(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verification.ledger.local.BUSY_SECONDS", 0.0)
    path = stage.folder / "host.sqlite"
    serving = ServedTime(path, stage.clock)
    with SqliteLog(path).writing(), pytest.raises(Unavailable, match="locked by another process"):
        serving.note()
    serving.note()


def test_what_was_said_in_a_pause_counts_as_served(stage: Stage) -> None:
    path = stage.folder / "host.sqlite"
    ServedTime(path, stage.clock).close()
    stage.pass_time(5_000)
    ledger = LocalLedger(path, LIBRARY, stage.clock)
    ledger.submit(said(ledger, "a", join("a")))
    stage.pass_time(7_000)
    ServedTime(path, stage.clock).close()
    ledger.catch_up()
    assert ledger.now() == BEGAN + 5_000


def test_a_host_that_lost_its_file_serves_a_copy(stage: Stage) -> None:
    follower = stage.follow()
    follower.submit(said(follower, "a", join("a")))
    with pytest.raises(Refused):
        follower.submit(said(follower, "a", join("a", speed=2)))
    state, twice = follower.state, follower.contradictions()
    follower.close()
    stage.kept("copy.sqlite", "mended.sqlite")
    with pytest.raises(UserError, match="only that key may serve it"):
        take_over(stage.folder / "mended.sqlite", address_of(bytes(31) + b"\2"))
    for _ in range(2):
        take_over(stage.folder / "mended.sqlite", HOST)
    ledger = stage.serve(file="mended.sqlite")
    again = stage.follow()
    assert ledger.state == again.state == state
    assert ledger.contradictions() == again.contradictions() == twice != []
    assert again.submit(said(again, "b", join("b")))


def test_a_disk_that_fills_up_while_following_leaves_a_whole_copy(stage: Stage) -> None:
    follower = stage.follow()
    ledger = stage.serve()
    for name in (f"{crowd}{number}" for crowd in "abcd" for number in range(6)):
        ledger.submit(said(ledger, name, join(name)))
    connection = follower._copy._connection  # type: ignore[attr-defined]
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        follower.catch_up()
    assert verify_log(stage.folder / "copy.sqlite") == 1
    assert stage.follow().state == ledger.state


def test_two_followers_find_by_their_heads_that_their_host_told_two_logs(stage: Stage) -> None:
    stage.kept("host.sqlite", "twin.sqlite")
    stage.kept("copy.sqlite", "other.sqlite")
    one = stage.follow()
    one.submit(said(one, "a", join("a")))
    twin = Wire(Host(LocalLedger(stage.folder / "twin.sqlite", LIBRARY, stage.clock), SECRET))
    other = Follower(
        SqliteCopy(stage.folder / "other.sqlite"), LIBRARY, stage.clock, Remote(twin.ask, HOST, genesis().run)
    )
    other.submit(said(other, "b", join("b")))
    assert one.kept is not None
    assert other.kept is not None
    one.compare(one.kept)
    for follower, told in ((one, other.kept), (other, one.kept)):
        with pytest.raises(Forked) as caught:
            follower.compare(told)
        assert caught.value.proof is not None
        assert verify_fork(unpack_fork(caught.value.proof)).seq == 1


def test_a_head_of_an_entry_that_is_not_here_yet_says_nothing(stage: Stage) -> None:
    follower = stage.follow()
    follower.compare(sign_head(SECRET, Head(genesis().run, Count(9), follower.state.head, BEGAN)))
    with pytest.raises(BadSignature):
        follower.compare(
            sign_head(bytes(31) + b"\2", Head(genesis().run, Count(0), Digest(bytes(32)), BEGAN))
        )
    assert follower.kept is None


def test_a_head_is_kept_with_its_copy(stage: Stage) -> None:
    follower = stage.follow()
    follower.submit(said(follower, "a", join("a")))
    follower.close()
    stage.wire.host = None
    assert stage.follow().kept == follower.kept is not None


def test_a_copy_whose_kept_head_is_damaged_is_refused(stage: Stage) -> None:
    connection = sqlite3.connect(stage.folder / "copy.sqlite", isolation_level=None)
    connection.execute("UPDATE followed SET head = x'00'")
    connection.close()
    with pytest.raises(UserError, match="its host's head is damaged; it was altered"):
        stage.follow()
