"""A group's inner step against one machine's: the same digests, however the records are shared and whatever trains."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests import zoo
from tests.groups import InMemory, made_together, steps_of, together
from trainer.groups.split import Share, shares
from trainer.groups.spread import LABELS, spread_of
from trainer.groups.step import MemberStep, NotTogether
from trainer.programs.conversion import bundle_of, to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.options import Loops, RunOptions
from trainer.programs.tracing.capture import TracedRun, trace_run
from trainer.programs.tracing.optimiser import Muon
from verification.errors import UserError
from verification.library import StepFailed
from verification.operators import OPERATORS
from verification.program import Program
from verification.tensors import digest_of
from verification.units import Digest

CLIPPED = replace(zoo.ADAMW, clip_norm=0.05)
RUNS: dict[str, Callable[[], TracedRun]] = {
    "llama": lambda: zoo.traced("llama"),
    "gpt2": lambda: zoo.traced("gpt2"),
    "bert": lambda: zoo.traced("bert"),
    "convolutional": lambda: zoo.traced("convolutional"),
    "clipped": lambda: _traced("llama", optimiser=CLIPPED),
    "muon": lambda: _traced("llama", optimiser=Muon(CLIPPED)),
    "in parts": lambda: _traced("gpt2", accumulate=2),
}
"""Programs by name: causal and masked language models, batch norms over a batch, optimisers, a mean over parts."""

MODELS = {"clipped": "llama", "muon": "llama", "in parts": "gpt2"}


def _traced(name: str, **changes: object) -> TracedRun:
    module = zoo.model(name)
    job = replace(zoo.job(name), **changes)  # type: ignore[arg-type]
    return trace_run(module, zoo.loss_of(name, module), job)


@functools.cache
def known(name: str) -> tuple[Program, list[torch.Tensor], list[Digest]]:
    """An inner program, a working state, and the digests after each of two steps by one machine."""
    run = RUNS[name]()
    began = zoo.begun(run, MODELS.get(name, name))
    program = LoadedProgram(run.inner)
    first = program.run(began)
    return run.inner, began, [digest_of(bundle_of(made)) for made in (first, program.run(first))]


@functools.cache
def member(name: str, share: Share) -> MemberStep:
    """One member's part of a program."""
    return steps_of(known(name)[0], [share])[0]


def shared(name: str, cuts: Sequence[int]) -> list[MemberStep]:
    """The parts of members whose records end at each of some cuts and at the end."""
    records = spread_of(known(name)[0]).records
    ends = [0, *sorted(cuts), records]
    divided = [Share(low, high - low, records) for low, high in itertools.pairwise(ends)]
    return [member(name, share) for share in divided]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_group_makes_what_one_machine_makes(name: str, data: st.DataObject) -> None:
    program, began, wanted = known(name)
    records = spread_of(program).records
    cuts = data.draw(st.sets(st.integers(1, records - 1), min_size=1, max_size=2))
    steps = shared(name, sorted(cuts))
    first = made_together(steps, began)
    second = made_together(steps, first[0])
    assert {digest_of(bundle_of(made)) for made in first} == {wanted[0]}
    assert {digest_of(bundle_of(made)) for made in second} == {wanted[1]}


@pytest.mark.slow
def test_compiled_loops_make_the_same_parts() -> None:
    program, began, wanted = known("llama")
    steps = steps_of(program, shares(8, 2), RunOptions(loops=Loops.ALWAYS))
    made = made_together(steps, began)
    assert {digest_of(bundle_of(each)) for each in made} == {wanted[0]}


def test_a_transformers_step_takes_three_exchanges() -> None:
    """Of the targets that count, of the exponents of what depends on their number, and of the products' integers."""
    _, began, _ = known("llama")

    def run(step: MemberStep) -> Callable[[InMemory], int]:
        def counted(exchange: InMemory) -> int:
            step.run(began, exchange)
            return exchange.exchanges

        return counted

    assert together([run(step) for step in shared("llama", [5])]) == [3, 3]


def test_a_step_that_ends_in_one_members_records_ends_for_all() -> None:
    """A table's row of NaN that only the last record reads: one member's segment fails, and no other waits for it."""
    program, began, _ = known("llama")
    names = [port.name for port in program.inputs]
    working = [tensor.clone() for tensor in began]
    tokens, table = (
        working[names.index("tokens")],
        working[names.index("working/parameter/model.embed_tokens.weight")],
    )
    tokens[0, -1, 0] = 255
    assert int((tokens[0] == 255).sum()) == 1
    table[255] = torch.nan
    with pytest.raises(StepFailed):
        LoadedProgram(program).run(working)

    def run(step: MemberStep) -> Callable[[InMemory], bool]:
        def fails(exchange: InMemory) -> bool:
            with pytest.raises(NotTogether):
                step.run(working, exchange)
            return exchange.exchanges > 0

        return fails

    assert together([run(step) for step in shared("llama", [3])]) == [True, True]


