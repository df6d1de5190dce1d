"""A machine's check of itself on a run's own inner step, and what that step runs on: for peers and `doctor`."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from trainer import exact
from trainer.programs.float32 import run_in_float32
from trainer.rounds.engine import Overwritten
from trainer.rounds.machine import Kernels
from trainer.rounds.torch_engine import TorchEngine
from verification.errors import Unsound
from verification.library import StepFailed
from verification.program import Port, Program
from verification.units import Count, Digest

SEED = b"proofswarm self-check"
SPREAD = 0.05
"""Standard deviation of drawn parameters, as models begin with."""

REPEATS = 3
Clock = Callable[[], float]


def drawn(program: Program, working: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield a working state of an inner program with numbers of the integer generator in it, one tensor after another.

    A run begins with moments of zero, which hide what goes wrong in an optimiser. Parameters become normal numbers and
    the optimiser's tensors their squares, which any of them may be; counters and the run's own data stay.
    """
    for port, tensor in zip(program.inputs, working, strict=True):
        yield _drawn(port) if _changes(port) else tensor


def _changes(port: Port) -> bool:
    return port.dtype == "float32" and bool(port.shape)


def _drawn(port: Port) -> torch.Tensor:
    made = exact.normal_f32(SEED, port.name, tuple(map(int, port.shape)), SPREAD)
    return made if port.name.startswith("working/parameter/") else made.mul_(made)


def step_agrees(engine: TorchEngine, inner: Digest, working: Sequence[torch.Tensor]) -> bool:
    """Return whether a drawn step comes out the same as it runs here and node by node with the trusted product."""
    program = engine.program(inner)
    working = _without_drawn(program, working)
    try:
        engine.advance(inner, engine.own(drawn(program, working), working), is_checked=True)
    except StepFailed:  # a model that does not bear these numbers; the golden step was compared already
        return True
    except Unsound:
        return False
    except Overwritten:  # by loops that fail where the nodes do not, and that `run` drops
        engine.run(inner, [engine.own(drawn(program, working), working)])
    return True


def share_agrees(engine: TorchEngine, inner: Digest, given: Sequence[torch.Tensor]) -> bool:
    """Return as `step_agrees` whether a shard's drawn step comes out the same; `given` are its working state, which
    nobody else may hold, and what it takes."""
    program = engine.program(inner)
    given = _without_drawn(program, given)
    inputs = engine.own(drawn(program, given), given)
    try:
        return engine.digests(engine.run(inner, [inputs])) == engine.again(inner, inputs)
    except StepFailed:
        return True


def _without_drawn(program: Program, working: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return a working state without what is drawn anew, so that it takes no memory twice."""
    nothing = torch.empty(0)
    return [nothing if _changes(p) else t for p, t in zip(program.inputs, working, strict=True)]


def kernels_of(
    engine: TorchEngine,
    inner: Digest,
    working: Sequence[torch.Tensor],
    refused: str = "",
    clock: Clock = time.perf_counter,
) -> Kernels:
    """Return what an inner step runs on, after it has run; measures what it costs where kernels are refused.

    `refused` says why the engine was not even asked for compiled loops, or nothing. A step that memory has no place for
    whole is not measured beside one that takes as much.
    """
    products, (is_compiled, reason) = engine.executor.products, engine.compiled(inner)
    reasons = [*products.refused_kernels(), refused or reason]
    why = "; ".join(dict.fromkeys(r for r in reasons if r and not any(r in o for o in reasons if o != r)))
    ratio = over_float32(engine, inner, working, clock) if why and not engine.shortage else 0.0
    return Kernels(tuple(sorted(products.used)), is_compiled, why, Count(round(1000 * ratio)))


def over_float32(
    engine: TorchEngine, inner: Digest, working: Sequence[torch.Tensor], clock: Clock = time.perf_counter
) -> float:
    """Return the time of an inner step over that of the same program on PyTorch's float32, medians in turn."""
    program, device = engine.program(inner), engine.executor.products.device
    tensors = [tensor.to(device) for tensor in working]
    ways: tuple[Callable[[], object], ...] = (
        lambda: engine.run(inner, [tensors]),
        lambda: run_in_float32(program, tensors, device),
    )
    seconds: list[list[float]] = [[], []]
    for _ in range(1 + REPEATS):
        for way, taken in zip(ways, seconds, strict=True):
            began = clock()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(clock() - began)
    exactly, natively = (statistics.median(taken[1:]) for taken in seconds)
    return exactly / natively
