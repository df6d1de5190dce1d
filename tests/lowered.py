"""Functions of PyTorch as programs: traced, lowered and run by the interpreter, for tests of what they compute."""

from collections.abc import Callable, Sequence

import torch

from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.builder import Builder
from trainer.programs.tracing.capture import make_graph, without_mutations
from trainer.programs.tracing.lower import Lowering

Function = Callable[..., torch.Tensor]


def program_of(function: Callable[..., object], inputs: Sequence[torch.Tensor]) -> LoadedProgram:
    """The program of a function that gives one tensor or several."""
    samples = list(inputs)
    b, graph = Builder(), without_mutations(make_graph(function, samples), samples)
    dtypes = {torch.float32: "float32", torch.int64: "int64", torch.bool: "bool"}
    ports = [b.port(f"x{n}", dtypes[value.dtype], value.shape) for n, value in enumerate(inputs)]
    made = Lowering(b).run(graph, ports)
    return LoadedProgram(b.finish("inner", [(f"y{n}", value) for n, value in enumerate(made)]))


def lowered(function: Callable[..., object], *inputs: torch.Tensor) -> list[torch.Tensor]:
    """What the program makes of the inputs; what a step would end with NaN or infinity raises StepFailed."""
    return program_of(function, inputs).run(inputs)


def vjp(function: Function, count: int) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The function of (inputs, gradient of the result) to the gradients of the first `count` inputs."""

    def backward(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inputs = [v.requires_grad_() if n < count else v for n, v in enumerate(values[:-1])]
        return torch.autograd.grad(function(*inputs), inputs[:count], values[-1])

    return backward
