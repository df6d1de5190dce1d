"""The command line: a person's mistake is exit status 2 and exactly one line on standard error."""

import errno
import functools
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.identity import Identity, load
from p2p.ticket import Ticket
from tests.checkout import environment
from tests.tiny import job_text, write_job
from trainer import cli
from trainer.commands.report import read_ledger
from trainer.folder import RunFolder, alone
from trainer.lifetimes import python
from trainer.runs.create import Created
from verification.errors import Unavailable, UserError
from verification.manifest import least_stake
from verification.signing import checksum
from verification.units import Digest

Mistake = Callable[[RunFolder], list[str]]


@pytest.fixture
def run(tiny_run: Created, tmp_path: Path) -> RunFolder:
    """A run of the test's own."""
    return RunFolder(Path(shutil.copytree(tiny_run.folder.path, tmp_path / "run")))


def peer(run: RunFolder, *options: str, key: Path | None = None) -> list[str]:
    """Return the command line of a worker."""
    return ["peer", "--run", str(run.path), "--key", str(key or run.keys / "peer-0.key"), *options]


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    """Write a file and return its path."""
    path.write_text(text)
    path.chmod(mode)
    return path


def other_version(run: RunFolder) -> list[str]:
    """Make the ledger one of a later version."""
    connection = sqlite3.connect(run.ledger)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    return peer(run)


def altered(run: RunFolder) -> list[str]:
    """Change what the ledger's first entry says."""
    connection = sqlite3.connect(run.ledger)
    connection.execute("UPDATE log SET at = at + 1")
    connection.commit()
    connection.close()
    return ["report", str(run.path)]


def instead(path: Path, arguments: list[str]) -> list[str]:
    """Put a file where a folder should be."""
    path.rename(path.with_name("aside")) if path.exists() else None
    path.write_text("in the way")
    return arguments


def without(path: Path, arguments: list[str]) -> list[str]:
    """Remove a file."""
    path.unlink()
    return arguments


def blob(run: RunFolder) -> Path:
    """Return the largest published blob."""
    return max((path for path in run.blobs.iterdir() if path.is_file()), key=lambda path: path.stat().st_size)


def damaged(run: RunFolder) -> list[str]:
    """Change a byte of a published blob."""
    path = blob(run)
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return peer(run)


def job(run: RunFolder, text: str) -> list[str]:
    """Make a run from a job file of this text."""
    write_job(run.path.parent)
    return ["run", "create", str(written(run.path.parent / "job.toml", text)), "--out", str(run.path / "new")]


def demo_on(run: RunFolder, text: str) -> list[str]:
    """Return the command line of a demo on a text of one's own."""
    return ["demo", "--out", str(run.path / "new"), "--text", str(run.path / text)]


def log_to(run: RunFolder, place: str, *options: str) -> list[str]:
    """Return the command line that logs a run in a place."""
    return ["run", "log", str(run.path), "--log-to", place, *options]


HOST = f"/ip4/127.0.0.1/tcp/4000/p2p/{Identity(bytes(31) + bytes([1])).peer_id}"
TICKET = Ticket(Digest(bytes(32)), HOST)

