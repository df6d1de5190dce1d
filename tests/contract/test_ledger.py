"""What every ledger does: order, time, heads, acknowledgements and refusals. One suite over all of `KINDS`."""

import copy
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from simulator.memory import Clock
from simulator.toy import ToyLibrary, minimal
from tests.contract.ledgers import KINDS, LIBRARY, Run, log_of
from tests.law_vectors import FOLDER
from verification import codec, law
from verification.digest import ZERO
from verification.errors import BadSignature, Malformed, Refused, Unavailable, Violation
from verification.ledger.log import Fold, Genesis, genesis_of, next_head, verify_chain
from verification.ledger.port import Ledger
from verification.manifest import cost_of_round
from verification.program import Program
from verification.signed import make_statement, open_statement, sign_statement
from verification.signing import address_of
from verification.state import Stage, Standing
from verification.statements import Announce, Body, Contradiction, Join, Withdraw
from verification.units import Address, Amount, Count, Digest, Millis, Round

BEGAN, STALL = Millis(1_000), 60_000
NAMES = ("a", "b", "c", "d")
TIMES = 6
CROWDS = {name: [f"{name}{number}" for number in range(TIMES)] for name in NAMES}
"""Accounts that each of those who write at once speaks for: nobody has much to say alone. (SPEC.md 3.10)"""


def secret(name: str) -> bytes:
    """Return somebody's key."""
    return hashlib.sha256(name.encode()).digest()


def genesis() -> Genesis:
    """Return a run that waits for more members than will ever come, until it stalls."""
    manifest = minimal(slots=8, min_workers=8, stall=STALL)
    names = [*NAMES, *(name for crowd in CROWDS.values() for name in crowd)]
    balances = tuple((address_of(secret(name)), Amount(20_000)) for name in names)
    deposit = Amount(cost_of_round(manifest) * manifest.work.rounds)
    return Genesis(manifest, "toy", ZERO, Address(bytes(20)), balances, deposit)


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest) -> type[Run]:
    """Every kind of ledger."""
    return request.param


@pytest.fixture
def run(kind: type[Run], tmp_path: Path) -> Run:
    """A run of the test's own."""
    return kind(tmp_path, genesis(), Clock(BEGAN))


def said(ledger: Ledger, name: str, body: Body) -> bytes:
    """Return a body as somebody signs it."""
    state = ledger.state
    head = law.head_of(state, body.round)
    return sign_statement(secret(name), make_statement(state.chain, state.run, head, body))


def join(name: str, speed: int = 1) -> Join:
    """Return what a worker joins with."""
    return Join("worker", Amount(10_000), Count(speed), ZERO, f"/toy/{name}")


def test_a_run_begins_with_what_founds_it(run: Run) -> None:
    ledger = run.opened()
    (first,), (entry,) = log_of(ledger), ledger.entries()
    assert (first.seq, first.at, first.kind, genesis_of(first)) == (0, BEGAN, "found", genesis())
    assert (entry.data, entry.effects, ledger.entries()) == (first.data, (), [])
    assert ledger.state.stage is Stage.GATHERING
    assert ledger.now() == BEGAN


def test_everyone_follows_what_anyone_appends(run: Run) -> None:
    one, other = run.opened(), run.opened()
    assert one.submit(said(one, "a", join("a")))
    run.clock.now = Millis(BEGAN + 5)
    assert other.submit(said(other, "b", join("b")))
    one.catch_up()
    entries = one.entries()
    assert entries == other.entries()
    assert [(entry.seq, entry.at, entry.kind) for entry in entries[1:]] == [
        (1, BEGAN, "statement"),
        (2, BEGAN + 5, "statement"),
    ]
    assert one.entries() == []
    assert one.state == other.state
    assert {address_of(secret(name)) for name in "ab"} == set(one.state.members)


def test_a_head_hashes_all_that_came_before_it(run: Run) -> None:
    ledger = run.opened()
    for name in NAMES:
        ledger.submit(said(ledger, name, join(name)))
    head = law.GENESIS_HEAD
    for record in log_of(ledger):
        head = next_head(head, record.seq, record.at, record.kind, record.data)
        assert record.head == head
    assert ledger.state.head == head


