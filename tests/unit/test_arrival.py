"""How a newcomer arrives goes on record once, and never what an earlier process of its account has done."""

from pathlib import Path
from typing import cast

import trio

from simulator.memory import Clock, MemoryLedger
from simulator.toy import minimal
from trainer.events import EventLog, read_events
from trainer.peer.arrival import Arrival, Started, awaited
from trainer.peer.record import Record
from verification.digest import ZERO
from verification.ledger.log import Genesis
from verification.state import Member, RoundState, State
from verification.statements import WORKER, Commit
from verification.units import Address, Amount, Millis, Round

OWN, OTHER = Address(b"\1" * 20), Address(b"\2" * 20)


class Round0:
    """What an arrival looks at of a round."""

    number = 0

    def __init__(self, *authors: Address) -> None:
        self.commits = dict.fromkeys(authors, cast(Commit, None))


def state_with(members: list[Address], rounds: list[Round0]) -> State:
    """Return a state with members and rounds."""
    genesis = Genesis(minimal(), "toy", ZERO, Address(bytes(20)), (), Amount(10**9))
    state = MemoryLedger.found(genesis, Clock(Millis(0))).state
    for address in members:
        state.members[address] = Member(address, WORKER, Amount(1), 1, ZERO, "", Round(0))
    state.rounds[:] = cast(list[RoundState], rounds)
    return state


async def test_membership_and_first_commitment_are_told_with_seconds_and_bytes(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    log, received = EventLog(tmp_path / "peer.jsonl", "0x1"), [0]
    started, said = Started(trio.current_time(), 1000), list[str]()
    arrival = Arrival(OWN, Record(log, lambda: Millis(7)), started, lambda: received[0], said.append)
    arrival.note(state_with([OTHER], []))
    for size, members, rounds in (
        (50, [OTHER, OWN], [Round0(OTHER)]),
        (60, [OTHER, OWN], [Round0(OTHER), Round0()]),
        (70, [OTHER, OWN], [Round0(OTHER), Round0(OWN)]),
        (80, [OTHER, OWN], [Round0(OTHER), Round0(OWN), Round0(OWN)]),
    ):
        autojump_clock.jump(2.0)
        received[0] = size
        arrival.note(state_with(members, rounds))
    told = [
        (event["kind"], event["seconds"], event["received"]) for event in read_events(tmp_path / "peer.jsonl")
    ]
    assert said == ["waits for its first round, 1 or a later one; round 0 is going on"]
    assert told == [("joined", 2.0, 1050), ("committed", 6.0, 1070)]


async def test_what_was_reached_before_is_not_told_again(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "peer.jsonl", "0x1")
    arrival = Arrival(OWN, Record(log, lambda: Millis(7)), Started(), lambda: 0, lambda line: None)
    for _ in range(2):
        arrival.note(state_with([OWN], [Round0(OWN), Round0()]))
    assert list(read_events(tmp_path / "peer.jsonl")) == []


def test_a_member_of_a_run_that_gathers_reads_who_is_missing() -> None:
    state = state_with([OWN, OTHER], [])
    work = state.manifest.work
    assert awaited(state, OWN) == (
        f"waits for the run to begin: 2 of {work.min_workers} workers and 0 of {work.min_verifiers} verifiers are there"
    )
