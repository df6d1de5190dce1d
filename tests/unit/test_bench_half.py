"""`bench half`: who takes part with how much, what is read out of a peer's record, and figures as they say."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import half
from benchmarks.control_groups import FIRST, ControlGroup
from benchmarks.half import CREW, WHOLE, Confined, Plan, Row, Watched
from trainer.commands.demo import demo_job
from trainer.folder import RunFolder
from verification.errors import UserError
from verification.units import Address

GB = 10**9
PLAN = Plan("gpt2-124", 3, 0.5, 0.4, 2, 2, 128)
EVENTS = [
    {"kind": "started", "compute": 1 << 30},
    {"kind": "joined", "seconds": 71.2},
    {"kind": "kernels", "refused": "it runs in 3 stretches"},
    {"kind": "traffic", "bytes": {"hint": [1, 2]}},
    {"kind": "computed", "round": 0, "own": True, "ms": 1500},
    {"kind": "computed", "round": 0, "own": False, "ms": 9000},
    {"kind": "traffic", "bytes": {"hint": [10, 20], "blob": [300, 4000]}},
    {"kind": "state", "round": 1, "digest": "ab" * 32},
    {"kind": "ended", "round": 2, "digest": "cd" * 32},
]


def row(way: str, role: str, node: int, compute: int, **other: Any) -> Row:
    """A peer's row, as if all had gone well."""
    return {
        "way": way, "peer": "peer-0", "role": role, "shard": None, "limit": None, "anonymous": compute,
        "node_peak_memory": node, "compute_peak_memory": compute, "ended_for_memory": 0, "stretches": "",
        "seconds": {"0": 1.0, "1": 2.0}, "sent": 1, "received": 2, "digest": "ab", "failure": "",
        "round_seconds": [4.0, 9.0, 5.0], **other,
    }  # fmt: skip


