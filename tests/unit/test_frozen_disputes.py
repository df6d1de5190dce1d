"""Disputes about what is folded: a lie in how a frozen matrix was quantised, which is done once, is named."""

import pytest
import torch

from benchmarks import dispute
from benchmarks.dispute import BATCH, LENGTH, RECORDS, STEPS, Court
from benchmarks.faults import Fault, Flip
from benchmarks.hearing import hear
from benchmarks.trainers import MODELS, RATE
from trainer.programs.folding import QUANTISING
from trainer.programs.tracing.capture import TraceConfig, TracedRun, trace_run
from trainer.programs.tracing.schedule import Schedule
from trainer.runs.architectures import redraw_constants
from trainer.runs.job import LoraSection
from trainer.runs.lora import add_lora
from trainer.runs.tasks import causal_lm_loss
from verification.manifest import Place
from verification.program import first_node
from verification.tensors import Bundle, Tensor
from verification.units import Count

pytestmark = pytest.mark.slow


def adapter_run() -> tuple[TracedRun, Bundle]:
    """A run of an adapter on a small Llama's queries, and its data."""
    recipe = MODELS["d64"]
    model = recipe.model(0, "eager")
    add_lora(model, LoraSection(rank=4, targets="q_proj"))
    redraw_constants(model)  # B begins as zeros, by which nothing frozen would count
    config = TraceConfig(
        RECORDS, LENGTH, BATCH, STEPS, 2, 12, recipe.method.adamw, Schedule(RATE, STEPS), 0.7, 0.6
    )
    records = torch.randint(0, 256, (RECORDS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    data = Tensor("uint8", (Count(RECORDS), Count(LENGTH + 1)), records.to(torch.uint8).numpy().tobytes())
    return trace_run(model, causal_lm_loss, config), Bundle((data,))


def folded_faults(run: TracedRun) -> list[Fault]:
    """A wrong number in an exponent and in an integer of a frozen matrix, and in the product that reads it."""
    program, found = run.inner, dict[str, Fault]()
    first, steady = first_node(program), set(range(len(program.inputs), first_node(program)))
    for number, node in enumerate(program.nodes, first):
        if node.inputs and steady.issuperset(node.inputs):
            steady.add(number)
        folds = number in steady and node.operator in QUANTISING
        reads = node.operator == "product" and any(source in steady for source in node.inputs)
        if folds or reads:
            found.setdefault(node.operator, Fault(node.operator, Place.STEP, number, Flip()))
    return [*found.values()]


def test_a_lie_about_a_frozen_matrix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    run, data = adapter_run()
    monkeypatch.setattr(dispute, "faults", folded_faults)
    court = Court(run, data)
    assert {fault.name for fault in court.faults} == {*QUANTISING, "product"}
    for fault in court.faults:
        heard = hear(court.case(fault))
        assert court.is_named(fault, heard), (fault.name, heard.row)
