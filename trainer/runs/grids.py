"""The grid that contributions are rounded to: measured on a part of a round before the run opens.

A fixed grid is silent where it does not fit: at a small learning rate every entry becomes zero, at a large one many are
cut off, and everyone is paid. So each tensor has its own unit, and what is lost is told.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from trainer.programs.conversion import to_torch
from trainer.programs.tracing.capture import TracedRun
from trainer.rounds.engine import Overwritten, Unread
from trainer.rounds.torch_engine import TorchEngine
from verification.program import digest_of_program, inputs_read
from verification.tensors import Tensor
from verification.units import Digest

TRIAL_STEPS = 16
ROOM = 2
"""The bulk of a tensor's entries stays below 2**-ROOM of what fits, for rounds that move farther."""
BULK = 0.999
SMALL = 10
"""Entries 2**SMALL times smaller than a tensor's largest do not count: most rows of an embedding rest."""
LOWEST, HIGHEST = -30, 60
UNMOVED, UNMOVED_BITS = 12, 7
"""The grid of a tensor that did not move yet, where integers have so many bits."""


@dataclass(frozen=True)
class Fit:
    """How a grid fits the first `steps` inner steps of a round: shares of the entries that count, those that become
    zero and those that are cut off."""

    steps: int
    zero: float
    cut: float

    def sentence(self, grids: Sequence[int], whole: int) -> str:
        """Return it for people."""
        low, high = min(grids), max(grids)
        unit = f"2^-{high}" if low == high else f"2^-{high} to 2^-{low} by tensor"
        after = f"{self.steps} of {whole} steps" if self.steps < whole else "a round"
        told = f"contributions count in units of {unit}: after {after} {self.zero:.1%} of what moved becomes zero"
        return f"{told}, {self.cut:.2%} is cut off"


@dataclass(frozen=True)
class Moves:
    """How far each parameter went in `steps` inner steps, float32, made anew whenever somebody goes through them."""

    steps: int
    start: Sequence[Unread]
    ended: Sequence[torch.Tensor]

    def __iter__(self) -> Iterator[torch.Tensor]:
        for before, after in zip(self.start, self.ended, strict=True):
            yield to_torch(before.read()).sub_(after)


def moved(
    run: TracedRun,
    start: Sequence[Unread],
    records: Tensor,
    number: int,
    engine: TorchEngine,
    tell: Callable[[str], None],
) -> Moves:
    """Return how far the first steps of round `number` move the parameters from the `start` state.

    Records are taken in their order; `engine` knows the run's prologue and inner step. Raises StepFailed where the
    arithmetic ends a step.
    """
    index = next(port for port in run.prologue.inputs if port.name == "index")
    max_steps, batch = map(int, index.shape)
    steps, data = min(max_steps, TRIAL_STEPS), to_torch(records)
    rows = (torch.arange(max_steps * batch) % len(data)).view(max_steps, batch)
    prologue, inner = digest_of_program(run.prologue), digest_of_program(run.inner)
    wanted = inputs_read(run.prologue)

    def begun() -> list[torch.Tensor]:
        state = [to_torch(each.read()) if place in wanted else None for place, each in enumerate(start)]
        return engine.own(engine.run(prologue, [state, [data, rows, torch.tensor(number)]]), [data])

    told = [f"trying inner step {step + 1} of {steps}" for step in range(steps)]
    count = len(run.parameter_names)
    return Moves(steps, start[:count], _stepped(engine, inner, begun, told, tell)[:count])


def _stepped(
    engine: TorchEngine,
    inner: Digest,
    begun: Callable[[], list[torch.Tensor]],
    told: Sequence[str],
    tell: Callable[[str], None],
) -> list[torch.Tensor]:
    """Return the working state after as many steps as there are words for; raises StepFailed."""
    working = begun()
    try:
        for words in told:
            tell(words)
            working = engine.advance(inner, working, False)
    except Overwritten:  # the state is lost, and `run` says where a step ends
        working = begun()
        for _ in told:
            working = engine.run(inner, [working])
    return working


def fitting(deltas: Iterable[torch.Tensor], largest: int) -> tuple[int, ...]:
    """Return for each tensor the exponent g of its unit 2**-g, where integers go to `largest`."""
    aim = largest.bit_length() - ROOM
    unmoved = UNMOVED + largest.bit_length() - UNMOVED_BITS
    return tuple(
        unmoved if top is None else max(LOWEST, min(HIGHEST, aim - top)) for top in map(_top, deltas)
    )


def fit_of(deltas: Iterable[torch.Tensor], grids: Sequence[int], largest: int, steps: int) -> Fit:
    """Return what a grid whose integers go to `largest` loses of how far parameters went."""
    went = zero = cut = 0
    for delta, grid in zip(deltas, grids, strict=True):
        units = delta.abs() * 2.0**grid
        if not units.numel():
            continue
        moving = units > units.max() * 2.0**-SMALL
        went += int(moving.sum())
        zero += int((moving & (units <= 0.5)).sum())
        cut += int((units > largest + 0.5).sum())
    return Fit(steps, zero / max(1, went), cut / max(1, went))


def _top(delta: torch.Tensor) -> int | None:
    """Return the least e such that the bulk of the entries that count is below 2**e; None where nothing moved."""
    exponents = torch.frexp(delta.abs().flatten()).exponent[delta.flatten() != 0]
    if not exponents.numel():
        return None
    largest = int(exponents.max())
    counts = torch.bincount((largest - exponents).clamp(max=SMALL + 1), minlength=SMALL + 2)[: SMALL + 1]
    above, allowed = 0, (1 - BULK) * int(counts.sum())
    for below, count in enumerate(counts.tolist()):
        above += count
        if above > allowed:
            return largest - below
    return largest