def test_a_follower_that_reads_in_batches_makes_the_same_state(run: Run) -> None:
    ledger, fold, batches = run.opened(), Fold(), 0
    for name in NAMES:
        ledger.submit(said(ledger, name, join(name)))
    while batch := ledger.records(fold.seq, 2):
        assert len(batch) <= 2
        for record in batch:
            fold.follow(record, LIBRARY)
        batches += 1
    assert batches == 3
    assert fold.state == ledger.state
    assert fold.fresh() == ledger.entries()


def test_a_refusal_changes_nothing_for_anyone(run: Run) -> None:
    ledger, other = run.opened(), run.opened()
    ledger.submit(said(ledger, "a", join("a")))
    good = said(ledger, "b", join("b"))
    before, log = copy.deepcopy(ledger.state), log_of(ledger)
    refused: dict[bytes, type[Violation]] = {
        b"": Malformed,
        good[:-1]: Malformed,
        good[:-65] + bytes(65): BadSignature,
        said(ledger, "stranger", join("stranger")): Refused,
        said(ledger, "c", Announce(Round(0), Count(0), "/toy/c")): Refused,
    }
    for data, error in refused.items():
        for handle in (ledger, other):
            with pytest.raises(Violation) as caught:
                handle.submit(data)
            assert type(caught.value) is error
    for handle in (ledger, other, run.opened()):
        assert handle.state == before
        assert log_of(handle) == log
        assert handle.contradictions() == []
    assert other.submit(good)


def test_who_repeats_itself_is_acknowledged_again_and_nothing_is_appended(run: Run) -> None:
    ledger, data = run.opened(), []
    for name in NAMES:
        data.append(said(ledger, name, join(name)))
        assert ledger.submit(data[-1])
    log = log_of(ledger)
    run.clock.now = Millis(BEGAN + 100)
    for handle in (ledger, run.opened()):
        assert [handle.submit(again) for again in data] == [False] * len(NAMES)
        assert log_of(handle) == log


def test_the_first_contradiction_of_a_place_is_kept_for_all_to_report(run: Run) -> None:
    ledger, other = run.opened(), run.opened()
    first, second, third = (said(ledger, "a", join("a", speed)) for speed in (1, 2, 3))
    ledger.submit(first)
    for handle in (other, ledger):
        for data in (second, third):
            with pytest.raises(Refused, match="has spoken in this slot already"):
                handle.submit(data)
    twice = [(address_of(secret("a")), first, second)]
    for handle in (ledger, other, run.opened()):
        assert handle.contradictions() == handle.contradictions() == twice
    other.submit(said(other, "b", join("b")))
    assert other.submit(said(other, "b", Contradiction(first, second)))
    ledger.catch_up()
    assert ledger.state.members[address_of(secret("a"))].standing is Standing.EXCLUDED
    assert ledger.contradictions() == twice


def test_one_contradiction_of_an_author_is_kept(run: Run) -> None:
    ledger = run.opened()
    kept = [said(ledger, "a", body) for body in (join("a"), Announce(Round(0), Count(0), "/toy/here"))]
    other = [said(ledger, "a", body) for body in (join("a", 2), Announce(Round(0), Count(0), "/toy/there"))]
    for data in kept:
        ledger.submit(data)
    for data in other:
        with pytest.raises(Refused, match="has spoken in this slot already"):
            ledger.submit(data)
    assert ledger.contradictions() == [(address_of(secret("a")), kept[0], other[0])]


def test_time_never_goes_back(run: Run) -> None:
    ledger, other = run.opened(), run.opened()
    times = (BEGAN + 50, BEGAN + 20, BEGAN - 1_000, BEGAN + 60)
    for name, at in zip(NAMES, times, strict=True):
        run.clock.now = Millis(at)
        ledger.submit(said(ledger, name, join(name)))
        assert ledger.now() == max(at, ledger.state.now)
    assert [record.at - BEGAN for record in log_of(ledger)] == [0, 50, 50, 50, 60]
    run.clock.now = Millis(0)
    other.catch_up()
    assert other.now() == run.opened().now() == BEGAN + 60


