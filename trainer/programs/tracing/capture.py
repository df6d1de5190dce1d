"""Tracing: from a `torch.nn.Module` and a loss to the four programs of a run.

The model is traced once, with fake tensors, over its loss and gradients; everything around them (the optimiser, the
outer step, compression) is built from operators directly. The same model and configuration give the same bytes.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainer.programs.conversion import from_torch
from trainer.programs.tracing import lower_complex, lower_math, lower_order, lower_shape, lower_spatial
from trainer.programs.tracing.boundaries import Boundaries, standing
from trainer.programs.tracing.builder import Builder, Value
from trainer.programs.tracing.compression import Compression, Whole, Working, compress
from trainer.programs.tracing.dropout import Dropping, round_seed
from trainer.programs.tracing.lower import Lowering, changes_in_place, refuse_random
from trainer.programs.tracing.optimiser import Gradients, Optimiser, Parameter, StateTensor
from trainer.programs.tracing.outer import outer_step
from trainer.programs.tracing.parameters import described_parameters, trained_parameters
from trainer.programs.tracing.schedule import Schedule
from verification.arithmetic.numbers import FLOAT, INDEX
from verification.arithmetic.shapes import DEFAULT_BITS
from verification.errors import UserError
from verification.program import Program
from verification.tensors import Bundle, Tensor

Loss = Callable[[nn.Module, torch.Tensor], torch.Tensor]
"""(model, int64 tokens of records [batch, width]) to a 0-d float32 loss."""

_DECOMPOSED = (
    torch.ops.aten.native_batch_norm,
    torch.ops.aten._native_batch_norm_legit,
)
"""Core ATen operators that PyTorch can write in smaller ones too."""

_RULES = (lower_complex, lower_math, lower_order, lower_shape, lower_spatial)
"""Imported for the rules that they register."""


@dataclass(frozen=True)
class TraceConfig:
    """Sizes and rates that the programs fix.

    `records` rows of `length` + 1 `tokens` (their dtype) make a worker's data; a round has `max_steps` inner steps of
    `batch` rows, whose gradient is the mean over `accumulate` parts one after another, in the memory of one; `slots`
    contributions enter an outer step; a contribution counts in units of 2**-grid_exponent at first, and holds its
    integers as `compression` packs them. The outer step is Nesterov's: mom = outer_momentum * mom + delta;
    parameters -= outer_lr * (delta + outer_momentum * mom). Operands of products are quantised to `bits` bits, 14 or 8.
    Between blocks hidden states and their gradients are rounded where `boundaries` stand.
    """

    records: int
    length: int
    batch: int
    max_steps: int
    slots: int
    grid_exponent: int
    optimiser: Optimiser
    schedule: Schedule
    outer_lr: float
    outer_momentum: float
    bits: int = DEFAULT_BITS
    tokens: str = "uint8"
    accumulate: int = 1
    compression: Compression = Whole()  # noqa: RUF009
    boundaries: Boundaries | None = None


@dataclass(frozen=True)
class TracedRun:
    """The four programs, the start state (parameters, then zero momentum), the parameters' names in order, and what the
    programs share."""

    prologue: Program
    inner: Program
    epilogue: Program
    outer: Program
    start: Bundle
    parameter_names: tuple[str, ...]
    sizes: "Sizes"

    def on_grids(self, grids: Sequence[int]) -> "TracedRun":
        """Return the same run whose contributions count each parameter in units of 2**-grid."""
        sizes = replace(self.sizes, grids=tuple(grids))
        return replace(self, epilogue=_epilogue(sizes), outer=_outer(sizes), sizes=sizes)

    def without_start(self) -> "TracedRun":
        """Return the same run without its start state, for who has put that into a store."""
        return replace(self, start=Bundle(()))


def trace_run(model: nn.Module, loss: Loss, job: TraceConfig) -> TracedRun:
    """Return the programs that train `model` under `loss`.

    Raises UserError, in one line, for an operator without an exact form, for random numbers other than dropout's, for
    modules that change their buffers while training and for boundaries that cannot stand; the line names the operator
    or module and, where known, the user's source line.
    """
    _check_model(model)
    named = trained_parameters(model)
    graph, drops = trace_gradients(model, loss, job)
    described = described_parameters(model)
    sizes = Sizes(described, job, (job.grid_exponent,) * len(described), drops)
    programs = _prologue(sizes), _inner(sizes, graph), _epilogue(sizes), _outer(sizes)
    start = [from_torch(parameter) for parameter in named.values()]
    momentum = [Tensor(each.dtype, each.shape, bytes(len(each.data))) for each in start]
    return TracedRun(*programs, Bundle((*start, *momentum)), tuple(named), sizes)


def trace_gradients(model: nn.Module, loss: Loss, job: TraceConfig) -> tuple[fx.GraphModule, bool]:
    """Return the ATen graph of one part, and whether its model drops.

    The graph is (parameters..., int64 tokens [rows, length + 1]) -> (loss, gradients...); of a model that drops it
    takes the round's seed and the part's number last, int64 0-d.
    """
    trained = trained_parameters(model)
    wrapped = _LossModule(model, loss)
    sites = 0

    def step(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        nonlocal sites
        *given, tokens, seed, part = inputs
        parameters = [value.requires_grad_() for value in given]
        changed = {f"model.{name}": value for name, value in zip(trained, parameters, strict=True)}
        with Dropping(seed, part) as dropping:
            value = functional_call(wrapped, changed, (tokens,))
        sites = dropping.sites
        if value.shape != () or value.dtype != torch.float32:
            raise UserError(f"the loss must be a 0-d float32 tensor, got {value.dtype} {list(value.shape)}")
        gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        return value.detach(), *gradients

    samples = [
        torch.empty_like(parameter.detach()) for parameter in trained.values()
    ]  # whose numbers nobody reads
    tokens = torch.zeros(job.batch // job.accumulate, job.length + 1, dtype=torch.int64)
    samples += [tokens, *torch.zeros(2, dtype=torch.int64)]
    with standing(model, job.boundaries):
        graph = make_graph(step, samples)
    refuse_random(graph, _without_random(model))
    _refuse_buffer_changes(graph, model)
    if not sites:
        del samples[-2:]
        for unread in graph.graph.find_nodes(op="placeholder")[-2:]:
            graph.graph.erase_node(unread)
        graph.recompile()
    return without_mutations(graph, samples), sites > 0


class _LossModule(nn.Module):
    """The loss as a module's forward, so that `functional_call` swaps the parameters under it."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.loss(self.model, tokens)


