"""What a person reads who follows a served ledger, or serves one, with the wrong folder, host or key."""

import shutil
from copy import copy
from pathlib import Path

import pytest
import trio

from p2p.errors import Declined
from p2p.identity import Identity
from p2p.reach import Way
from p2p.transport import PeerAddress
from simulator.toy import ToyLibrary
from tests.contract.ledgers import SECRET
from tests.contract.test_ledger import BEGAN, genesis
from tests.patience import WHOLE
from tests.property.test_served_properties import a_fork
from trainer.commands.serve import Service, host_identity, serve_run
from trainer.commands.verify import check_files
from trainer.folder import RunFolder
from trainer.peer.following import host_named, last_seen, remember, run_named, way_told
from trainer.runs.ledgers import begin_copy, check_host, open_copy, open_ledger, served_time, with_proof
from verification.errors import Malformed, Unavailable, UserError
from verification.ledger.follower import Follower, Forked
from verification.ledger.local import LocalLedger, create
from verification.ledger.served import Host
from verification.signing import address_of
from verification.units import Digest

HOST, OTHER = address_of(SECRET), address_of(bytes(31) + b"\2")
SHOWN = "it is what 'proofswarm run serve' prints"


@pytest.fixture
def served(tmp_path: Path) -> tuple[RunFolder, Host]:
    """A folder that holds a ledger, and its host."""
    folder = RunFolder(tmp_path / "served")
    folder.path.mkdir()
    create(folder.ledger, genesis(), BEGAN)
    return folder, Host(LocalLedger(folder.ledger, ToyLibrary(), lambda: BEGAN), SECRET)


@pytest.fixture
def copied(served: tuple[RunFolder, Host], tmp_path: Path) -> RunFolder:
    """A folder that follows it."""
    folder = RunFolder(tmp_path / "copied")
    begin_copy(folder, served[1].answer, HOST, genesis().run)
    return folder


def test_a_folder_holds_a_ledger_or_follows_one_host(
    served: tuple[RunFolder, Host], copied: RunFolder
) -> None:
    check_host(served[0], None)
    check_host(copied, HOST)
    for folder, host, line in (
        (served[0], HOST, "holds the ledger itself: leave out --ledger"),
        (copied, None, "give its address with --ledger"),
        (copied, OTHER, "correct the address"),
    ):
        with pytest.raises(UserError, match=line) as caught:
            check_host(folder, host)
        assert "\n" not in str(caught.value)


def test_a_copy_is_read_without_its_host_and_followed_with_it(
    served: tuple[RunFolder, Host], copied: RunFolder
) -> None:
    ledger = open_ledger(copied, ToyLibrary())
    assert isinstance(ledger, Follower)
    assert not ledger.tick()
    told: list[str] = []
    followed = open_copy(copied, ToyLibrary(), served[1].answer, told.append)
    assert ledger.state == followed.state
    assert told == []


def test_a_copy_is_begun_of_the_named_run_only_and_leaves_nothing_else(
    served: tuple[RunFolder, Host], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "new")

    def nobody(name: str, body: bytes) -> bytes:
        raise Unavailable("connection refused")

    for ask, host, run, line in (
        (served[1].answer, HOST, Digest(bytes(32)), "another run"),
        (served[1].answer, OTHER, genesis().run, "is signed by 0x"),
        (nobody, HOST, genesis().run, "connection refused"),
    ):
        with pytest.raises(UserError, match=line) as caught:
            begin_copy(folder, ask, host, run)
        assert str(caught.value).startswith("no ledger at that address: ")
        assert not folder.path.exists()


def test_only_its_host_serves_a_copy(served: tuple[RunFolder, Host], copied: RunFolder) -> None:
    with pytest.raises(UserError, match="only that key may serve it"):
        served_time(copied, OTHER)
    served_time(copied, HOST).close()
    check_host(copied, None)
    served_time(served[0], OTHER).close()


