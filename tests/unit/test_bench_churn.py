"""`bench churn`: figures follow from rows as the docs say, and faults reach real processes."""

import random
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import churn
from benchmarks.stage import Sealed
from benchmarks.swarm import Loopback, Machine, free_ports
from simulator.cast import Worker
from simulator.churn import Churned
from simulator.plan import OF_PROCESSES, Cast, Fault, Kind
from simulator.toy import ToyLibrary, minimal
from simulator.world import World
from trainer.events import EventLog
from trainer.folder import RunFolder
from trainer.lifetimes import python
from verification import codec
from verification.digest import tagged
from verification.errors import UserError
from verification.ledger.local import LocalLedger, create
from verification.ledger.log import Genesis
from verification.statements import MAX_STATEMENT
from verification.units import Millis

GOOD: dict[str, Any] = {
    "goodput_kept": 0.98, "longest_stall": 4.0, "deadline": 7.0, "slashed": 0, "lost_statements": 0,
    "final_states": 1, "copies_apart": 0, "were_all_back": True, "simulated_longest_stall": 3.0,
    "simulated_deadline": 7.0, "simulated_slashed": 0, "simulated_lost_statements": 0, "simulated_states": 1,
}  # fmt: skip


def row(time: str, counted: int, worker_ms: int) -> dict[str, Any]:
    """A time of quiet or of faults."""
    return {"time": time, "counted": counted, "worker_ms": worker_ms}


def test_faults_are_held_against_the_quiet_on_both_sides() -> None:
    rows = [row("quiet", 30, 60_000), row("faults", 45, 100_000), row("quiet", 20, 40_000)]
    assert churn.kept_between(*rows) == pytest.approx(0.9)


@pytest.mark.parametrize(("minutes", "blocks"), [(2, 1), (10, 2), (30, 6)])
def test_faults_are_shared_out_over_times_of_five_minutes_at_most(minutes: int, blocks: int) -> None:
    count = -(-minutes * 62 // 30)
    made = churn.blocks_of(1, Cast(3, 2), minutes, count, tuple(Kind))
    assert len(made) == blocks
    assert sum(len(block.plan) for block in made) == count
    assert sum(block.seconds for block in made) == 60 * minutes
    assert len({block.plan for block in made}) == blocks


def test_faults_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(
        UserError, match="--faults: 500 faults do not fit into 120 s with 5 peers; take fewer"
    ):
        churn.blocks_of(1, Cast(3, 2), 2, 500, OF_PROCESSES)


@pytest.mark.parametrize(
    ("name", "bad", "line"),
    [
        ("goodput_kept", 0.96, "kept less than 97% of the goodput"),
        ("longest_stall", 7.1, "a round took longer than its windows together"),
        ("slashed", 1, "an honest peer was slashed"),
        ("lost_statements", 1, "an acknowledged statement is not in the log"),
        ("final_states", 2, "peers ended on different states"),
        ("final_states", 0, "peers ended on different states"),
        ("copies_apart", 1, "a peer's copy is another log than the host's"),
        ("were_all_back", False, "not everyone was back within 180 s"),
        ("simulated_states", 2, "simulated peers sealed different states"),
    ],
)
def test_what_falls_short_is_told(name: str, bad: Any, line: str) -> None:
    assert churn.shortcomings(GOOD) == []
    assert churn.shortcomings({**GOOD, name: bad}) == [line]


def test_simulated_plans_add_up() -> None:
    one = Churned(1, {"kill": 2, "host": 1}, 50, 900, 0.9, 3_000, 2_000, 7_000, 0, 0, 1)
    other = Churned(2, {"stop": 4}, 60, 900, 1.0, 5_000, 2_000, 7_000, 1, 2, 1)
    found = churn.summarise_simulated([one, other])
    assert found == {
        "simulated_faults": 7, "simulated_rounds": 110, "simulated_goodput_kept": 0.95,
        "simulated_longest_stall": 5.0, "simulated_deadline": 7.0, "simulated_slashed": 1,
        "simulated_lost_statements": 2, "simulated_states": 1,
    }  # fmt: skip


def test_a_statement_on_record_as_acknowledged_that_the_log_lacks_is_counted(tmp_path: Path) -> None:
    world = World(minimal(rounds=1, min_workers=1, min_verifiers=0), [Worker("w0")], random.Random(0))
    world.run(lambda world: len(world.ledger.log) > 2)
    first, *lines = world.ledger.log
    run, own = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "own")
    run.path.mkdir()
    create(run.ledger, codec.decode(Genesis, first.data, MAX_STATEMENT), first.at)
    now = [first.at]
    ledger = LocalLedger(run.ledger, ToyLibrary(), lambda: Millis(now[0]))
    said = [line.data for line in lines if line.kind == "statement"]
    for line in lines:
        now[0] = line.at
        ledger.submit(line.data) if line.kind == "statement" else ledger.tick()
    ledger.close()
    events = EventLog(own.log("peer-0"), "0x0")
    for data in (*said, b"lost"):
        events.write(Millis(1), "said", digest=tagged("said", data).hex())
    events.close()
    swarm: Any = SimpleNamespace(run=run, folders=[own])
    assert len(said) >= 1
    assert churn.lost_statements(swarm) == 1


CHILD = "import subprocess, sys; p = subprocess.Popen(['sleep', '1000']); print(p.pid, flush=True); p.wait()"


def test_a_machine_is_stopped_continued_and_killed_with_its_children(tmp_path: Path) -> None:
    place, output = Loopback(), tmp_path / "output"
    machine = Machine("it", place, python("-c", CHILD), output)
    machine.start()
    try:
        while not output.read_text().endswith("\n"):
            machine.check()
        child = int(output.read_text())
        machine.signal(signal.SIGSTOP)
        while state_of(child) != "T":
            machine.check()
        machine.signal(signal.SIGCONT)
        while state_of(child) != "S":
            machine.check()
    finally:
        machine.kill()
    assert state_of(child) in ("Z", "")
    machine.check()


def state_of(pid: int) -> str:
    """Return the letter of a process's state; nothing for one that is gone."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()[:1]


def test_who_ends_by_itself_is_one_line(tmp_path: Path) -> None:
    place = Loopback()
    machine = Machine("peer-0", place, python("-c", "raise SystemExit('no room')"), tmp_path / "output")
    machine.start()

    def watch() -> None:
        while True:
            machine.check()

    with pytest.raises(UserError, match=r"peer-0 ended with status 1 \(no room\): see .*output"):
        watch()


def test_places_on_one_machine_get_ports_of_their_own() -> None:
    ports = free_ports([Loopback(), Loopback(), Loopback()])
    assert len(set(ports)) == 3


def test_a_round_is_charged_to_the_fault_that_held_it_up() -> None:
    ended = [Sealed(1_000 * at, 1, at, ()) for at in (1, 2, 3, 7, 8)]
    faults = [Fault(3_500, 4_000, Kind.HOST), Fault(1_500, 1_600, Kind.HOST)]
    watch: Any = SimpleNamespace(ended=ended)
    stage: Any = SimpleNamespace(faults=faults)
    swarm: Any = SimpleNamespace(folders=[], cast=Cast(3, 2))
    rows = churn.faults_of(watch, stage, swarm)
    assert [(one["start"], one["longest_round"], one["counted_again"]) for one in rows] == [
        (1_500, 1_000, None),
        (3_500, 4_000, None),
    ]
