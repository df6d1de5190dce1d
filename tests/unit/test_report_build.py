"""Reports from a run's record: the law's effects and the peers' events, on a simulated run with a cheat in it."""

import dataclasses
import functools
import math
import random
import re
from collections.abc import Container
from typing import Any

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.toy import minimal
from simulator.toy_crew import with_crews
from simulator.world import World
from trainer.commands.ending import Cheat, checks
from trainer.rounds.cheats import conduct_named
from verification.adversaries import Withhold
from verification.effects import DisputeEnded
from verification.manifest import Post
from verification.report.build import build_report
from verification.report.encoding import to_json
from verification.report.said import MAX_TEXT
from verification.report.schema import (
    DisputeReport,
    GroupMemberReport,
    KernelsReport,
    PeerReport,
    PostReport,
    Report,
    ShardReport,
)
from verification.report.words import where
from verification.signing import checksum
from verification.state import Stage
from verification.units import MILLION, Count, Millis

CREATED = Millis(5)
FIRST_CHEAT = 2
DIGEST = "ab" * 32
Logs = dict[str, list[dict[str, Any]]]


@functools.cache
def played(cheat: str) -> World:
    """Return a finished run in which everyone audits everything and one worker cheats from round 2 on."""
    actors: list[Actor] = [Worker("cheat", conduct=conduct_named(cheat, FIRST_CHEAT)), Worker("honest")]
    actors.append(Verifier("verifier"))
    world = World(minimal(audit_rate=MILLION, rounds=5), actors, random.Random(3))
    world.run()
    assert world.state.stage is Stage.ENDED
    return world


def logs(world: World, cheat: str) -> Logs:
    """Return events such as the peers of that run write."""
    found: Logs = {}
    for actor in world.actors:
        who = {"at": 1, "peer": checksum(actor.address)}
        played_by_it = cheat if actor.name == "cheat" else "none"
        found[actor.name] = [
            {**who, "kind": "started", "role": actor.role, "cheat": played_by_it},
            {**who, "kind": "computed", "round": 0, "worker": who["peer"], "own": True, "loss": 2.0 + len(found)},
            {**who, "kind": "traffic", "bytes": {"hint": [10, 1], "blob/list": [4, 4]}},
            {**who, "kind": "traffic", "bytes": {"hint": [30, 5], "blob/list": [4, 4]}},
            {**who, "kind": "ended", "round": 5, "digest": DIGEST},
        ]  # fmt: skip
    return found


def report_of(world: World, events: Logs) -> Report:
    """Return the report of a run's log."""
    effects = [(line.at, effect) for line in world.ledger.log for effect in line.effects]
    return build_report(world.state, effects, events, CREATED)


def peer(report: Report, name: str) -> PeerReport:
    """Return the peer of a name."""
    (found,) = (entry for entry in report.peers if entry.name == name)
    return found


def guilty(report: Report) -> DisputeReport:
    """Return the dispute about the first round with a cheat in it; later ones began before it was convicted."""
    assert {dispute.verdict for dispute in report.disputes} == {"guilty"}
    (found,) = (dispute for dispute in report.disputes if dispute.round == FIRST_CHEAT)
    return found


def test_a_record_becomes_a_report() -> None:
    world = played("skip-steps")
    report = report_of(world, logs(world, "skip-steps"))
    assert [entry.number for entry in report.rounds] == list(range(5))
    assert [entry.name for entry in report.peers] == ["cheat", "honest", "verifier"]
    assert report.created_at_ms == CREATED
    assert report.run == world.state.run.hex()
    assert all(entry.opened_ms < entry.closed_ms for entry in report.rounds)
    assert peer(report, "cheat").status == "excluded"
    assert peer(report, "cheat").excluded_in_round is not None
    assert peer(report, "honest").commitments == 5
    first = report.rounds[0]
    assert first.loss == 2.5
    assert {part.loss for part in first.contributions} == {2.0, 3.0}


def test_money_adds_up_and_each_peers_part_is_exact() -> None:
    world = played("skip-steps")
    report = report_of(world, logs(world, "skip-steps"))
    money = report.money
    parts = (money.balances, money.stakes, money.escrow, money.deposit, money.burned)
    assert sum(parts) == money.total == world.ledger.money
    cheat, verifier = peer(report, "cheat"), peer(report, "verifier")
    assert sum(dispute.slashed for dispute in report.disputes) == cheat.slashed > 0
    assert all(dispute.slashed == dispute.rewarded + dispute.burned for dispute in report.disputes)
    assert 0 < cheat.stake_start - cheat.stake_end <= cheat.slashed
    assert sum(dispute.burned for dispute in report.disputes) == money.burned
    assert verifier.rewards >= sum(dispute.rewarded for dispute in report.disputes)
    assert (verifier.slashed, peer(report, "honest").slashed) == (0, 0)
    assert [point.stake for point in cheat.stake_history][-1] == cheat.stake_end