@dataclass(frozen=True)
class Sizes:
    """What the four programs share: the parameters, the job, the exponent of each parameter's grid, and whether the
    model drops."""

    parameters: tuple[Parameter, ...]
    job: TraceConfig
    grids: tuple[int, ...]
    drops: bool

    @property
    def slots(self) -> list[StateTensor]:
        """The optimiser's state."""
        return self.job.optimiser.slots(self.parameters)

    def state(self, builder: Builder, prefix: str = "") -> tuple[list[Value], list[Value]]:
        """Declare a state bundle: (parameters, outer momentum)."""
        return self.tensors(builder, prefix + "parameter"), self.tensors(builder, prefix + "momentum")

    def tensors(self, builder: Builder, kind: str) -> list[Value]:
        """Declare one float32 input per parameter."""
        return [builder.port(f"{kind}/{p.name}", FLOAT, p.shape) for p in self.parameters]

    def contribution(self, builder: Builder, kind: str) -> list[Value]:
        """Declare the tensors of a contribution, one per parameter."""
        way = self.job.compression
        return [builder.port(f"{kind}/{p.name}", *way.port(p.shape)) for p in self.parameters]

    def working(self, builder: Builder) -> Working:
        """Declare a working bundle."""
        job = self.job
        return Working(
            self.tensors(builder, "working/parameter"),
            [builder.port(slot.name, FLOAT, slot.shape) for slot in self.slots],
            builder.port("loss_sum", FLOAT, ()),
            builder.port("step", INDEX, ()),
            builder.port("rates", FLOAT, (job.max_steps,)),
            builder.port("tokens", job.tokens, (job.max_steps, job.batch, job.length + 1)),
            builder.port("seed", INDEX, ()) if self.drops else None,
        )

    def named(self, kind: str, values: list[Value]) -> list[tuple[str, Value]]:
        """Pair one output per parameter with its name."""
        return [(f"{kind}/{p.name}", value) for p, value in zip(self.parameters, values, strict=True)]

    def working_outputs(self, working: Working) -> list[tuple[str, Value]]:
        """The working bundle as outputs, in the order in which `working` declares it."""
        state = [(slot.name, value) for slot, value in zip(self.slots, working.state, strict=True)]
        ending = [(name, getattr(working, name)) for name in ("loss_sum", "step", "rates", "tokens")]
        seed = [] if working.seed is None else [("seed", working.seed)]
        return [*self.named("working/parameter", working.parameters), *state, *ending, *seed]