MISTAKES: dict[str, tuple[Mistake, str]] = {
    "missing run": (lambda r: peer(RunFolder(r.path / "no"), key=r.keys / "peer-0.key"), "holds no run: make one with"),
    "missing key": (lambda r: peer(r, key=r.path / "no.key"), "no key file"),
    "key open to others": (lambda r: peer(r, key=written(r.path / "k.key", "x", 0o644)), "run: chmod 600"),
    "no key at all": (lambda r: peer(r, key=written(r.path / "k.key", "secret")), "not a key file"),
    "wrong role": (lambda r: peer(r, "--role", "boss"), "unknown role 'boss': choose worker or verifier"),
    "unknown device": (lambda r: peer(r, "--device", "gpu"), "unknown device 'gpu': choose cpu, cuda or cuda:N"),
    "a doctor for no device": (lambda r: ["doctor", "--device", "gpu"], "unknown device 'gpu'"),
    "a demo on no device": (lambda r: ["demo", "--out", str(r.path), "--device", "gpu"], "unknown device 'gpu'"),
    "a demo on hosts that others join": (lambda r: ["demo", "--hosts", "--serve"], "leave out --hosts or --serve"),
    "a demo that listens for nobody": (lambda r: ["demo", "--listen", "/ip4/10.0.0.1/tcp/1"], "add --serve"),
    "a demo that listens nowhere": (lambda r: ["demo", "--serve", "--listen", "x"], "not an address to listen on"),
    "unknown cheat": (lambda r: peer(r, "--cheat", "fly"), "unknown cheat 'fly': choose one of none, skip-steps"),
    "no address": (lambda r: peer(r, "--listen", "here"), "not an address to listen on"),
    "address of others": (lambda r: peer(r, "--listen", "/ip4/192.0.2.1/tcp/0"), "cannot listen there"),
    "ledger of another version": (other_version, "is a ledger of version 99, this program reads version"),
    "no ledger": (lambda r: [written(r.ledger, "text"), *peer(r)][1:], "is not a ledger file"),
    "altered ledger": (altered, "entry 0 does not continue the hash chain"),
    "peers is a file": (lambda r: instead(r.path / "peers", peer(r)), "cannot write there"),
    "events is a file": (lambda r: instead(r.events, peer(r)), "cannot write there"),
    "missing blob": (lambda r: without(blob(r), peer(r)), "copy the run's blobs/"),
    "damaged blob": (damaged, "holds it damaged: copy the run's blobs/ again"),
    "ledger at no address": (lambda r: peer(r, "--ledger", "here"), "it is what 'proofswarm run serve' prints"),
    "no run to follow": (lambda r: peer(RunFolder(r.path / "no"), "--ledger", HOST, key=r.keys / "peer-0.key"),
                         "say of which run with --run-id"),
    "a host for the ledger itself": (lambda r: peer(r, "--ledger", HOST), "holds the ledger itself"),
    "a ticket cut short": (lambda r: ["join", TICKET.text()[:-3]], "the ticket is cut short or mistyped"),
    "a ticket that is none": (lambda r: ["join", str(r.job)], "that is no ticket"),
    "a ticket without an account": (lambda r: ["join", TICKET.text()], "name the key file of a funded one with --key"),
    "a ticket into the ledger's own folder": (
        lambda r: ["join", TICKET.text(), "--key", str(r.keys / "peer-0.key"), "--folder", str(r.path)],
        "not 000000000000: name another folder",
    ),
    "a ticket as boss": (
        lambda r: ["join", TICKET.text(), "--key", str(r.keys / "peer-0.key"), "--role", "boss"],
        "unknown role 'boss'",
    ),
    "a doctor for half a ticket": (lambda r: ["doctor", "--network", TICKET.text()[:-9]], "copy it again"),
    "an invitation to what nobody serves": (lambda r: ["run", "invite", str(r.path)], "start 'proofswarm run serve"),
    "an invitation to no address": (lambda r: ["run", "invite", str(r.path), "--address", "here"], "--address: "),
    "too many invitations": (lambda r: ["run", "invite", str(r.path), "--count", "4", "--address", HOST],
                             "has 3 accounts that nobody uses, 4 are asked for"),
    "a copy that is served": (lambda r: peer(r, "--serve", "--ledger", HOST), "leave out --serve or --ledger"),
    "serve of nothing": (lambda r: ["run", "serve", str(r.keys)], "holds no run"),
    "serve on no address": (lambda r: ["run", "serve", str(r.path), "--listen", "here"], "not an address to listen on"),
    "report of nothing": (lambda r: ["report", str(r.keys)], "holds no run"),
    "missing job": (lambda r: ["run", "create", str(r.path / "no.toml")], "no such job file"),
    "malformed job": (lambda r: job(r, "[model"), "not TOML"),
    "wrong key in a job": (lambda r: job(r, job_text({"training.rounds": 0})), "training.rounds"),
    "unwritable out": (lambda r: instead(r.path / "new", job(r, job_text())), "is a file: choose another folder"),
    "demo into something else": (lambda r: ["demo", "--out", str(r.keys)], "holds something else than a demo"),
    "demo with an unknown cheat": (lambda r: ["demo", "--cheat", "fly"], "unknown cheat 'fly'"),
    "demo over a file": (lambda r: ["demo", "--out", str(r.ledger)], "is a file"),
    "demo over a run": (lambda r: ["demo", "--out", str(r.path)], "holds something else than a demo"),
    "one round and several to export": (
        lambda r: ["export", str(r.path), "--round", "1", "--every", "2"], "leave out --round or --every",
    ),
    "a model that is followed": (lambda r: ["export", str(r.path), "--follow"], "add --every"),
    "a log of no form": (lambda r: log_to(r, "run.txt"), "neither FILE.csv nor FILE.jsonl"),
    "a peer's log into another file": (
        lambda r: peer(r, "--log-to", str(written(r.path / "a.csv", "step,loss\n"))),
        "is no log of run",
    ),
    "a log where nothing is": (lambda r: log_to(RunFolder(r.keys), "a.csv"), "holds no run"),
    "a log that cannot be": (lambda r: log_to(r, f"{r.ledger}/a.csv"), "nothing can be logged any more"),
    "a log that judges without records": (
        lambda r: without(r.held_out, log_to(r, f"{r.path}/a.csv", "--evaluate-every", "1")),
        "cannot read held-out records",
    ),
    "a log that judges without a model": (
        lambda r: without(r.model, log_to(r, f"{r.path}/a.csv", "--evaluate-every", "1")),
        "lacks model.json",
    ),
    "demo without its text": (lambda r: demo_on(r, "no.txt"), "no.txt: no such file"),
}  # fmt: skip


