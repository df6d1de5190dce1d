"""Lowering: from a traced ATen graph to the operators of a program.

What depends on neither parameters nor data (masks, position tables) is computed here, once, and travels as a constant.
Everything else goes through a rule; an ATen operator without one is refused by name and source line.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from trainer.programs.kernels import DTYPE_NAMES, TORCH_DTYPES
from trainer.programs.tracing.builder import Builder, Value
from verification.arithmetic.numbers import FLOAT, INDEX
from verification.arithmetic.places import Spec
from verification.arithmetic.shapes import ShapeError
from verification.errors import UserError

Argument = Any
"""A Value, a constant torch tensor, a number, a list of those, or None: as the graph has them."""

_RANDOM = re.compile(
    r"^(native_dropout|dropout|bernoulli|rand|randn|normal|uniform|multinomial|exponential|randint)"
)


class Lowering:
    """The state of one lowering: the builder, and what each graph node has become."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.known: dict[fx.Node, Argument] = {}

    def value(self, argument: Argument, dtype: str | None = None) -> Value:
        """Return the argument as a value of `dtype`; numbers and constant tensors become constants."""
        if isinstance(argument, Value):
            return self.builder.cast(argument, dtype) if dtype else argument
        if isinstance(argument, torch.Tensor):
            constant = argument if dtype is None else argument.to(TORCH_DTYPES[dtype])
            return self.builder.constant(_admitted(constant))
        if isinstance(argument, bool) and dtype is None:
            return self.builder.scalar(argument, "bool")
        return self.builder.scalar(argument, dtype or (INDEX if isinstance(argument, int) else FLOAT))

    def run(self, graph: fx.GraphModule, inputs: Sequence[Value]) -> list[Value]:
        """Lower the whole graph on `inputs`; returns its results in order. Raises UserError."""
        places = iter(inputs)
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                self.known[node] = next(places)
            elif node.op == "get_attr":
                self.known[node] = _attribute(graph, str(node.target))
            elif node.op == "call_function":
                # What nobody reads is what a model asserts of its data; a change in place is read outside.
                if node.users or changes_in_place(node):
                    self.known[node] = self._call(node)
            else:
                (results,) = node.args
                flat = results if isinstance(results, list | tuple) else [results]
                return [self.value(self.known[result]) for result in flat]
        raise AssertionError("a graph ends with its output")

    def _call(self, node: fx.Node) -> Argument:
        args: Any = fx.node.map_arg(node.args, self.known.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, self.known.__getitem__)
        target: Any = node.target
        if getattr(target, "__name__", "") == "getitem":
            return args[0][args[1]]
        name = str(target).removeprefix("aten.")
        if not _mentions_value([args, kwargs]):
            with torch.no_grad():
                return target(*args, **kwargs)
        if _is_complex(node):
            name = COMPLEX + name
        rule = RULES.get(name) or RULES.get(name.split(".")[0])
        if rule is None:
            raise UserError(f"operator {name} has no exact form{_where(node)}; write the model without it")
        try:
            return rule(self, _result(node), *args, **kwargs)
        except (ShapeError, TypeError, _Unsupported) as error:
            raise UserError(
                f"operator {name} in this form has no exact form{_where(node)}: {error}"
            ) from error


def refuse_random(graph: fx.GraphModule, mend: str) -> None:
    """Raise UserError when the graph draws random numbers; `mend` says what to do."""
    for node in graph.graph.nodes:
        name = str(node.target).removeprefix("aten.")
        if node.op == "call_function" and _RANDOM.match(name):
            raise UserError(f"{name} draws random numbers{_where(node)}; {mend}")


Lowerer = Callable[..., Argument]
RULES: dict[str, Lowerer] = {}
"""ATen operator, with or without its overload's name, to the function that lowers it."""


COMPLEX = "complex "
"""Stands before the name of an operator whose result is complex."""


class _Unsupported(Exception):
    """A variant of an operator that a rule does not cover."""


def rule(*names: str) -> Callable[[Lowerer], Lowerer]:
    """Register a function as the lowering of the named ATen operators."""

    def register(lowerer: Lowerer) -> Lowerer:
        RULES.update(dict.fromkeys(names, lowerer))
        return lowerer

    return register


def cover(condition: bool, reason: str) -> None:
    """Refuse this variant of an operator unless the condition holds; the caller adds name and source line."""
    if not condition:
        raise _Unsupported(reason)


def positive(dim: int, rank: int) -> int:
    """Return a dimension counted from 0."""
    return dim % max(rank, 1)


def _result(node: fx.Node) -> Any:
    made = node.meta.get("val")
    if isinstance(made, torch.Tensor):
        if any(not isinstance(size, int) for size in made.shape):
            raise UserError(
                f"{node.target} makes a shape that depends on data{_where(node)}; use a fixed shape"
            )
        return Spec(DTYPE_NAMES.get(made.dtype, str(made.dtype)), tuple(int(size) for size in made.shape))
    return made


def changes_in_place(node: fx.Node) -> bool:
    """Return whether a node's operator changes one of its inputs."""
    return bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))


def _is_complex(node: fx.Node) -> bool:
    made = node.meta.get("val")
    return isinstance(made, torch.Tensor) and made.is_complex()


def _mentions_value(item: Argument) -> bool:
    if isinstance(item, list | tuple):
        return any(_mentions_value(part) for part in item)
    if isinstance(item, dict):
        return any(_mentions_value(part) for part in item.values())
    return isinstance(item, Value)


def _attribute(graph: fx.GraphModule, path: str) -> torch.Tensor:
    found: Any = graph
    for part in path.split("."):
        found = getattr(found, part)
    assert isinstance(found, torch.Tensor)
    return found.detach()


def _admitted(constant: torch.Tensor) -> torch.Tensor:
    if constant.dtype in DTYPE_NAMES:
        return constant
    if constant.dtype.is_floating_point:
        return constant.to(torch.float32)
    raise UserError(f"dtype {constant.dtype} has no place in a program; use float32 or integers")


def _where(node: fx.Node) -> str:
    """Return ' (called at file:line in function)', or for an operator of the backward pass a line near it.

    The line is the user's own where one is known; PyTorch keeps those of the methods named `forward`.
    """
    line = _user_line(node)
    if line:
        return f" (called at {line})"
    seen, waiting = {node}, [node]
    for earlier in waiting:
        if line := _user_line(earlier):
            return f" (in a gradient, near {line})"
        fresh = [source for source in earlier.all_input_nodes if source not in seen]
        seen.update(fresh)
        waiting += fresh
    return ""


def _user_line(node: fx.Node) -> str:
    """Return 'file:line in function' for the user's line in a node's stack, or the innermost that is known."""
    frames = re.findall(r'File "([^"<]+)", line (\d+), in (\S+)', node.stack_trace or "")
    frames = [frame for frame in frames if not re.search(r"/torch/|/trainer/programs/", frame[0])]
    if not frames:
        return ""
    user = [frame for frame in frames if "/transformers/" not in frame[0]]
    file, line, function = (user or frames)[-1]
    return f"{file.rsplit('/', 1)[-1]}:{line} in {function}"