def _prologue(sizes: Sizes) -> Program:
    b, job = Builder(), sizes.job
    parameters, _ = sizes.state(b)
    data = b.port("data", job.tokens, (job.records, job.length + 1))
    index = b.port("index", INDEX, (job.max_steps, job.batch))
    number = b.port("round", INDEX, ())
    state = [b.expand(b.scalar(slot.start), slot.shape) for slot in sizes.slots]
    rates = job.schedule.rates(b, number, job.max_steps)
    tokens, seed = b.emit("gather", data, index), _seed(b, index, number) if sizes.drops else None
    working = Working(parameters, state, b.scalar(0.0), b.scalar(0, INDEX), rates, tokens, seed)
    return b.finish("prologue", sizes.working_outputs(working))


def _seed(b: Builder, index: Value, number: Value) -> Value:
    samples = [torch.zeros(index.shape, dtype=torch.int64), torch.zeros((), dtype=torch.int64)]
    (seed,) = Lowering(b).run(make_graph(lambda *given: (round_seed(*given),), samples), [index, number])
    return seed


def _inner(sizes: Sizes, graph: fx.GraphModule) -> Program:
    b = Builder(bits=sizes.job.bits)
    old = sizes.working(b)
    tokens = b.cast(b.emit("select", old.tokens, old.step), INDEX)
    loss, *gradients = _mean_over_parts(b, graph, old, tokens, sizes.job.accumulate)
    now = Gradients(old.parameters, gradients, b.emit("select", old.rates, old.step))
    parameters, state = sizes.job.optimiser.update(b, sizes.parameters, now, old.state)
    step = b.add(old.step, b.scalar(1, INDEX))
    new = Working(parameters, state, b.add(old.loss_sum, loss), step, old.rates, old.tokens, old.seed)
    return b.finish("inner", sizes.working_outputs(new))


def _mean_over_parts(
    b: Builder, graph: fx.GraphModule, old: Working, tokens: Value, parts: int
) -> list[Value]:
    """Return loss and gradients, means over equal parts of the batch."""
    rows, made = tokens.shape[0] // parts, []
    for part in range(parts):
        chosen = b.slice(tokens, 0, part * rows, (part + 1) * rows)
        inputs = [*old.parameters, chosen]
        if old.seed is not None:
            number = b.add(b.multiply(old.step, b.scalar(parts, INDEX)), b.scalar(part, INDEX))
            inputs += [old.seed, number]
        made.append(Lowering(b).run(graph, inputs))
    summed = made[0]
    for each in made[1:]:
        summed = [b.add(one, other) for one, other in zip(summed, each, strict=True)]
    return summed if parts == 1 else [b.multiply(value, b.scalar(1.0 / parts)) for value in summed]