def test_the_same_log_gives_the_same_report() -> None:
    world = played("noise")
    events = logs(world, "noise")
    first = report_of(world, events)
    backwards = dict(reversed(events.items()))
    assert first == report_of(world, events) == report_of(world, backwards)
    assert to_json(first) == to_json(report_of(world, backwards))
    replayed = world.ledger.replay()
    effects = [(line.at, effect) for line in world.ledger.log for effect in line.effects]
    assert build_report(replayed, effects, events, CREATED) == first


def test_a_step_is_counted_the_same_way_everywhere() -> None:
    world = played("skip-steps")
    found = guilty(report_of(world, logs(world, "skip-steps")))
    (ended,) = (effect for effect in world.seen(DisputeEnded) if effect.round == FIRST_CHEAT)
    steps = world.state.rounds[FIRST_CHEAT].assignments[ended.accused].steps
    first_skipped = steps // 2 + 1
    assert ended.step == found.step == first_skipped
    assert where(found).startswith(f"inner step {first_skipped}, node ")
    told = [re.fullmatch(r"contests the state after step (\d+)", move.what) for move in found.moves]
    assert [int(move[1]) for move in told if move][-1] == first_skipped


@pytest.mark.parametrize(
    ("cheat", "place", "leaf"),
    [
        ("skip-steps", "inner step", 2),
        ("noise", "epilogue", None),
        ("stale", "prologue", 0),
        ("wrong-data", "prologue", 0),
    ],
)
def test_a_dispute_tells_where_and_what(cheat: str, place: str, leaf: int | None) -> None:
    world = played(cheat)
    found = guilty(report_of(world, logs(world, cheat)))
    assert (found.place, found.leaf, found.round) == (place, leaf, FIRST_CHEAT)
    assert (found.step is not None) == (place == "inner step")
    assert found.claimed_digest != found.computed_digest
    assert [move.actor for move in found.moves][-1] == "the law"
    assert [move.at_ms for move in found.moves] == sorted(move.at_ms for move in found.moves)


def test_audits_count_for_both_sides() -> None:
    world = played("skip-steps")
    report = report_of(world, logs(world, "skip-steps"))
    audits = [audit for entry in report.rounds for audit in entry.audits]
    outcomes = [audit.outcome for audit in audits]
    mismatches = outcomes.count("mismatch")
    assert mismatches == peer(report, "cheat").audits_failed == len(report.disputes) >= 1
    passed = peer(report, "cheat").audits_passed + peer(report, "honest").audits_passed
    assert outcomes.count("pass") == passed
    assert peer(report, "verifier").audits_done == passed + mismatches


def test_traffic_adds_up_over_restarts() -> None:
    world = played("noise")
    events = logs(world, "noise")
    one = events["honest"]
    events["honest"] = [*one[:4], one[0], *one[2:]]
    rows = {(row.peer, row.kind): (row.sent, row.received) for row in report_of(world, events).traffic}
    honest, verifier = (events[name][0]["peer"] for name in ("honest", "verifier"))
    assert rows[honest, "hint"] == (60, 10)
    assert rows[verifier, "hint"] == (30, 5)


SAID = {"products": ["int16"], "compiled": True, "refused": "", "over_float32": 0.5}
EARLIER = KernelsReport(("float64",), True, "", 0.5)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, KernelsReport(("int16",), True, "", 0.5)),
        ({"over_float32": None}, KernelsReport(("int16",), True, "", None)),
        ({"over_float32": math.inf}, KernelsReport(("int16",), True, "", None)),
        ({"refused": "x" * 5000}, KernelsReport(("int16",), True, "x" * 400, 0.5)),
        ({"products": "int16"}, EARLIER),
        ({"products": [7]}, EARLIER),
        ({"compiled": "yes"}, EARLIER),
        ({"refused": None}, EARLIER),
        ({"peer": "0xother"}, None),
    ],
)
def test_what_a_peer_says_of_its_kernels_is_read_as_said(
    changed: dict[str, Any], expected: KernelsReport | None
) -> None:
    """From its own log alone, the last time that it said so, and only what can be read."""
    world = played("noise")
    events = logs(world, "noise")
    own = events["honest"][0]["peer"]
    older = {**SAID, "products": ["float64"], "kind": "kernels", "peer": own, "at": 1}
    other = {**older, "peer": events["verifier"][0]["peer"]}
    events["honest"] = [*events["honest"], *([] if "peer" in changed else [older]), other]
    events["honest"].append({**SAID, "kind": "kernels", "peer": own, "at": 2, **changed})
    report = report_of(world, events)
    assert peer(report, "honest").kernels == expected
    assert peer(report, "verifier").kernels is None


