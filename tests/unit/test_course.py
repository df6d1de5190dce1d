"""A run's figures by rounds: those of the report of the same run, and the same however the ledger's entries come."""

import functools
import random
import re
from collections.abc import Sequence

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.fuzz import Hearsay, _world, parameters
from simulator.toy import minimal
from simulator.world import World
from tests.checkout import ROOT
from trainer.rounds.cheats import conduct_named
from verification import effects as done
from verification.causes import Cause, Reason
from verification.ledger.log import Entry, Fold, genesis_of
from verification.manifest import Place, reward_of
from verification.report import figures
from verification.report.build import build_report
from verification.report.course import FIRST, UNITS, Course, Milestone, Row
from verification.report.said import Event, Losses
from verification.report.schema import Report
from verification.signing import checksum
from verification.state import Assignment, Stage
from verification.statements import WORKER
from verification.units import MILLION, Amount, Millis

ROUNDS = 6


@functools.cache
def played(cheat: str, overlap: bool = False) -> World:
    """Return a finished run in which everyone audits everything and one worker may cheat from round 2 on."""
    conduct = None if cheat == "none" else conduct_named(cheat, 2)
    first = Worker("w0") if conduct is None else Worker("w0", conduct=conduct)
    actors: list[Actor] = [first, Worker("w1"), Worker("w2"), Verifier("v0"), Verifier("v1")]
    manifest = minimal(audit_rate=MILLION, rounds=ROUNDS, overlap=overlap)
    world = World(manifest, actors, random.Random(5))
    world.run()
    assert world.state.stage is Stage.ENDED
    return world


def logs(world: World) -> dict[str, list[Event]]:
    """Return event logs in which every second worker says its losses, and a verifier what it found of a worker."""
    workers = [checksum(actor.address) for actor in world.actors if actor.role == "worker"]
    found: dict[str, list[Event]] = {}
    for place, who in enumerate(workers):
        computed = [
            {
                "at": 1,
                "peer": who,
                "kind": "computed",
                "round": n,
                "worker": who,
                "own": True,
                "loss": 3 - n / 8 + place,
            }
            for n in range(ROUNDS)
            if place != 1
        ]
        found[f"w{place}"] = [{"at": 1, "peer": who, "kind": "started"}, *computed]
    verifier = checksum(world.actors[-1].address)
    other = {
        "at": 1,
        "peer": verifier,
        "kind": "computed",
        "round": 0,
        "worker": workers[1],
        "own": False,
        "loss": 99.0,
    }
    found["v1"] = [other, {**other, "own": True}]
    return found


def report_of(world: World) -> Report:
    """Return the report of the run's log and of `logs`."""
    effects = [(entry.at, effect) for entry in world.ledger.log for effect in entry.effects]
    return build_report(world.state, effects, logs(world), Millis(0))


def course_of(world: World, entries: Sequence[Entry] | None = None) -> list[Milestone]:
    """Return what a log of the run holds."""
    losses = Losses()
    for name, events in logs(world).items():
        for event in events:
            losses.take(name, [event])
    genesis = genesis_of(world.ledger.log[0])
    course = Course(genesis.manifest, genesis.deposit, losses.known)
    return [
        reached for entry in entries or world.ledger.log for reached in course.take(entry.at, entry.effects)
    ]


def values(reached: Milestone) -> dict[str, float]:
    """Return a round's figures by name."""
    return {row.name: row.value for row in reached.rows}


def all_of(cheat: str, overlap: bool = False) -> tuple[World, Report, list[Milestone]]:
    """Return a run, its report and its course."""
    world = played(cheat, overlap)
    return world, report_of(world), course_of(world)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("cheat", ["none", "skip-steps", "noise"])
def test_each_round_is_as_the_report_has_it(cheat: str, overlap: bool) -> None:
    """With overlap a round takes as long as the time since the last one ended, or the sum would be twice the whole."""
    world, report, course = all_of(cheat, overlap)
    work, data = world.state.manifest.work, world.state.manifest.data
    assert [reached.number for reached in course] == [*(each.number for each in report.rounds), ROUNDS]
    ended = 0
    for reached, told in zip(course, report.rounds, strict=False):
        found, included = values(reached), [part for part in told.contributions if part.included]
        seconds, ended = (told.closed_ms - max(told.opened_ms, ended)) / 1000, told.closed_ms
        assert found["train/loss"] == told.loss
        assert found["train/losses_known"] == sum(part.loss is not None for part in included)
        assert found["train/contributions"] == len(included)
        assert found["train/inner_steps"] == sum(part.steps for part in included)
        assert found["train/round_seconds"] == seconds
        tokens = found["train/inner_steps"] * work.batch * data.width
        assert found["train/tokens_per_second"] == tokens / seconds
        assert reached.state is not None
        assert (reached.at, reached.state.digest.hex()) == (told.closed_ms, told.state_digest)