def _epilogue(sizes: Sizes) -> Program:
    b = Builder()
    start, _ = sizes.state(b)
    working = sizes.working(b)
    packed, norm, loss = compress(b, start, working, sizes.grids, sizes.job.compression)
    return b.finish("epilogue", [*sizes.named("contribution", packed), ("norm", norm), ("loss", loss)])


def _outer(sizes: Sizes) -> Program:
    b, job = Builder(), sizes.job
    parameters, momentum = sizes.state(b)
    contributions = []
    for slot in range(job.slots):
        contributions.append(sizes.contribution(b, f"contribution{slot}"))
        b.port(f"norm{slot}", INDEX, ())
        b.port(f"loss{slot}", FLOAT, ())
    weights = b.port("weights", INDEX, (job.slots,))
    rates = job.outer_lr, job.outer_momentum
    way = sizes.job.compression
    new, moved = outer_step(b, parameters, momentum, contributions, weights, sizes.grids, rates, way)
    return b.finish("outer", [*sizes.named("parameter", new), *sizes.named("momentum", moved)])


def make_graph(function: Callable[..., object], samples: list[torch.Tensor]) -> fx.GraphModule:
    """Return the ATen graph of a function, decomposed as far as the lowerings expect. Raises UserError."""
    table = {**core_aten_decompositions(), **get_decompositions(_DECOMPOSED)}
    # Lowered as one exact sum by row; its decomposition is an index_put behind masks.
    table.pop(torch.ops.aten.embedding_dense_backward.default, None)
    # Lowered whole, since its products need more bits than others.
    table.pop(torch.ops.aten._log_softmax_backward_data.default, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracer = make_fx(
            function,
            decomposition_table=table,
            tracing_mode="fake",
            _allow_non_fake_inputs=True,
            record_stack_traces=True,
        )
        try:
            # Fused attention would be one opaque node; its plain form is products and a softmax.
            with sdpa_kernel(SDPBackend.MATH):
                return tracer(*samples)
        except GuardOnDataDependentSymNode as error:
            raise UserError(
                "the model cannot be traced: what it does next depends on data; it must run on fixed shapes"
            ) from error
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"the model cannot be traced: {reason}; it must run on fixed shapes") from error


def without_mutations(graph: fx.GraphModule, samples: list[torch.Tensor]) -> fx.GraphModule:
    """Return the graph with its in-place operators replaced by the others, traced again if it has any."""
    return make_graph(functionalize(graph, remove="mutations"), samples) if _mutations(graph) else graph


def _mutations(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if changes_in_place(node)]


def _refuse_buffer_changes(graph: fx.GraphModule, model: nn.Module) -> None:
    buffers = {buffer.data_ptr(): name for name, buffer in model.named_buffers() if buffer.numel()}
    for node in _mutations(graph):
        changed = node.args[0]
        if isinstance(changed, fx.Node) and changed.op == "get_attr":
            name = buffers.get(getattr(graph, str(changed.target)).data_ptr(), str(changed.target))
            raise UserError(
                f"the model changes its buffer {name!r} while training; programs have no such state"
            )


def _without_random(model: nn.Module) -> str:
    """Return what makes a model draw no random numbers, as far as its config or its modules tell."""
    config: Any = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    keys = [
        key
        for key, value in settings.items()
        if ("drop" in key or "jitter" in key) and isinstance(value, float) and value > 0
    ]
    if keys:
        return f"set to 0 in the model's config: {', '.join(sorted(keys))}"
    if any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in model.modules()):
        return "set the model's dropout to 0"
    return "the model draws them whatever its settings, so it has no exact form"


def _check_model(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.modules.batchnorm._NormBase)
            and module.training
            and module.track_running_stats
        ):
            raise UserError(
                f"module {name!r} ({type(module).__name__}) changes its buffers while training; "
                "set track_running_stats=False, or use GroupNorm or LayerNorm"
            )
    if not trained_parameters(model):
        raise UserError("all of the model's parameters are frozen; leave one to train")
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise UserError(f"parameter {name!r} is {parameter.dtype}; make the model float32")
