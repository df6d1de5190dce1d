"""`bench dispute`: planted faults are named by law and file alike, nothing else is, and a billion numbers are real."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import billion, dispute
from benchmarks.billion import Machine, RowTotals, step
from benchmarks.dispute import Court
from benchmarks.faults import Fault, Flip, Misread
from benchmarks.hearing import hear
from benchmarks.trainers import MODELS
from trainer.programs.conversion import from_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.rounds.totals import FastTotals
from verification.claims import Range, Term, Value
from verification.tensors import tensor_digest

KINDS = {
    "forward product": Value, "backward product": Range, "weight-gradient product": Range,
    "one term of a sum": Range, "softmax": Value, "norm": Range, "cross-entropy": Value,
    "embedding gradient": Range, "optimizer": Value, "constant": Value, "gather": Value, "compression": Value,
    "outer step": Value, "false failure": Term,
}  # fmt: skip
"""At what a dispute about each kind of fault ends."""


@pytest.fixture(scope="module")
def court() -> Court:
    """The smallest model's round."""
    run, data, parameters = dispute.trace_model(MODELS["d64"])
    assert parameters == 133_440
    return Court(run, data)


def planted(court: Court) -> dict[str, Fault]:
    """The faults by name."""
    return {fault.name: fault for fault in court.faults}


@pytest.mark.slow
def test_every_planted_fault_is_named(court: Court) -> None:
    found = planted(court)
    assert list(found) == list(KINDS)
    for name, kind in KINDS.items():
        heard = hear(court.case(found[name]))
        assert court.is_named(found[name], heard), (name, heard.row)
        assert isinstance(heard.dispute.game.claim, kind), name
        assert heard.row["evidence_bytes"] < 50_000
        assert heard.row["exchanges"] <= 20
        assert len(heard.row["trust"]) == (name in ("gather", "outer step"))


@pytest.mark.slow
def test_a_dispute_that_ends_elsewhere_names_nothing(court: Court) -> None:
    gather = planted(court)["gather"]
    heard = hear(court.case(gather))
    assert court.is_named(gather, heard)
    assert isinstance(gather.wrong, Misread)
    place, index = gather.wrong.where
    gather.wrong.where = place, index + 1
    assert not court.is_named(gather, heard)
    gather.wrong.where = place, index
    gather.wrong.index += 1
    assert not court.is_named(gather, heard)
    assert not court.is_named(replace(gather, wrong=Flip()), heard)
    assert not heard.is_about(gather.node + 1)


@pytest.fixture
def whole() -> tuple[Machine, list[torch.Tensor]]:
    """A small machine, and every value of its step held whole, as the interpreter makes it."""
    machine = Machine(192, 40)
    kept = torch.arange(192) % billion.PERIOD
    ports = [machine.made[0][kept], machine.made[1][kept], machine.made[2][:, kept]]
    nodes: list[torch.Tensor] = []
    LoadedProgram(step(192, 40)).run(ports, lambda number, made: nodes.append(made.clone()))
    return machine, nodes


def test_what_is_made_as_needed_is_what_the_interpreter_makes(
    whole: tuple[Machine, list[torch.Tensor]],
) -> None:
    machine, nodes = whole
    assert len(nodes) == 15
    assert machine.traced.results == tuple(tensor_digest(from_torch(made)) for made in nodes)


def test_totals_of_repeating_rows(whole: tuple[Machine, list[torch.Tensor]]) -> None:
    machine, nodes = whole
    held, numbers = machine.held(billion.NORM), nodes[-2].reshape(-1)
    assert isinstance(held.fast_total, RowTotals)
    for low, high in ((0, 192 * 40), (3, 5), (39, 41), (40, 80), (17, 3001), (41, 7679), (80, 80)):
        assert held.fast_total(0, 0, (), low, high) == int(numbers[low:high].sum())


def test_rows_that_a_fault_has_touched_count_by_themselves() -> None:
    fault = billion.planted(192, 40)[2]
    machine = Machine(192, 40, fault)
    made = machine.held(billion.NORM)
    assert isinstance(made.fast_total, RowTotals)
    each = [int(made.read(0, index)) for index in range(192 * 40)]
    assert made.fast_total(0, 0, (), 0, 192 * 40) == sum(each)
    assert made.fast_total(0, 0, (), 5, 7003) == sum(each[5:7003])
    row = fault.index // 40
    other = np.array(each).reshape(192, 40)
    assert (other[row] == other[row % billion.PERIOD]).all()  # the sign of a number is no part of its square
    assert machine.rows(billion.UPDATED).leaves[row] != machine.rows(billion.UPDATED).leaves[row % 64]
    assert isinstance(made.fast_total.total, FastTotals)


@pytest.mark.parametrize("which", range(4))
def test_a_fault_in_a_matrix_that_nobody_holds_is_named(which: int) -> None:
    rows, columns = 1 << 9, 1 << 7
    fault = billion.planted(rows, columns)[which]
    row = billion.measure(rows, columns, fault, Machine(rows, columns))
    assert row["named"], row
    assert row["node"] == fault.node
    assert (row["judged"].startswith("terms")) == fault.name.startswith("one term")


def test_size_adds_to_a_dispute_by_its_logarithm() -> None:
    """From 2^16 to 2^24 numbers: a list more for each 64 times as many, and blocks of the same size."""
    small, large = (
        billion.measure(*size, billion.planted(*size)[3], Machine(*size))
        for size in ((512, 128), (8192, 2048))
    )
    assert small["named"] and large["named"]
    assert large["exchanges"] - small["exchanges"] <= 4
    assert large["evidence_bytes"] < 12_000
