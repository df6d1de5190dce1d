"""Learning rates over a run against plain formulas, and what accumulation and clipping make of a step."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import zoo
from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.builder import Builder
from trainer.programs.tracing.capture import TraceConfig, trace_run
from trainer.programs.tracing.schedule import Schedule

MAX_STEPS = 7


def rates(schedule: Schedule, rounds: int) -> list[float]:
    """The rates of every step of some rounds, by our operators."""
    b = Builder()
    number = b.port("round", "int64", ())
    program = LoadedProgram(b.finish("rates", [("rates", schedule.rates(b, number, MAX_STEPS))]))
    return [rate for r in range(rounds) for rate in program.run([torch.tensor(r)])[0].tolist()]


def formula(schedule: Schedule, step: int) -> float:
    """The rate of a step of the run as its papers write it."""
    total, first = schedule.steps, schedule.warmup
    height = 1.0
    if schedule.curve == "wsd":
        height = min(1.0, (total - step) / max(1, schedule.decay))
    elif schedule.curve != "constant" and step >= first:
        passed = (step - first) / (total - first)
        height = 1 - passed if schedule.curve == "linear" else 0.5 * (1 + math.cos(math.pi * passed))
    height = schedule.final_share + (1 - schedule.final_share) * max(0.0, height)
    begun = min(1.0, (step + 1) / first) if first else 1.0
    anew = min(1.0, (step % MAX_STEPS + 1) / schedule.round_warmup)
    return schedule.lr * height * begun * anew


@settings(max_examples=60, deadline=None)
@given(
    rounds=st.integers(1, 40),
    curve=st.sampled_from(("constant", "linear", "cosine", "wsd")),
    warm=st.floats(0, 0.5),
    decay=st.floats(0.05, 0.5),
    final=st.sampled_from((0.0, 0.1, 1.0)),
    anew=st.integers(1, 9),
)
def test_rates_are_those_of_the_formulas(
    rounds: int, curve: str, warm: float, decay: float, final: float, anew: int
) -> None:
    steps = rounds * MAX_STEPS
    schedule = Schedule(
        lr=3e-3,
        steps=steps,
        curve=curve,  # type: ignore[arg-type]
        warmup=int(warm * steps),
        decay=max(1, int(decay * steps)) if curve == "wsd" else 0,
        final_share=0.0 if curve == "constant" else final,
        round_warmup=anew,
    )
    wanted = [formula(schedule, step) for step in range(steps)]
    assert rates(schedule, rounds) == pytest.approx(wanted, rel=2e-5, abs=1e-9)


def test_a_run_that_goes_on_keeps_the_last_rate() -> None:
    """Steps beyond the schedule's end, as of a run that is extended."""
    schedule = Schedule(lr=1.0, steps=2 * MAX_STEPS, curve="cosine", final_share=0.25)
    assert rates(schedule, 4)[2 * MAX_STEPS :] == pytest.approx([0.25] * 2 * MAX_STEPS)


def first_step(job: TraceConfig) -> list[torch.Tensor]:
    """The working bundle after the first step of a llama's job."""
    module = zoo.model("llama")
    run = trace_run(module, zoo.loss_of("llama", module), job)
    state = [to_torch(tensor) for tensor in run.start.tensors]
    begun = LoadedProgram(run.prologue).run(
        [*state, zoo.records("llama"), zoo.index("llama"), torch.tensor(0)]
    )
    return LoadedProgram(run.inner).run(begun)


@pytest.mark.slow
def test_an_accumulated_step_is_the_step_of_the_whole_batch() -> None:
    whole, parts = first_step(zoo.JOB), first_step(replace(zoo.JOB, accumulate=4))
    count = len(zoo.traced("llama").parameter_names)
    first_moments = [(a, b) for a, b in zip(whole[count : 2 * count], parts[count : 2 * count], strict=True)]
    for one, other in first_moments:
        assert (one - other).norm() < 1e-3 * one.norm()
    assert whole[-4].item() == pytest.approx(parts[-4].item(), rel=1e-5)


@pytest.mark.slow
def test_a_clipped_gradient_has_the_norm_that_it_is_clipped_to() -> None:
    clipped = first_step(replace(zoo.JOB, optimiser=replace(zoo.ADAMW, clip_norm=0.01)))
    count = len(zoo.traced("llama").parameter_names)
    squares = sum(moment.double().square().sum().item() for moment in clipped[count : 2 * count])
    assert math.sqrt(squares) / (1 - zoo.ADAMW.beta1) == pytest.approx(0.01, rel=1e-3)