ROWS = [
    row(WHOLE, "worker", GB, 3 * GB),
    row(WHOLE, "verifier", GB, 5 * GB),
    row(CREW, "worker", GB // 5, GB, shard=1, limit=2 * GB),
    row(CREW, "worker", GB // 5, 3 * GB // 2, shard=2, limit=2 * GB, seconds={"1": 2.0}),
    row(CREW, "verifier", GB // 5, GB // 5),
]


def watched(tmp_path: Path, command: list[str], role: str = "worker") -> Watched:
    """A peer whose process has ended, in a folder that stands for a control group."""
    folder = RunFolder(tmp_path / "run")
    seat = Confined("peer-0", Address(bytes(20)), role, ["--shard", "2"], folder, "peer-0")
    seat.group = ControlGroup(tmp_path, FIRST)
    seat.output.parent.mkdir(parents=True)
    folder.events.mkdir()
    with seat.output.open("wb") as output:
        seat.process = subprocess.Popen(command, stdout=output)
    seat.process.wait()
    seat.log.write_text("".join(json.dumps({"at": 1, "peer": "0x", **event}) + "\n" for event in EVENTS))
    return Watched(seat, 4000)


def test_the_run_is_for_one_crew_or_one_worker_and_a_verifier() -> None:
    _, job = demo_job(PLAN.settings(Path("runs/half")))
    assert (job.swarm.crews, job.swarm.workers, job.swarm.min_workers, job.swarm.verifiers) == ([3], 1, 1, 1)
    assert (job.accounts.peers, job.training.rounds, job.swarm.audit_rate) == (4, 2, 1.0)
    assert job.model.config["n_embd"] == 768


def test_members_have_their_share_and_a_verifier_without_one_has_all() -> None:
    assert PLAN.limits(4 * GB) == [2 * GB, 2 * GB, 2 * GB, int(0.4 * 4 * GB)]
    assert Plan("d64", 2, 0.5, 0.0, 2, 2, 64).limits(GB) == [GB // 2, GB // 2, None]


def test_a_peer_is_read_out_of_its_record_and_its_group(tmp_path: Path) -> None:
    peer = watched(tmp_path, ["true"])
    (tmp_path / "memory.stat").write_text("total_rss 300\n")
    assert [half.told(event) for event in peer.look() if half.told(event)] == [
        "joined after 71 s",
        "it runs in 3 stretches",
        "computed round 0 in 1.5 s",
        "audited round 0 in 9.0 s",
        f"state 1 is {'ab' * 8}",
        f"state 2 is {'cd' * 8}",
    ]
    (tmp_path / "memory.stat").write_text("total_rss 200\n")
    assert peer.look() == [] and not peer.failure
    assert half.row_of(CREW, peer) == {
        "way": CREW, "peer": "peer-0", "role": "worker", "shard": 2, "limit": 4000, "anonymous": 300,
        "node_peak_memory": 0, "compute_peak_memory": 0, "ended_for_memory": 0,
        "stretches": "it runs in 3 stretches", "seconds": {"0": 1.5}, "sent": 310, "received": 4020,
        "digest": "cd" * 32, "failure": "",
    }  # fmt: skip


def test_a_verifiers_rounds_are_its_audits(tmp_path: Path) -> None:
    peer = watched(tmp_path, ["true"], "verifier")
    peer.look()
    assert half.row_of(CREW, peer)["seconds"] == {"0": 9.0}


def test_who_fails_or_is_ended_is_told(tmp_path: Path) -> None:
    refused = watched(tmp_path, ["sh", "-c", "echo joined; echo 'proofswarm: it needs 9 GB'; exit 2"])
    refused.look()
    assert refused.failure == "peer-0 failed: it needs 9 GB"
    (tmp_path / "memory.oom_control").write_text("under_oom 0\noom_kill 1\n")
    refused.look()
    assert (refused.failure, refused.ended) == ("the system ended a process of peer-0 for memory", 1)


def test_who_was_ended_from_outside_is_told_by_the_signal(tmp_path: Path) -> None:
    peer = watched(tmp_path, ["sh", "-c", "kill -9 $$"])
    peer.look()
    assert peer.failure == "peer-0 was ended by signal 9"


def test_peers_are_watched_until_the_first_one_fails(tmp_path: Path) -> None:
    lines: list[str] = []
    peer = watched(tmp_path, ["false"])
    half.watch(CREW, [peer], lines.append)
    assert peer.failure == "peer-0 failed: it printed nothing"
    assert lines[0] == "crew: peer-0: joined after 71 s" and len(lines) == 6


def test_a_peer_joins_its_group_by_its_command(tmp_path: Path) -> None:
    peer = watched(tmp_path, ["true"])
    assert peer.seat.command("peer")[:2] == ["/bin/sh", "-c"]
    assert peer.seat.command("peer")[-5:] == ["peer", "--role", "worker", "--shard", "2"]


def test_a_round_lasts_until_the_next_one_opens_and_the_last_until_its_state() -> None:
    assert half.seconds_of([1000, 3500, 4000], [9000, 10_000]) == [2.5, 0.5, 6.0]
    assert half.seconds_of([1000, 3500], []) == [2.5]
    assert half.seconds_of([], []) == []


def test_the_summary_is_over_what_the_whole_worker_held() -> None:
    assert half.summarise(ROWS, PLAN) == {
        "need_bytes": 4 * GB, "share": 0.5, "largest_over_need": 0.425,
        "anonymous_over_need": 0.375, "verifier_over_need": 0.1,
        "rounds": 1, "one_digest": True, "round_seconds": 5.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"failure": "peer-0 failed: no"},
            "crew: peer-0 failed: no; if that is for memory, raise --share or --verifier",
        ),
        ({"digest": "cd"}, "crew: the peers did not end with one state, but 2"),
        ({"digest": None}, "crew: the peers did not end with one state, but 2"),
    ],
)
def test_what_did_not_end_in_order_is_one_line(other: Row, words: str) -> None:
    half.require_whole(ROWS)
    with pytest.raises(UserError, match=f"^bench half: {words}$"):
        half.require_whole([*ROWS[:-1], ROWS[-1] | other])


def test_a_whole_that_fails_has_no_share_to_raise() -> None:
    with pytest.raises(UserError, match=r"^bench half: whole: it fell$"):
        half.require_whole([ROWS[0] | {"failure": "it fell"}])


def test_the_table_calls_peers_by_their_shards() -> None:
    table = half.table_of(ROWS)
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == [
        "whole, worker",
        "whole, verifier",
        "crew, shard 1",
        "crew, shard 2",
        "crew, verifier",
    ]
    assert (cells[1][2], cells[1][4], cells[4][3], cells[6][3]) == ("2.00", "none", "1.70", "2.0")


def test_without_control_groups_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str, limit: int | None) -> None:
        raise UserError("no control groups here")

    monkeypatch.setattr(half, "control_group", none)
    monkeypatch.setattr(half, "measure", lambda plan, work, tell: pytest.fail("it began"))
    with pytest.raises(UserError, match="no control groups here"):
        half.run(PLAN, None)
