"""`bench shards` on stages of a few tasks: what it counts, and what it says."""

import threading
from io import StringIO
from typing import Any

import torch
from rich.console import Console

from benchmarks.shards import Plan, in_memory, summarise, table
from benchmarks.staged import Emulated, Part, Scene, Sent, Task, neighbours_of
from verification import codec

PARTS = (
    Part((Task(1000, (0,), (1,)), Task(1000, (2,), (3,))), (0,), (3,), (Sent(1, 64, (1,)),)),
    Part((Task(2000, (1,), (2,)),), (), (), (Sent(2, 32, (0,)),)),
)
"""The first makes 1 of 0, the second 2 of that, and the first 3 of it."""
PLAN = Plan("d64", 2, 8, 1e6, 3, (1, 2), 60.0)


def test_stages_take_the_time_that_their_work_does_and_wait_for_each_other() -> None:
    before = threading.active_count()  # of whatever ran in this process
    told = in_memory(PLAN, PARTS, [1e6, 1e6])
    for each, computed in zip(told, (2, 2), strict=True):
        assert each["ended"][-1] - each["ended"][0] >= PLAN.steps * 4e-3 - 2e-3
        assert each["computed"] >= (PLAN.steps - 1) * computed * 1000 - 1000
    assert [each["sent"] for each in told] == [64, 32]
    assert threading.active_count() <= before


def test_a_stage_keeps_what_is_still_to_be_read() -> None:
    runner = Emulated(PARTS[0], 1e9)
    assert runner.begin({}) == []
    assert runner.lacking(PARTS[0].tasks[1]) == [2]
    (crossing,) = runner.run(PARTS[0].tasks[0])
    assert (crossing.number, crossing.taker, crossing.tensor.nbytes) == (1, 1, 64)
    runner.take(2, torch.zeros(32))
    assert runner.lacking(PARTS[0].tasks[1]) == [] and runner.run(PARTS[0].tasks[1]) == []
    assert runner.lacking(None) == []


def test_parts_travel_to_processes_as_they_are() -> None:
    scene = Scene(PARTS, (1, 2))
    assert codec.decode(Scene, codec.encode(scene), 1 << 20) == scene
    assert [neighbours_of(PARTS, shard) for shard in (0, 1)] == [{1}, {0}]


def row(stages: int, mbit: float | None, tokens: float, lead: int = 1) -> dict[str, Any]:
    return {
        "speeds": [1.0] * stages, "stages": stages, "mbit": mbit, "tokens_a_second": tokens, "lead": lead,
        "efficiency": 0.9, "bubble": 0.1, "boundary_bytes_per_token": 6144, "memory_over_share": 1.1,
        "peaks": [1e6] * stages, "alone": 4e6,
    }  # fmt: skip


def test_four_machines_count_and_rows_that_are_left_out_are_not_measured() -> None:
    rows = [row(2, None, 50), row(4, None, 100), row(4, 100.0, 90), row(4, None, 100, lead=2)]
    found = summarise(rows)
    assert (found["efficiency_4_stages"], found["kept_100mbit"], found["loss_gap"]) == (0.9, 0.9, None)
    assert found["kept_100mbit_lead_2"] is None and found["memory_over_share"] == 1.1
    assert summarise([]) == {"loss_gap": None}
    shown = StringIO()
    Console(file=shown, width=200).print(table(rows, PLAN))
    assert "no network" in shown.getvalue() and "emulated" in shown.getvalue()
