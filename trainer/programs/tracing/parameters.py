"""Which of a model's parameters are trained, and what each of them is to the model."""

from typing import Any

from torch import nn

from trainer.programs.tracing.optimiser import Parameter


def described_parameters(model: nn.Module) -> tuple[Parameter, ...]:
    """Return the trained parameters in order: `token` are weights of embeddings and of the head, `hidden` the other
    matrices."""
    outside = [head_of(model), *(module for module in model.modules() if isinstance(module, nn.Embedding))]
    apart = {id(module.weight) for module in outside if module is not None}
    return tuple(
        Parameter(name, tuple(p.shape), p.dim() == 2 and id(p) not in apart, id(p) in apart)
        for name, p in trained_parameters(model).items()
    )


def head_of(model: nn.Module) -> Any:
    """Return what a Hugging Face model calls its output embeddings, or else the last linear layer; None for none."""
    given: Any = getattr(model, "get_output_embeddings", lambda: None)()
    if given is not None:
        return given
    return next((each for each in reversed(list(model.modules())) if isinstance(each, nn.Linear)), None)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a run trains, by name; frozen ones are constants of its programs."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