def called(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """Run the command line in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["proofswarm", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_2(
    mistake: str, run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected = MISTAKES[mistake]
    arguments = make(run)
    capsys.readouterr()
    assert called(arguments, monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("proofswarm: ")
    assert expected in line


def test_a_peer_refuses_to_run_twice(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    account = checksum(load(run.keys / "peer-0.key").address)
    (run.path / "peers").mkdir()
    shutil.copy(run.keys / "peer-0.key", run.keys / "again.key")
    with alone(run.lock(account)):
        for name in ("peer-0", "again"):
            assert called(peer(run, key=run.keys / f"{name}.key"), monkeypatch) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert (
                f"{account} already runs in another process: end that one, or join with another key" in line
            )
            assert not run.log(name).exists()
    with alone(run.lock(account)):
        pass


def test_the_stores_of_a_run_are_its_peers_and_no_lock(run: RunFolder) -> None:
    """The demo once took the lock that lies beside them for a peer, and ended in a traceback after all rounds."""
    for name in ("peer-1", "peer-0"):
        (run.peer(name) / "blobs").mkdir(parents=True)
    with alone(run.lock(checksum(load(run.keys / "peer-0.key").address))):
        assert run.stores() == [run.peer(name) / "blobs" for name in ("peer-0", "peer-1")]


def test_a_created_run_keeps_its_job(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(job(run, job_text()), monkeypatch) == 0
    assert (run.path / "new" / "job.toml").read_text() == job_text()
    assert "join it with: proofswarm peer --run" in capsys.readouterr().out


def test_every_command_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        [],
        ["demo"],
        ["doctor"],
        ["run"],
        ["run", "create"],
        ["run", "invite"],
        ["peer"],
        ["join"],
        ["report"],
    ):
        assert called([*command, "--help"], monkeypatch) == 0
        assert "Usage:" in capsys.readouterr().out


def started(run: RunFolder, *options: str) -> "subprocess.Popen[str]":
    """Start a peer as a user does: Ctrl-C reaches it, even where the tests run in the background and ignore it."""
    command = python("-m", "trainer.cli", *peer(run, *options))
    return subprocess.Popen(
        command, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def assert_one_line(process: "subprocess.Popen[str]", status: int, expected: str) -> None:
    """The process ends with a status and a single line of complaint."""
    try:
        _, complaint = process.communicate(timeout=100)
    finally:
        process.kill()
    (line,) = complaint.splitlines()
    assert expected in line
    assert process.returncode == status


@pytest.mark.parametrize("option", ["--stake", "--memory", "--cheat-from"])
def test_a_number_out_of_range_is_refused_by_its_option(run: RunFolder, option: str) -> None:
    process = started(run, option, "inf" if option == "--memory" else str(2**64))
    assert process.wait(60) == 2
    assert process.stderr is not None
    said = process.stderr.read()
    assert option in said and "Traceback" not in said


@pytest.mark.slow
def test_a_taken_port_ends_a_real_peer_with_one_line(run: RunFolder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = started(run, "--listen", f"/ip4/127.0.0.1/tcp/{port}")
        assert_one_line(process, 2, f"port {port} is taken; choose another")


@pytest.mark.slow
def test_a_device_that_is_not_here_ends_a_real_peer_before_it_stakes(run: RunFolder) -> None:
    assert_one_line(started(run, "--device", "cuda:9999"), 2, "no device 'cuda:9999': ")
    ledger = read_ledger(run)
    assert ledger.state.members == {}
    ledger.close()


@pytest.mark.slow
def test_a_peer_that_the_run_refuses_ends_and_may_try_again(tiny_run: Created, run: RunFolder) -> None:
    least = least_stake(tiny_run.manifest)
    assert_one_line(started(run, "--stake", "5"), 2, f"a worker stakes at least {least}; see --stake")
    assert_one_line(started(run, "--memory", "0.0001"), 2, "; --memory raises the limit")
    assert_one_line(
        started(run, "--stake", "999999999"), 2, "the account holds 2000000, the stake is 999999999"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "who", "status", "expected"),
    [
        (signal.SIGINT, "both", 130, "interrupted; the same command goes on where this one stopped"),
        (signal.SIGKILL, "compute", 1, "the compute process ended with status -9; start this peer again"),
    ],
)
def test_a_peer_that_is_broken_off_says_so_in_one_line(
    run: RunFolder, number: int, who: str, status: int, expected: str
) -> None:
    process = started(run)
    assert process.stdout is not None
    first = process.stdout.readline()
    while not process.stdout.readline().startswith("measured "):
        assert process.poll() is None
    assert_one_line(started(run), 2, "already runs in another process")
    if who == "both":  # as Ctrl-C at a terminal does
        os.killpg(process.pid, number)
    else:
        os.kill(int(first.rsplit("compute=", 1)[1]), number)
    assert_one_line(process, status, expected)


def test_a_group_with_a_bug_in_it_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    bug, mistake, gone = ZeroDivisionError("bug"), UserError("mend it"), Unavailable("gone")
    assert cli._decisive(ExceptionGroup("", [gone, ExceptionGroup("", [mistake])])) is mistake
    both = ExceptionGroup("", [mistake, bug])
    assert cli._decisive(both) is both
    monkeypatch.setattr(cli, "app", lambda: (_ for _ in ()).throw(both))
    with pytest.raises(ExceptionGroup):
        cli.main()


FULL = OSError(errno.ENOSPC, "No space left on device")
SQLITE_FULL = sqlite3.OperationalError("database or disk is full")
SQLITE_FULL.sqlite_errorcode = sqlite3.SQLITE_FULL


@pytest.mark.parametrize(
    "error", [FULL, SQLITE_FULL, ExceptionGroup("tasks", [ExceptionGroup("more", [FULL])])]
)
def test_a_full_disk_is_one_line_wherever_it_is_found(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise error

    monkeypatch.setattr(cli, "app", full)
    assert called([], monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(": free space and start again: nothing is lost")


def test_another_fault_of_the_system_is_no_persons_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(OSError, match="Input/output error"):
        cli.main()