def machine(records: object, micros: object, shard: object = None) -> dict[str, object]:
    return {"records": records, "micros": micros, "shard": shard}


HELD = {"numbers": 40, "first": "a", "last": "b" * 9_999, "waited": 1, "sent": 2, "received": 3}
GROUP = {"kind": "group", "round": 1, "members": [machine(3, 2500), machine(1, 0)]}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ((3, 2500), (1, 0))),
        ({"members": [machine(3, 5, HELD)]}, ((3, 5, ShardReport(40, "a", "b" * MAX_TEXT, 1, 2, 3)),)),
        ({"members": [machine(3, 5, {**HELD, "sent": -2})]}, ((2, 7),)),
        ({"members": [machine(3, 5, 40)]}, ((2, 7),)),
        ({"members": [{"records": 3}]}, ((2, 7),)),
        ({"members": [machine(3, -1)]}, ((2, 7),)),
        ({"members": "many"}, ((2, 7),)),
        ({"members": [machine(1, 1)] * 500}, ((2, 7),)),
        ({"peer": "0xother"}, ((2, 7),)),
    ],
)
def test_what_a_peer_says_of_its_group_is_read_as_said(
    changed: dict[str, Any], expected: tuple[tuple[Any, ...], ...]
) -> None:
    world = played("noise")
    events = logs(world, "noise")
    own = {"peer": events["honest"][0]["peer"], "at": 1}
    events["honest"] = [
        *events["honest"],
        {**GROUP, "members": [machine(2, 7)], **own},
        {**GROUP, **own, **changed},
    ]
    report = report_of(world, events)
    assert peer(report, "honest").group == tuple(GroupMemberReport(*each) for each in expected)
    assert peer(report, "verifier").group == ()


def change(events: Logs, name: str, kind: str, **fields: Any) -> Logs:
    """Return the logs with one peer's events of a kind changed, or removed where no field is given."""
    changed = [{**event, **fields} if event["kind"] == kind else event for event in events[name]]
    kept = changed if fields else [event for event in changed if event["kind"] != kind]
    return {**events, name: kept}


def cheats_of(events: Logs, **names: str) -> dict[str, Cheat]:
    """Return which peers were told to play what, by account."""
    return {events[name][0]["peer"]: Cheat((cheat,), 2) for name, cheat in names.items()}


def everyone(report: Report) -> set[str]:
    """Return the accounts of all who joined."""
    return {peer.id for peer in report.peers}


def shortfalls(report: Report, told: dict[str, Cheat], guests: Container[str] = ()) -> list[str]:
    """Return what a run of one's own peers, and of guests, should have shown and did not."""
    own = {peer for peer in everyone(report) if peer not in guests}
    return [line for holds, line in checks(report, told, own) if not holds]


def test_the_result_is_the_ledger_s_whatever_peers_say() -> None:
    world = played("skip-steps")
    events = logs(world, "skip-steps")
    result = report_of(world, events).result
    assert result.ok
    assert result.sentence == "The swarm trained 5 rounds to one state; 1 peer lost stake by proof."
    assert result.facts[1].startswith("3 members signed the last state, ")
    assert result.lost[0].startswith("cheat lost ")
    assert ", proven by what it signed: inner step of round 2: " in result.lost[0]
    for changed in (
        {}, change(events, "honest", "ended", digest="cd" * 32), change(events, "cheat", "started", cheat="none"),
        change(events, "honest", "started", cheat="noise"),
    ):  # fmt: skip
        again = report_of(world, changed).result
        assert (again.ok, again.sentence, again.facts) == (result.ok, result.sentence, result.facts)


