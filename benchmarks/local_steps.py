"""Training as a swarm trains, in one process: workers' rounds and outer steps by a run's own programs."""

from dataclasses import dataclass, field, replace

import torch
from torch import nn

from benchmarks.losses import compiling
from benchmarks.trainers import PLAIN, NativeTrainer, Recipe
from trainer.programs.conversion import bundle_of, to_torch
from trainer.programs.tracing.bottleneck import add_bottlenecks
from trainer.programs.tracing.boundaries import bytes_of_a_row
from trainer.programs.tracing.capture import TraceConfig, TracedRun, trace_run
from trainer.programs.tracing.compression import Compression, Whole
from trainer.programs.tracing.optimiser import Optimiser
from trainer.rounds.torch_engine import TorchEngine
from trainer.runs.bottlenecks import sizes_at
from trainer.runs.boundaries import boundaries_of
from trainer.runs.grids import TRIAL_STEPS, fitting
from trainer.runs.job import OUTER, BoundariesSection
from trainer.runs.tasks import causal_lm_loss
from verification import codec
from verification.outer import SHARE
from verification.program import encode_program, program_digest

ROUND_WARMUP = 3
"""Steps of each round over which the rate grows: optimizers begin anew there."""


@dataclass(frozen=True)
class Plan:
    """Which part each worker takes of a recipe whose `batch` is that of all together: `inner` steps a round."""

    recipe: Recipe
    workers: int
    inner: int

    @property
    def rounds(self) -> int:
        """Rounds that the recipe's steps make."""
        return self.recipe.steps // self.inner

    @property
    def part(self) -> int:
        """Records that a worker takes of a step."""
        return self.recipe.batch // self.workers


@dataclass(frozen=True)
class Choice:
    """What differs between two swarms: the inner optimizer, the outer one's rate and momentum, by default a job's, what
    is sent, whether a round's work begins before the last one is added up, how the model's blocks pass hidden states
    on, and by which factor the learning rate differs from data-parallel's; `narrowed` how many times narrower hidden
    states are within bottlenecks, 0: there are none."""

    optimiser: Optimiser = PLAIN.adamw
    outer: tuple[float, float] | None = None
    compression: Compression = field(default_factory=Whole)
    overlap: bool = False
    boundaries: BoundariesSection | None = None
    rate: float = 1.0
    narrowed: int = 0

    def section(self, width: int) -> BoundariesSection | None:
        """Return what a job says of it for a model of some width."""
        if self.boundaries is None or not self.narrowed:
            return self.boundaries
        return self.boundaries.model_copy(update={"width": width // self.narrowed})


def model_of(recipe: Recipe, choice: Choice, seed: int, attention: str) -> nn.Module:
    """Return a fresh model of a recipe, with the bottlenecks of a choice; raises UserError for those it cannot have."""
    model = recipe.model(seed, attention)
    boundaries = boundaries_of(model, choice.section(recipe.hidden))
    if boundaries is not None and boundaries.width:
        record = torch.zeros(1, recipe.length + 1, dtype=torch.int64)
        add_bottlenecks(model, sizes_at(model, boundaries, lambda: causal_lm_loss(model, record)))
    return model


class LocalSteps:
    """Workers that train a round each from one state, and the outer step over what they contribute.

    All weigh alike. Programs, grids and bytes are those of a run; what a run adds are signatures.
    """

    def __init__(self, plan: Plan, choice: Choice, batches: torch.Tensor, seed: int) -> None:
        """`batches`: uint8 [steps, batch, length + 1], cut into parts of consecutive records, one for each worker."""
        recipe, records = plan.recipe, batches.flatten(0, 1)
        self._plan, self._data, self._overlaps = plan, records, choice.overlap
        self.index = torch.arange(len(records)).view(plan.rounds, plan.inner, plan.workers, plan.part)
        """Which records each worker takes in each inner step of each round."""
        model = model_of(recipe, choice, seed, "eager")
        schedule = recipe.method.traced(recipe.steps)
        config = TraceConfig(
            len(records), recipe.length, plan.part, plan.inner, plan.workers, 12, choice.optimiser,
            replace(schedule, lr=choice.rate * schedule.lr, round_warmup=ROUND_WARMUP),
            *(choice.outer or OUTER[choice.overlap]),
            compression=choice.compression, boundaries=boundaries_of(model, choice.section(recipe.hidden)),
        )  # fmt: skip
        traced = trace_run(model, causal_lm_loss, config)
        self.crossing = bytes_of_a_row(recipe.hidden, config.boundaries)
        """Bytes of one token's hidden states where they go from a block to the next."""
        self.state = [to_torch(tensor) for tensor in traced.start.tensors]
        self._begin = self.state
        self._names = traced.parameter_names
        self._load(traced)
        ended = self._trained(0, 0, min(plan.inner, TRIAL_STEPS))
        moves = (start - end for start, end in zip(self.parameters().values(), ended, strict=False))
        traced = traced.on_grids(fitting(moves, choice.compression.largest))
        self._load(traced)
        self.sent: list[int] = []
        """Bytes of each contribution, as a blob."""

    def _load(self, traced: TracedRun) -> None:
        encoded = map(encode_program, (traced.prologue, traced.inner, traced.epilogue, traced.outer))
        texts = {program_digest(each): each for each in encoded}
        self._engine, self._programs = TorchEngine(texts, compiling()), list(texts)

    def run(self, number: int) -> float:
        """Do a round and return the mean loss of its steps, in nats a token."""
        made = [self._contribution(number, worker) for worker in range(self._plan.workers)]
        *_, outer = self._programs
        weights = torch.full((self._plan.workers,), SHARE * self._plan.inner)
        given = [*self.state, *(tensor for each in made for tensor in each), weights]
        before, self.state = self.state, self._engine.run(outer, [given])
        self._begin = before if self._overlaps else self.state
        return sum(float(each[-1]) for each in made) / len(made)

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return the parameters as they are now, by name."""
        return dict(zip(self._names, self.state, strict=False))

    def _contribution(self, number: int, worker: int) -> list[torch.Tensor]:
        working = self._trained(number, worker, self._plan.inner)
        made: list[torch.Tensor] = self._engine.run(self._programs[2], [self._begin, working])
        self.sent.append(len(codec.encode(bundle_of(made))))
        return made

    def _trained(self, number: int, worker: int, steps: int) -> list[torch.Tensor]:
        """Return a worker's working state after so many inner steps of a round."""
        prologue, inner, *_ = self._programs
        given = [*self._begin, self._data, self.index[number, :, worker], torch.tensor(number)]
        working: list[torch.Tensor] = self._engine.own(self._engine.run(prologue, [given]), given)
        for _ in range(steps):
            working = self._engine.advance(inner, working, False)
        return working


class DataParallel:
    """PyTorch's own training on the whole batch of each step, which is what data-parallel training computes."""

    def __init__(self, plan: Plan, batches: torch.Tensor, seed: int) -> None:
        """`batches`: uint8 [steps, batch, length + 1]."""
        self._trainer = NativeTrainer(plan.recipe.model(seed, "sdpa"), batches, plan.recipe.method)
        self._inner = plan.inner
        self.crossing = bytes_of_a_row(plan.recipe.hidden, None)
        """Bytes of one token's hidden states."""
        self.sent = [sum(4 * tensor.numel() for tensor in self.parameters().values())]
        """Bytes of a step's gradient."""

    def run(self, number: int) -> float:
        """Do as many steps as a round has and return their mean loss, in nats a token."""
        return sum(self._trainer.step() for _ in range(self._inner)) / self._inner

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return the parameters as they are now, by name."""
        return self._trainer.parameters()
