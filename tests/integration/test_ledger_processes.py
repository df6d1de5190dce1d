"""Real processes on one ledger file: concurrent writers, one killed while it writes, and files that are no ledgers."""

import hashlib
import random
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from simulator.toy import ToyLibrary, minimal
from tests.checkout import environment
from trainer.lifetimes import python
from verification import law, signing
from verification.digest import ZERO
from verification.errors import UserError
from verification.ledger.local import (
    FORMAT,
    LocalLedger,
    create,
    system_clock,
    verify_log,
)
from verification.ledger.log import Genesis, next_head
from verification.manifest import cost_of_round
from verification.signed import make_statement, open_statement, sign_statement
from verification.statements import Join
from verification.units import Address, Amount, Count

pytestmark = pytest.mark.integration
NAMES = ["a", "b", "c", "d"]
COUNT = 16


@pytest.fixture
def ledger_file(tmp_path: Path) -> Path:
    """Return a ledger of a run that waits for more members than will ever come, for an hour."""
    manifest = minimal(slots=8, min_workers=8, stall=3_600_000)
    names = ["a", *(f"{name}/{number}" for name in NAMES for number in range(COUNT))]
    secrets = [hashlib.sha256(name.encode()).digest() for name in names]
    balances = tuple((signing.address_of(secret), Amount(20_000)) for secret in secrets)
    deposit = Amount(cost_of_round(manifest) * manifest.work.rounds)
    path = tmp_path / "run.ledger"
    create(path, Genesis(manifest, "toy", ZERO, Address(bytes(20)), balances, deposit), system_clock())
    return path


def started(path: Path, name: str) -> "subprocess.Popen[str]":
    """Return a writer that has opened the ledger and waits for its start signal."""
    command = python("-m", "tests.integration.writer", str(path), name, str(COUNT))
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def joined(path: Path) -> dict[str, list[int]]:
    """Return the numbers of the accounts that each writer has in the log, in the log's order."""
    ledger = LocalLedger(path, ToyLibrary())
    found: dict[str, list[int]] = {name: [] for name in NAMES}
    for entry in ledger.entries():
        if entry.kind == "statement":
            said = open_statement(entry.data)
            if isinstance(said.body, Join):
                name, number = said.body.endpoint.split("/")[2:]
                found[name].append(int(number))
    ledger.close()
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_writer_loses_nothing_acknowledged_and_the_rest_go_on(ledger_file: Path, seed: int) -> None:
    rng = random.Random(seed)
    processes = {name: started(ledger_file, name) for name in NAMES}
    victim, moment, said = rng.choice(NAMES), rng.randint(1, COUNT // 2), dict.fromkeys(NAMES, 0)
    for process in processes.values():
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    killed = processes[victim]
    assert killed.stdout is not None
    for line in killed.stdout:
        said[victim] += line.startswith("said")
        if said[victim] == moment:
            killed.send_signal(signal.SIGKILL)
            break
    said[victim] += sum(line.endswith("\n") for line in killed.stdout)
    for name, process in processes.items():
        rest = process.communicate()[0] if name != victim else ""
        said[name] += rest.count("said")
        assert process.wait() == (-signal.SIGKILL if name == victim else 0)
    found = joined(ledger_file)
    assert found == {name: list(range(len(numbers))) for name, numbers in found.items()}
    assert [len(found[name]) for name in NAMES if name != victim] == [COUNT] * 3
    assert moment <= said[victim] <= len(found[victim]) <= said[victim] + 1
    assert verify_log(ledger_file) == 1 + sum(map(len, found.values()))


def test_a_killed_writer_can_repeat_itself(ledger_file: Path) -> None:
    process = started(ledger_file, "a")
    process.kill()
    process.communicate()
    again = started(ledger_file, "a")
    output, _ = again.communicate("go\n")
    assert output.count("said") == COUNT
    assert joined(ledger_file)["a"] == list(range(COUNT))


def opened(path: Path) -> str:
    """Return the one-line message with which a bad file is refused."""
    with pytest.raises(UserError) as caught:
        LocalLedger(path, ToyLibrary())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def altered(path: Path, statement: str) -> None:
    """Change a ledger file behind its back."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()


def test_missing_file_names_the_command_that_makes_one(tmp_path: Path) -> None:
    assert "proofswarm run create" in opened(tmp_path / "none")


@pytest.mark.parametrize(
    "data", [b"", b"plain text, long enough to be taken for something" * 40, b"SQLite format 3\0"]
)
def test_other_files_are_no_ledger(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert "not a ledger file" in opened(path)
    assert path.read_bytes() == data


def test_other_databases_are_no_ledger(tmp_path: Path) -> None:
    altered(tmp_path / "file", "CREATE TABLE log (seq INTEGER)")
    assert "not a ledger file" in opened(tmp_path / "file")


def test_ledger_without_its_table_is_no_ledger(ledger_file: Path) -> None:
    altered(ledger_file, "DROP TABLE log")
    assert "not a ledger file" in opened(ledger_file)


def test_another_version_is_named(ledger_file: Path) -> None:
    altered(ledger_file, f"PRAGMA user_version={FORMAT + 1}")
    assert f"version {FORMAT + 1}" in opened(ledger_file)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log SET at = at + 1 WHERE seq = 1",
        "UPDATE log SET data = x'00' WHERE seq = 1",
        "UPDATE log SET head = zeroblob(32) WHERE seq = 0",
        "DELETE FROM log WHERE seq = 0",
        "UPDATE log SET seq = 99 WHERE seq = 1",
        "DELETE FROM log",
    ],
)
def test_altered_entries_are_found(ledger_file: Path, statement: str) -> None:
    process = started(ledger_file, "a")
    process.communicate("go\n")
    altered(ledger_file, statement)
    assert "altered" in opened(ledger_file)
    with pytest.raises(UserError, match="altered"):
        verify_log(ledger_file)


def test_a_second_run_does_not_overwrite_the_first(ledger_file: Path) -> None:
    manifest = minimal()
    deposit = Amount(cost_of_round(manifest) * manifest.work.rounds)
    before = ledger_file.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        create(ledger_file, Genesis(manifest, "toy", ZERO, Address(bytes(20)), (), deposit), system_clock())
    assert ledger_file.read_bytes() == before


def test_an_entry_that_the_law_refuses_is_named_though_its_chain_is_whole(ledger_file: Path) -> None:
    connection = sqlite3.connect(ledger_file, isolation_level=None)
    at, head = connection.execute("SELECT at, head FROM log").fetchone()
    forged = next_head(head, 1, at, "statement", b"forged")
    connection.execute("INSERT INTO log VALUES (1, ?, 'statement', ?, ?)", (at, b"forged", forged))
    connection.close()
    assert verify_log(ledger_file) == 2
    assert "refuses entry 1" in opened(ledger_file)


def test_a_failure_that_is_no_refusal_closes_the_handle_and_keeps_nothing(ledger_file: Path) -> None:
    ledger = LocalLedger(ledger_file, ToyLibrary())
    altered(
        ledger_file, "CREATE TRIGGER stop BEFORE INSERT ON log BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    secret = hashlib.sha256(b"a").digest()
    body = Join("worker", Amount(10_000), Count(1), ZERO, "/toy/a")
    data = sign_statement(
        secret, make_statement(ledger.state.chain, ledger.state.run, law.GENESIS_HEAD, body)
    )
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        ledger.submit(data)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        ledger.submit(data)
    assert verify_log(ledger_file) == 1