def test_a_deadline_passes_once_whoever_lets_it(run: Run) -> None:
    ledger, other = run.opened(), run.opened()
    assert not ledger.tick()
    run.clock.now = Millis(BEGAN + STALL)
    assert other.tick()
    assert not ledger.tick()
    assert ledger.state.stage is other.state.stage is Stage.ENDED
    assert [(record.kind, record.at) for record in log_of(ledger)[1:]] == [("tick", BEGAN + STALL)]


def test_a_deadline_that_has_come_passes_before_a_statement_and_stays_if_that_is_refused(run: Run) -> None:
    ledger = run.opened()
    ledger.submit(said(ledger, "a", join("a")))
    run.clock.now = Millis(BEGAN + 2 * STALL)
    with pytest.raises(Refused, match="has ended"):
        ledger.submit(said(ledger, "b", join("b")))
    assert ledger.submit(said(ledger, "a", Withdraw()))
    assert [record.kind for record in log_of(ledger)] == ["found", "statement", "tick", "statement"]
    assert ledger.state.balances[address_of(secret("a"))] == 20_000


def test_whoever_opens_it_again_finds_all_of_it(run: Run) -> None:
    ledger = run.opened()
    for name in NAMES:
        ledger.submit(said(ledger, name, join(name)))
    with pytest.raises(Refused):
        ledger.submit(said(ledger, "a", join("a", speed=2)))
    state, log, entries, twice = ledger.state, log_of(ledger), ledger.entries(), ledger.contradictions()
    ledger.close()
    again = run.opened()
    assert (again.state, log_of(again), again.entries()) == (state, log, entries)
    assert again.contradictions() == twice
    assert len(twice) == 1
    assert again.submit(said(again, "a", Announce(Round(0), Count(0), "/toy/elsewhere")))


class Absent(ToyLibrary):
    """Has no programs at hand, so many times."""

    def __init__(self, faults: int) -> None:
        """Count down from `faults`."""
        super().__init__()
        self.faults = faults

    def program(self, digest: Digest) -> Program:
        """Fail at first, then give the program."""
        if self.faults:
            self.faults -= 1
            raise Unavailable("the program is not there")
        return super().program(digest)


@pytest.mark.slow
def test_a_whole_run_has_the_same_heads_everywhere_and_waits_for_a_verdict(
    kind: type[Run], tmp_path: Path
) -> None:
    """On the frozen log in which everything is said; each verdict lacks its program at first."""
    minimal(chain=70, wide=20, slots=10)  # makes the toy programs known
    frozen: list[dict[str, Any]] = json.loads((FOLDER / "log.json").read_text())
    clock = Clock(Millis(frozen[0]["at"]))
    run = kind(tmp_path, codec.decode(Genesis, bytes.fromhex(frozen[0]["data"])), clock)
    absent, put_off = Absent(1), 0
    ledger = run.opened(absent)
    for line in frozen[1:]:
        clock.now, data = Millis(line["at"]), bytes.fromhex(line["data"])
        if line["kind"] == "tick":
            assert ledger.tick()
            continue
        if not absent.faults and open_statement(data).statement.kind == "Evidence":
            absent.faults = 1
        before = ledger.state.head
        try:
            assert ledger.submit(data)
        except Unavailable:
            put_off += 1
            assert ledger.state.head == before
            assert ledger.submit(data)
    assert put_off > 0
    log = log_of(ledger)
    assert [(record.at, record.kind, record.data.hex()) for record in log] == [
        (line["at"], line["kind"], line["data"]) for line in frozen
    ]
    assert verify_chain(log) == len(frozen)
    assert run.opened().state == ledger.state


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS.values() if kind.concurrent], ids=lambda k: k.__name__
)
def test_those_who_write_at_once_lose_nothing(run: Run) -> None:
    first = run.opened()
    barrier, failures = threading.Barrier(len(NAMES)), []

    def write(name: str) -> None:
        ledger = run.opened()
        barrier.wait()
        for one in CROWDS[name]:
            if not ledger.submit(said(ledger, one, join(one))):
                failures.append(one)
        ledger.close()

    threads = [threading.Thread(target=write, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    first.catch_up()
    assert failures == []
    assert verify_chain(log_of(first)) == 1 + len(NAMES) * TIMES
    assert set(first.state.members) == {address_of(secret(n)) for crowd in CROWDS.values() for n in crowd}
    assert run.opened().state == first.state