@pytest.mark.parametrize("cheat", ["none", "skip-steps", "noise"])
def test_the_end_is_as_the_report_has_it(cheat: str) -> None:
    _, report, course = all_of(cheat)
    found, totals = values(course[-1]), figures.totals(report)
    assert course[-1].state is None
    assert (found["audits/passed"], found["audits/mismatches"]) == (totals.passed, totals.mismatches)
    assert found["audits/undecided"] == totals.undecided
    assert found["audits/duties"] == totals.audits + totals.undecided > 0
    assert found["audits/disputes"] == len(report.disputes)
    assert found["audits/convictions"] == len(figures.convictions(report))
    assert found["audits/penalties"] == len(report.penalties)
    assert (found["audits/convictions"] > 0) is (cheat != "none")
    assert found["money/slashed"] == totals.slashed
    assert found["money/burned"] == totals.burned
    assert found["money/deposit_left"] == report.money.deposit == 0
    rewarded = sum(entry.rewarded for entry in report.penalties)
    assert found["money/paid"] + rewarded == sum(peer.rewards for peer in report.peers) > 0
    left = {status: sum(peer.status == status for peer in report.peers) for status in ("active", "excluded")}
    assert found["members/workers"] + found["members/verifiers"] == left["active"]
    assert found["members/excluded"] == left["excluded"] == (cheat != "none")
    assert "train/loss" not in found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 8, 60])
def test_the_deposit_is_the_laws_after_every_entry(seed: int) -> None:
    """Hostile worlds: in the second a worker is excluded before its round is sealed, in the third one is not paid."""
    rng = random.Random(seed)
    world = _world(rng, parameters(rng), Hearsay(), 0)
    world.run(limit=2_000_000)
    genesis, fold = genesis_of(world.ledger.log[0]), Fold()
    course = Course(genesis.manifest, genesis.deposit, lambda number, workers: [])
    for entry in world.ledger.log:
        fold.follow(entry, world.ledger.library)
        course.take(entry.at, entry.effects)
        assert course.deposit == fold.state.deposit + sum(worked.reserve for worked in fold.state.rounds)


@pytest.mark.parametrize(("place", "is_paid"), [(Place.EPILOGUE, False), (Place.OUTER, True), (None, False)])
def test_who_is_convicted_of_the_rounds_work_before_its_seal_earns_nothing(
    place: Place | None, is_paid: bool
) -> None:
    """Who sealed a wrong state has worked all the same."""
    genesis, worker = genesis_of(played("none").ledger.log[0]), played("none").actors[0].address
    ref, reason = genesis.manifest.start, Reason(Cause.SPOILED_BYTES, FIRST, place)
    course = Course(genesis.manifest, genesis.deposit, lambda number, workers: [])
    course.take(
        Millis(1),
        [
            done.MemberJoined(worker, WORKER, Amount(9)),
            done.RoundOpened(FIRST, ref, ((worker, Assignment(0, 4, Amount(9))),)),
            done.RoundClosed(FIRST, (worker,), ref.digest),
            done.Slashed(worker, Amount(4), Amount(0), Amount(2), Amount(2), reason),
            done.RoundSealed(FIRST, ref),
        ],
    )
    assert genesis.deposit - course.deposit == (reward_of(genesis.manifest, 4) if is_paid else 0)


def test_what_comes_later_changes_no_row() -> None:
    world = played("noise")
    whole = course_of(world)
    for length in range(1, len(world.ledger.log), 7):
        part = course_of(world, world.ledger.log[:length])
        assert part == whole[: len(part)]


def test_rows_come_in_one_order_with_units() -> None:
    rows = [row for reached in course_of(played("noise")) for row in reached.rows]
    assert [row.position for row in rows] == sorted({row.position for row in rows})
    assert {row.name for row in rows} == {*UNITS} - {"evaluation/loss"}
    assert Row(rows[0].round, "train/round_seconds", 2.5, Millis(1)).unit == "s"


def test_a_loss_counts_for_its_own_account_in_one_log_alone() -> None:
    world = played("none")
    worker, other = (actor.address for actor in world.actors[:2])
    who = checksum(worker)
    said = {"at": 1, "peer": who, "kind": "computed", "round": 3, "worker": who, "own": True, "loss": 2.5}
    losses = Losses()
    losses.take("a", [said, {**said, "round": 4}, {**said, "peer": checksum(other), "round": 4, "loss": 9.0}])
    losses.take("a", [{**said, "round": 5, "loss": "low"}, {}, {**said, "round": 5, "own": False}])
    assert losses.known(3, [worker, other]) == [2.5]
    losses.take("b", [said])
    assert losses.known(4, [worker, other]) == []


def test_the_page_names_every_figure_with_its_unit() -> None:
    page = (ROOT / "docs/logs.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+/\w+)` \| (\S+) \| \S", page, re.MULTILINE) == list(UNITS.items())
