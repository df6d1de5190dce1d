"""A lie in any operator of the compression is convicted by the ordinary dispute, in a round and in the outer step."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from benchmarks import dispute
from benchmarks.dispute import Court
from benchmarks.faults import Fault, Flip, Misread
from benchmarks.hearing import hear
from benchmarks.trainers import MODELS
from trainer.programs.tracing.capture import TracedRun
from trainer.programs.tracing.compression import Compression, Dense, TopK
from trainer.programs.tracing.low_rank import LowRank
from verification.manifest import Place
from verification.operators import operator_of
from verification.program import Program, first_node

pytestmark = pytest.mark.slow

GRID = 20
"""Of deltas of two steps at the benchmarks' rate."""
LARGEST = "mlp.up_proj.weight"
"""The matrix about whose packing is lied."""
WAYS: dict[str, Compression] = {
    "dense-4": Dense(4, 256),
    "top-k": TopK(1 / 16, 256),
    "low-rank": LowRank(1 / 8, 256),
}


def compressed(run: TracedRun, way: Compression) -> TracedRun:
    """The same run with packed contributions."""
    sizes = replace(run.sizes, job=replace(run.sizes.job, compression=way))
    return replace(run, sizes=sizes).on_grids([GRID] * len(run.parameter_names))


def faults_of(place: Place, program: Program, values: set[int]) -> Iterator[Fault]:
    """A fault at one node of every operator among some: a number of the result wrong, or one that it reads lost."""
    met = set[str]()
    for number in sorted(values):
        node = program.nodes[number - first_node(program)]
        if node.operator not in met and not operator_of(node.operator).is_view:
            met.add(node.operator)
            of_bools = node.dtype == "bool"
            yield Fault(f"{place} {node.operator}", place, number, Misread(0) if of_bools else Flip())


def made_of(program: Program, number: int) -> set[int]:
    """A node and all that it is made of."""
    first, found, waiting = first_node(program), set[int](), [number]
    while waiting:
        value = waiting.pop()
        if value >= first and value not in found:
            found.add(value)
            waiting += map(int, program.nodes[value - first].inputs)
    return found


def packing_faults(run: TracedRun, matrix: str) -> list[Fault]:
    """Faults in the packing and in the unpacking of a matrix."""
    epilogue, outer = run.epilogue, run.outer
    packed = next(int(o.source) for o in epilogue.outputs if o.name.endswith(matrix))
    moved = next(
        int(o.source) for o in outer.outputs if o.name.startswith("momentum/") and o.name.endswith(matrix)
    )
    return [
        *faults_of(Place.EPILOGUE, epilogue, made_of(epilogue, packed)),
        *faults_of(Place.OUTER, outer, made_of(outer, moved)),
    ]


@pytest.mark.parametrize("name", WAYS)
def test_a_lie_in_any_operator_of_the_compression_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data, _ = dispute.trace_model(MODELS["d64"])
    monkeypatch.setattr(dispute, "faults", partial(packing_faults, matrix=LARGEST))
    court = Court(compressed(run, WAYS[name]), data)
    assert {fault.place for fault in court.faults} == {Place.EPILOGUE, Place.OUTER}
    for fault in court.faults:
        heard = hear(court.case(fault))
        assert court.is_named(fault, heard), (fault.name, heard.row)
        assert heard.row["evidence_bytes"] < 100_000