def test_a_fork_leaves_the_file_that_proves_it(copied: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    fork = Forked("another log")
    assert with_proof(copied, fork) is fork
    fork.proof = a_fork()
    error = with_proof(copied, fork)
    path = copied.evidence / "fork.evidence"
    assert str(error) == f"another log; {path} proves it to 'proofswarm verify'"
    assert check_files([copied.evidence]) == 0
    assert "served two logs" in capsys.readouterr().out


def test_a_host_keeps_the_key_that_it_made(served: tuple[RunFolder, Host]) -> None:
    folder = served[0]
    made = host_identity(folder, None)
    assert host_identity(folder, None).address == made.address
    kept = folder.path / "elsewhere.key"
    shutil.copy(folder.keys / "host.key", kept)
    assert host_identity(folder, kept).address == made.address
    with pytest.raises(UserError, match="no key file"):
        host_identity(folder, folder.path / "none.key")


def test_where_a_host_was_last_is_kept_for_the_next_start(tmp_path: Path) -> None:
    folder, key = RunFolder(tmp_path / "run"), f"/p2p/{Identity(SECRET).peer_id}"
    given = PeerAddress.parse(f"/ip4/10.0.0.1/tcp/1{key}")
    remember(folder, given)  # no folder yet: nothing is kept, and nothing fails
    assert last_seen(folder, given) == given
    folder.path.mkdir()
    moved = PeerAddress.parse(f"/ip4/10.0.0.2/tcp/1{key} /ip6/fd00::1/tcp/2{key}")
    remember(folder, moved)
    assert last_seen(folder, given).multiaddrs == (*moved.multiaddrs, *given.multiaddrs)
    assert last_seen(folder, moved) == moved
    other = PeerAddress.parse(f"/ip4/10.0.0.1/tcp/1/p2p/{Identity(bytes([5]) * 32).peer_id}")
    assert last_seen(folder, other) == other
    folder.host.write_bytes(b"\xff\x00")
    assert last_seen(folder, given) == given


@pytest.mark.parametrize("text", ["", "here", "/ip4/127.0.0.1/tcp/4000", "/ip4/127.0.0.1/tcp/4000/p2p/Qm"])
def test_what_is_no_address_with_a_key_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=SHOWN):
        host_named(text)


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "A" * 64, "a" * 65])
def test_what_is_no_run_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=SHOWN):
        run_named(text)


KEY = Identity(SECRET).peer_id
GIVEN, LAST = f"/ip4/127.0.0.1/tcp/1/p2p/{KEY}", f"/ip4/10.0.0.1/tcp/1/p2p/{KEY}"


@pytest.mark.parametrize(
    ("way", "told"),
    [
        (None, "by a connection that it made"),
        (Way(GIVEN, False), f"at {GIVEN}, as was given"),
        (Way(LAST, False), f"at {LAST}, where it was last"),
        (Way(GIVEN, True), f"at {GIVEN}, which the local network tells (mDNS)"),
        (Way(f"{GIVEN}/p2p-circuit/p2p/{KEY}", False), f"by way of the relay {GIVEN}"),
    ],
)
def test_a_person_is_told_by_which_way_the_host_is_reached(way: Way | None, told: str) -> None:
    assert way_told(way, PeerAddress(HOST, LAST)) == f"the host is reached {told}"


def test_bytes_that_are_no_answer_are_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ledger at that address") as caught:
        begin_copy(RunFolder(tmp_path / "new"), lambda name, body: b"\x00", HOST, genesis().run)
    assert isinstance(caught.value.__cause__, Malformed)


async def test_a_host_whose_ledger_takes_no_more_ends_in_one_line(served: tuple[RunFolder, Host]) -> None:
    """As a full disk leaves it: the ledger has let go of its file. (SPEC.md 8.5)"""
    folder = served[0]
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if len(told) == 1:
            ledgers[0].close()

    ledgers: list[LocalLedger] = []
    with pytest.MonkeyPatch.context() as patch, trio.fail_after(WHOLE):

        def opened(folder: RunFolder, library: object) -> LocalLedger:
            ledgers.append(LocalLedger(folder.ledger, ToyLibrary()))
            return ledgers[0]

        patch.setattr("trainer.peer.hosting.open_ledger", opened)
        with pytest.raises(ExceptionGroup) as caught:
            await serve_run(folder, Service(Identity(SECRET)), tell)
    (error,) = caught.value.exceptions
    assert isinstance(error, UserError)
    assert "serve again: nothing acknowledged is lost" in str(error)
    assert "\n" not in str(error)
    assert len(told) == 2


def test_what_a_host_declines_travels_from_a_process_to_another() -> None:
    """The benchmark measures in processes of their own, and says what ended one."""
    made = copy(Declined("more than 30 requests a second", "Overloaded"))  # by what pickle goes by, too
    assert (str(made), made.reason) == ("more than 30 requests a second", "Overloaded")