def test_a_peer_that_only_fell_silent_is_told_from_one_that_is_proven_wrong() -> None:
    actors: list[Actor] = [Worker("gone", Withhold()), Worker("w0"), Worker("w1"), Verifier("v0")]
    world = World(minimal(audit_rate=MILLION), actors, random.Random(3))
    world.run()
    report = report_of(world, {})
    assert {(entry.peer, entry.ground) for entry in report.penalties} == {
        (checksum(actors[0].address), "silence")
    }
    assert report.result.ok
    assert report.result.sentence.endswith("; 1 peer lost stake by silence.")
    assert "for silence: did not open its leaves" in report.result.lost[0]


def test_the_demo_s_ending_is_good_only_when_everything_is() -> None:
    world = played("skip-steps")
    events = logs(world, "skip-steps")
    told = cheats_of(events, cheat="skip-steps")
    assert shortfalls(report_of(world, events), told) == []
    agreed = "all 2 honest peers ended on state abababababababab"
    report = report_of(world, events)
    assert agreed in [line for _, line in checks(report, told, everyone(report))]
    for name in ("honest", "verifier"):
        assert shortfalls(report_of(world, change(events, name, "ended", digest="cd" * 32)), told)
        assert shortfalls(report_of(world, change(events, name, "ended")), told)
    assert not shortfalls(report_of(world, change(events, "cheat", "ended")), told)
    assert shortfalls(report, {})[0] == "honest peers lost stake: cheat"
    assert not shortfalls(report, {}, guests=told)
    both = cheats_of(events, cheat="skip-steps", honest="noise")
    assert shortfalls(report, both) == ["honest (noise) cheated and was not caught"]
    lazy = cheats_of(events, cheat="skip-steps", honest="never-commit")
    assert shortfalls(report, lazy) == ["honest (never-commit) cheated and was paid for 3 rounds"]
    slowly = cheats_of(events, cheat="skip-steps", honest="dawdle")
    slow = [line for _, line in checks(report, slowly, everyone(report))]
    assert [line[:31] for line in slow if "dawdle" in line] == ["honest (dawdle) harmed nobody: "]


FORGED: list[dict[str, Any]] = [
    {"kind": "computed", "round": 0, "own": True, "loss": 0.001},
    {"kind": "started", "role": "worker", "cheat": "noise", "cheat_from": 0},
    {"kind": "ended", "round": 5, "digest": "cd" * 32},
    {"kind": "traffic", "bytes": {"hint": [1, 1]}},
    {"kind": "kernels", **SAID, "products": ["forged"]},
    {"kind": "group", "members": [[1, 1]]},
]


def test_one_peer_s_log_says_nothing_of_another() -> None:
    """One file set another worker's loss to 0.001 and declared it a cheat that was not caught."""
    world = played("skip-steps")
    events = logs(world, "skip-steps")
    before = report_of(world, events)
    victim = events["honest"][0]["peer"]
    lies = [{"at": 1, "worker": victim, **lie, "peer": victim} for lie in FORGED]
    after = report_of(world, {**events, "verifier": [*events["verifier"], *lies]})
    liar = peer(after, "verifier").log
    assert liar is not None
    assert liar.left_out == len(lies)
    unlogged = [dataclasses.replace(entry, log=None) for entry in before.peers]
    assert [dataclasses.replace(entry, log=None) for entry in after.peers] == unlogged
    assert (after.rounds, after.traffic, after.result) == (before.rounds, before.traffic, before.result)


def test_a_loss_of_another_s_work_is_not_the_worker_s_word() -> None:
    world = played("skip-steps")
    events = logs(world, "skip-steps")
    own, victim = events["verifier"][0]["peer"], events["honest"][0]["peer"]
    lie = {"at": 1, "peer": own, "kind": "computed", "round": 0, "worker": victim, "own": True, "loss": 0.001}
    after = report_of(world, {**events, "verifier": [*events["verifier"], lie]})
    assert {part.loss for part in after.rounds[0].contributions} == {2.0, 3.0}


def test_two_logs_of_one_account_and_logs_of_none_count_for_nobody() -> None:
    world = played("noise")
    events = logs(world, "noise")
    stranger = [{"at": 1, "peer": "0xstranger", "kind": "started"}]
    report = report_of(world, {**events, "copy": events["honest"][:1], "stranger": stranger, "empty": []})
    assert {entry.name for entry in report.peers} == {"cheat", "verifier", ""}
    assert report.left_out == len(events["honest"]) + 2