@given(records=st.integers(1, 50), members=st.integers(1, 50))
@settings(derandomize=True)
def test_every_record_is_one_members(records: int, members: int) -> None:
    if records < members:
        with pytest.raises(UserError, match=rf"{records} records .* {members} machines"):
            shares(records, members)
        return
    divided = shares(records, members)
    assert [place for each in divided for place in range(each.first, each.first + each.count)] == list(
        range(records)
    )
    assert len(divided) == members and {each.count for each in divided} <= {
        records // members,
        -(-records // members),
    }


def test_every_operator_says_where_a_batch_goes() -> None:
    assert {name for name, operator in OPERATORS.items() if not operator.by_place} == {*LABELS, "view"}


class Masked(nn.Module):
    """Needs infinities before a mean over the batch and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        nn.init.constant_(self.layer.bias, 0.0)
        with torch.no_grad():
            self.layer.weight.copy_((torch.arange(12).view(3, 4) * 5 % 7 - 3) / 7)

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Return [batch, 3]."""
        scores = self.layer(records.float() / 64 - 1.5)
        masked = torch.where(scores < 0, -torch.inf, scores)
        return (masked - scores.mean(0)).exp() + masked.exp().mean(0)


@pytest.mark.parametrize("loops", [Loops.NEVER, Loops.ALWAYS])
def test_infinities_pass_from_one_part_to_the_next(loops: Loops) -> None:
    run = trace_run(Masked(), lambda model, records: model(records).mean(), replace(zoo.JOB, length=3))
    state, options = [to_torch(tensor) for tensor in run.start.tensors], RunOptions(loops=loops)
    records = zoo.records("gpt2")[:, :4]
    began = LoadedProgram(run.prologue).run([*state, records, zoo.index("gpt2"), torch.tensor(0)])
    steps = steps_of(run.inner, shares(8, 2), options)
    seen: list[bool] = []
    made = made_together(steps, began)
    whole = LoadedProgram(run.inner, options)
    whole.run(began, lambda number, value: seen.append(bool(value.isinf().any())))
    assert any(seen)
    assert {digest_of(bundle_of(each)) for each in made} == {digest_of(bundle_of(whole.run(began)))}


class Experts(nn.Module):
    """Stacks what three experts see of all records, and takes all of it in one product."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.first, self.second = nn.Parameter(torch.randn(3, 4, 5)), nn.Linear(5, 2)

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Return [batch, 2]."""
        seen = (records.float() / 64 - 1.5) @ self.first
        places = torch.arange(3 * records.shape[0])[:, None] % 5 / 7
        told = self.second((seen.reshape(-1, 5) + places).tanh()) * (1 - places)
        return told.view(3, -1, 2).sum(0).square()


def test_records_may_stand_in_a_dimension_several_times() -> None:
    run = trace_run(Experts(), lambda model, records: model(records).mean(), replace(zoo.JOB, length=3))
    state, began = [to_torch(tensor) for tensor in run.start.tensors], LoadedProgram(run.prologue)
    working = began.run([*state, zoo.records("gpt2")[:, :4], zoo.index("gpt2"), torch.tensor(0)])
    spread = spread_of(run.inner)
    assert any(batch is not None and batch.outer == 3 for reads in spread.reads for batch in reads)
    made = made_together(steps_of(run.inner, shares(8, 3)), working)
    assert {digest_of(bundle_of(each)) for each in made} == {
        digest_of(bundle_of(LoadedProgram(run.inner).run(working)))
    }


class Pairs(nn.Module):
    """Compares every record of a batch with every other one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Return [batch, batch] likenesses."""
        seen = self.layer(records.float())
        return seen @ seen.T


def test_what_pairs_records_is_refused_by_its_node() -> None:
    job = replace(zoo.JOB, length=3)
    run = trace_run(Pairs(), lambda model, records: model(records).square().mean(), job)
    with pytest.raises(
        UserError, match=r"cannot split node \d+ \(product, .*it pairs records with one another"
    ):
        spread_of(run.inner)


class Neighbours(nn.Module):
    """Adds to every record the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Return [batch - 1, 3]."""
        seen = self.layer(records.float())
        return seen[1:] + seen[:-1]


def test_what_mixes_neighbours_is_refused_by_its_node() -> None:
    job = replace(zoo.JOB, length=3)
    run = trace_run(Neighbours(), lambda model, records: model(records).square().mean(), job)
    with pytest.raises(UserError, match=r"cannot split node \d+ \(slice, .*it mixes the records of a batch"):
        spread_of(run.inner)
