"""Models that are cut into shards, and how they train as a whole."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import nn

from tests import zoo
from trainer.programs.conversion import bundle_of, to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.bottleneck import Bottleneck, add_bottlenecks
from trainer.programs.tracing.boundaries import Boundaries
from trainer.programs.tracing.capture import TracedRun, trace_run
from trainer.programs.tracing.optimiser import Muon
from trainer.runs.models import build_model
from trainer.runs.tasks import causal_lm_loss
from trainer.runs.tiny import tiny_config
from trainer.shards.cut import Cut, cut_at
from trainer.shards.run import ShardedProgram
from trainer.shards.segments import Pieces, Segment
from verification.program import Program
from verification.tensors import digest_of
from verification.units import Digest

CLIPPED = replace(zoo.ADAMW, clip_norm=0.05)
TIED = zoo.CONFIGS["llama"] | {"tie_word_embeddings": True}
DROPPING = zoo.CONFIGS["gpt2"] | {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
EXPERTS = tiny_config("mixtral") | {"vocab_size": 256}
BOUNDARIES = Boundaries(("model.layers.0",), 4, 12)
NARROW = Boundaries(("model.layers.0",), 8, width=10)
RUNS: dict[str, Callable[[], TracedRun]] = {
    "llama": lambda: _of_zoo("llama", optimiser=CLIPPED),
    "gpt2": lambda: _of_zoo("gpt2", optimiser=CLIPPED, accumulate=4),
    "vit": lambda: _of_zoo("vit", accumulate=2),
    "tied": lambda: _causal(TIED, optimiser=Muon(CLIPPED)),
    "experts": lambda: _causal(EXPERTS, accumulate=2),
    "dropping": lambda: _causal(DROPPING, accumulate=2),
    "bounded": lambda: _causal(zoo.CONFIGS["llama"], boundaries=BOUNDARIES),
    "narrow": lambda: _narrow(accumulate=2),
}
"""Programs by name. GPT-2's embedding is tied too; some gradients are means over parts of the batch. "bounded" has a
boundary between its two layers, "narrow" a bottleneck."""


def _of_zoo(name: str, **changes: object) -> TracedRun:
    module = zoo.model(name)
    return trace_run(module, zoo.loss_of(name, module), replace(zoo.job(name), **changes))  # type: ignore[arg-type]


def _causal(config: dict[str, object], **changes: object) -> TracedRun:
    return trace_run(build_model(config, 1), causal_lm_loss, replace(zoo.JOB, **changes))  # type: ignore[arg-type]


def _narrow(**changes: object) -> TracedRun:
    model = build_model(zoo.CONFIGS["llama"], 1)
    add_bottlenecks(model, {"model.layers.0": (36, NARROW.width)})
    draw_bottlenecks(model)
    return trace_run(model, causal_lm_loss, replace(zoo.JOB, boundaries=NARROW, **changes))  # type: ignore[arg-type]


def draw_bottlenecks(model: nn.Module) -> None:
    """Draw what begins as zeros, as if the model had been trained."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Bottleneck):
                for parameter in module.parameters():
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=random))


@dataclass(frozen=True)
class Whole:
    """A run's programs by their roles, and what they make of its first round: what each reads, and the digests of what
    it makes; of the inner step for each of some steps."""

    programs: dict[str, Program]
    given: dict[str, list[torch.Tensor]]
    made: dict[str, list[Digest]]


@functools.cache
def whole(name: str, steps: int = 2) -> Whole:
    """A model's first round, by whole programs."""
    run = RUNS[name]()
    programs = {program.role: program for program in (run.prologue, run.inner, run.epilogue, run.outer)}
    start = [to_torch(tensor) for tensor in run.start.tensors]
    text = name if name in zoo.NAMES else "llama"
    prologue = [*start, zoo.records(text), zoo.index(text), torch.tensor(0)]
    working = began = LoadedProgram(run.prologue).run(prologue)
    made = {"prologue": [digest(began)], "inner": list[Digest]()}
    inner = LoadedProgram(run.inner)
    for _ in range(steps):
        working = inner.run(working)
        made["inner"].append(digest(working))
    epilogue = [*start, *working]
    contribution = LoadedProgram(run.epilogue).run(epilogue)
    outer = [*start, *contribution, *contribution, *contribution, torch.tensor([2, 1, 0])]
    made["epilogue"] = [digest(contribution)]
    made["outer"] = [digest(LoadedProgram(run.outer).run(outer))]
    return Whole(programs, {"prologue": prologue, "inner": began, "epilogue": epilogue, "outer": outer}, made)


@functools.cache
def cut(name: str, ends: tuple[int, ...]) -> Cut:
    """A model cut at some depths."""
    return cut_at(whole(name).programs.values(), ends)


def by_shards(pieces: Pieces, values: Sequence[torch.Tensor], times: int, random: Random) -> list[Digest]:
    """The digests of what shards make of a program's inputs, of its outputs and so on, in an order that is drawn."""

    def drawn(ready: Sequence[Segment]) -> int:
        return random.randrange(len(ready))

    program, found = ShardedProgram(pieces), []
    for _ in range(times):
        values = program.run(values, drawn)
        found.append(digest(values))
    return found


def digest(tensors: Sequence[torch.Tensor]) -> Digest:
    """The digest of a bundle of tensors."""
    return digest_of(bundle_of(tensors))