DEEP: Any = functools.reduce(lambda inner, _: [inner], range(50), 0)
BAD: list[dict[str, Any]] = [
    {}, {"kind": "computed", "own": True, "loss": "low", "round": 0, "worker": "?"}, {"kind": "computed", "own": True},
    {"kind": "ended"}, {"kind": "ended", "digest": "x" * 64}, {"kind": "traffic", "bytes": [1]}, {"kind": 7},
    {"kind": "traffic", "bytes": {"hint": [1]}}, {"kind": "traffic", "bytes": {"hint": [10**400, 1]}},
    {"kind": "computed", "own": True, "loss": 10**400, "round": 0, "worker": "?"}, {"kind": "evaluated"},
    {"kind": "computed", "own": True, "loss": DEEP, "round": DEEP, "worker": DEEP}, {"kind": DEEP},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: str(bad)[:40])
def test_a_line_that_is_no_event_is_counted_and_left_out(bad: dict[str, Any]) -> None:
    """One such line ended the report with a traceback, for everybody."""
    world = played("noise")
    events = logs(world, "noise")
    before = report_of(world, events)
    own = {"at": 1, "peer": events["honest"][0]["peer"]} if bad else {}
    after = report_of(world, {**events, "honest": [*events["honest"], {**own, **bad}]})
    log = peer(after, "honest").log
    assert log is not None
    assert log.left_out == 1
    assert (after.rounds, after.traffic, after.result) == (before.rounds, before.traffic, before.result)


def test_an_evaluation_that_got_worse_is_no_good_result() -> None:
    world = played("skip-steps")
    events = logs(world, "skip-steps")
    figures = {
        "loss_before": 5.0,
        "loss_after": 4.0,
        "bytes_per_token": 2.0,
        "sample_prompt": "",
        "sample_before": "",
        "sample_after": "",
    }
    entry = {"at": 9, "peer": checksum(world.state.submitter), "kind": "evaluated", **figures}
    better = report_of(world, {**events, "submitter": [entry]})
    told = cheats_of(events, cheat="skip-steps")
    assert shortfalls(better, told) == []
    assert better.evaluation is not None
    assert (better.evaluation.loss_before, better.evaluation.loss_after) == (5.0, 4.0)
    assert better.evaluation.bytes_per_token == 2.0
    worse = report_of(world, {**events, "submitter": [{**entry, "loss_after": 5.5}]})
    assert shortfalls(worse, told) == [
        "held-out loss went from 5.000 to 5.500 nats a token, 2.500 to 2.750 nats a byte"
    ]
    forged = report_of(world, {**events, "verifier": [*events["verifier"], entry]})
    assert forged.evaluation is None


def test_a_run_that_is_still_going_has_a_report() -> None:
    actors: list[Actor] = [Worker("one"), Worker("two"), Verifier("verifier")]
    world = World(minimal(audit_rate=MILLION, rounds=5), actors, random.Random(1))
    assert report_of(world, {}).rounds == ()
    world.run(until=lambda now: len(now.state.rounds) == 3)
    report = report_of(world, {})
    assert len(report.rounds) == 2
    assert not report.result.ok
    assert "the run has not ended" in report.result.facts
    assert {entry.name for entry in report.peers} == {""}
    assert all(entry.loss is None for entry in report.rounds)
    assert dataclasses.asdict(report)["evaluation"] is None


def test_members_of_crews_are_told_by_post_and_their_crews_audits() -> None:
    posts = [Post(Count(0), Count(shard)) for shard in range(2)]
    members: list[Actor] = [Worker(f"member{post.shard}", post=post) for post in posts]
    manifest = with_crews(audit_rate=MILLION, rounds=3, min_workers=2, min_verifiers=1)
    world = World(manifest, [*members, Worker("whole"), Verifier("verifier")], random.Random(3))
    world.run()
    events = logs(world, "none")
    events["member1"][1] |= {"ms": 2_000, "waited": 500, "sent": 80, "received": 40, "loss": None}
    report = report_of(world, events)
    first, second, whole = (peer(report, name) for name in ("member0", "member1", "whole"))
    assert first.post is not None
    assert second.post == PostReport(0, 1, 2, 53 / 215, 1, 1, 2_000, 500, 80, 40)
    assert whole.post is None
    assert first.audits_passed == second.audits_passed == whole.audits_passed == 3
    assert [part.loss for part in report.rounds[0].contributions if part.worker == second.id] == [None]
