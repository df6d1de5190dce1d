"""Building a program node by node: equal nodes are made once, dead ones dropped, and values numbered at the end."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from trainer.programs.conversion import from_torch
from trainer.programs.kernels import TORCH_DTYPES
from trainer.programs.operators import infer
from verification.arithmetic.numbers import FLOAT
from verification.arithmetic.places import Spec
from verification.arithmetic.shapes import DEFAULT_BITS, broadcast
from verification.operators import ARITHMETIC, OPERATORS
from verification.program import VERSION, Node, Output, Port, Program, check_program
from verification.tensors import Tensor
from verification.units import Count


@dataclass(frozen=True)
class Value:
    """A value of the program being built; `serial` is its number in the order of creation."""

    serial: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def spec(self) -> Spec:
        """Its dtype and shape."""
        return Spec(self.dtype, self.shape)


@dataclass
class Builder:
    """Collects inputs, constants and nodes; `finish` returns the program. `bits` is the precision of its products."""

    bits: int = DEFAULT_BITS
    ports: list[Port] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    constants: dict[int, Tensor] = field(default_factory=dict)
    nodes: dict[int, tuple[Node, tuple[Value, ...]]] = field(default_factory=dict)
    long_tailed: set[int] = field(default_factory=set)
    """Serials of values whose rows' many small numbers count as much as the few large ones."""
    _known: dict[object, Value] = field(default_factory=dict)
    _count: int = 0

    def port(self, name: str, dtype: str, shape: Sequence[int]) -> Value:
        """Declare the next input."""
        value = self._value(dtype, tuple(shape))
        self.ports.append(Port(name, dtype, _counts(shape)))
        self.inputs.append(value)
        return value

    def constant(self, tensor: torch.Tensor) -> Value:
        """Return a constant; along dimensions where it repeats itself it is stored once and expanded."""
        dense = tensor.detach().contiguous()
        shape = tuple(dense.shape)
        for dim, size in enumerate(shape):
            if size > 1 and bool((dense == dense.narrow(dim, 0, 1)).all()):
                dense = dense.narrow(dim, 0, 1).contiguous()
        if dense.numel() == 1:
            dense = dense.reshape(())
        stored = from_torch(dense)
        if stored not in self._known:
            value = self._value(stored.dtype, stored.shape)
            self._known[stored] = value
            self.constants[value.serial] = stored
        return self.expand(self._known[stored], shape)

    def scalar(self, number: float, dtype: str = FLOAT) -> Value:
        """Return a 0-d constant; a float is rounded to float32 once, here."""
        return self.constant(torch.tensor(number, dtype=TORCH_DTYPES[dtype]))

    def emit(
        self,
        operator: str,
        *inputs: Value,
        dtype: str | None = None,
        shape: Sequence[int] | None = None,
        **attributes: int | Sequence[int],
    ) -> Value:
        """Add a node (or return the equal one); `dtype` and `shape` are for operators that declare theirs."""
        if operator in OPERATORS and OPERATORS[operator].broadcasts:
            # An expansion in front of it is only a cost.
            inputs = self._without_expansions(inputs)
        packed = tuple(
            (name, (number,) if isinstance(number, int) else tuple(number))
            for name, number in sorted(attributes.items())
        )
        declared = Spec(dtype or inputs[0].dtype, tuple(inputs[0].shape if shape is None else shape))
        draft = Node(operator, (), packed, declared.dtype, _counts(declared.shape))
        made = infer(draft, [value.spec for value in inputs])
        node = Node(operator, (), packed, made.dtype, _counts(made.shape))
        key = (node, tuple(value.serial for value in inputs))
        if key not in self._known:
            value = self._value(made.dtype, made.shape)
            self._known[key] = value
            self.nodes[value.serial] = (node, inputs)
        return self._known[key]

    def made_by(self, value: Value, operator: str) -> tuple[Node, tuple[Value, ...]] | None:
        """Return the node and inputs that made `value` when its operator is `operator`."""
        made = self.nodes.get(value.serial)
        return made if made is not None and made[0].operator == operator else None

    def finish(self, role: str, outputs: Sequence[tuple[str, Value]]) -> Program:
        """Return the checked program: live values only, in the order of their creation."""
        live: set[int] = set()
        waiting = [value.serial for _, value in outputs]
        while waiting:
            serial = waiting.pop()
            if serial not in live:
                live.add(serial)
                waiting += [value.serial for value in self.nodes[serial][1]] if serial in self.nodes else []
        constants = [serial for serial in self.constants if serial in live]
        nodes = [serial for serial in self.nodes if serial in live]
        order = [value.serial for value in self.inputs] + constants + nodes
        number = {serial: Count(place) for place, serial in enumerate(order)}
        program = Program(
            VERSION,
            ARITHMETIC,
            role,
            tuple(self.ports),
            tuple(self.constants[serial] for serial in constants),
            tuple(_numbered(*self.nodes[serial], number) for serial in nodes),
            tuple(Output(name, number[value.serial]) for name, value in outputs),
        )
        check_program(program)
        return program

    # Shorthands that lowerings and optimisers share.

    def add(self, left: Value, right: Value) -> Value:
        """left + right."""
        return self.emit("add", left, right)

    def subtract(self, left: Value, right: Value) -> Value:
        """left - right."""
        return self.emit("subtract", left, right)

    def multiply(self, left: Value, right: Value) -> Value:
        """left * right."""
        return self.emit("multiply", left, right)

    def divide(self, left: Value, right: Value) -> Value:
        """left / right."""
        return self.emit("divide", left, right)

    def cast(self, value: Value, dtype: str) -> Value:
        """`value` as `dtype`; nothing when it is that already."""
        return value if value.dtype == dtype else self.emit("cast", value, dtype=dtype)

    def view(self, value: Value, shape: Sequence[int]) -> Value:
        """`value` under another shape; a view of a view is one view, and one that changes nothing is none."""
        if made := self.made_by(value, "view"):
            value = made[1][0]
        return value if value.shape == tuple(shape) else self.emit("view", value, shape=shape)

    def expand(self, value: Value, shape: Sequence[int]) -> Value:
        """`value` repeated to `shape`."""
        return value if value.shape == tuple(shape) else self.emit("expand", value, shape=shape)

    def permute(self, value: Value, dims: Sequence[int]) -> Value:
        """`value` with its dimensions in the order `dims`; two permutations become one."""
        if made := self.made_by(value, "permute"):
            inner = dict(made[0].attributes)["dims"]
            value, dims = made[1][0], [inner[dim] for dim in dims]
        return value if list(dims) == list(range(len(dims))) else self.emit("permute", value, dims=dims)

    def slice(self, value: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
        """Indices start, start + step, ... below stop of dimension `dim`."""
        if (start, stop, step) == (0, value.shape[dim], 1):
            return value
        return self.emit("slice", value, dim=dim, start=start, stop=stop, step=step)

    def total(self, value: Value) -> Value:
        """Return the sum of all elements, 0-d."""
        if not value.shape:
            return value
        return self.emit("sum", value, dims=range(len(value.shape)), keepdim=0)

    def matmul(self, left: Value, right: Value) -> Value:
        """[..., M, K] by [..., K, N], as row exponents, operands quantised to `bits` and an exact product.

        A left operand with long tails is the sum of two: rounded to zero, its tails would all err to the same side.
        """
        if not self._is_long_tailed(left):
            return self._product(left, right)
        high, low = self._halves(left)
        return self.add(self._product(high, right), self._product(low, right))

    def _is_long_tailed(self, value: Value) -> bool:
        made = self.made_by(value, "view")
        source = made[1][0] if made else value
        return source.serial in self.long_tailed and source.shape[-1] == value.shape[-1]

    def _halves(self, value: Value) -> tuple[Value, Value]:
        """Return a value in two parts whose sum it is; the first survives its quantisation by rows unchanged.

        A large number added and taken away again leaves multiples of its own last bit (Dekker, "A floating-point
        technique for extending the available precision", 1971): it is so large that they have `bits` - 1 bits at most.
        """
        largest = self.emit("amax", self.emit("absolute", value), dims=[len(value.shape) - 1], keepdim=1)
        anchor = self.multiply(largest, self.scalar(1.5 * 2.0 ** (26 - self.bits)))
        high = self.subtract(self.add(value, anchor), anchor)
        return high, self.subtract(value, high)

    def _product(self, left: Value, right: Value) -> Value:
        left_integers, left_exponent = self._quantised(left, len(left.shape) - 1)
        right_integers, right_exponent = self._quantised(right, len(right.shape) - 2)
        return self.emit(
            "product", left_integers, left_exponent, right_integers, right_exponent, bits=self.bits
        )

    def _quantised(self, value: Value, dim: int) -> tuple[Value, Value]:
        # A permuted tensor is quantised under its permutation, so both directions share the node.
        dims = list(range(len(value.shape)))
        if made := self.made_by(value, "permute"):
            dims, value = list(dict(made[0].attributes)["dims"]), made[1][0]
        dim = dims[dim]
        exponent = self.emit("row_exponent", value, dim=dim)
        integers = self.emit("quantise", value, exponent, dim=dim, bits=self.bits)
        return self.permute(integers, dims), self.permute(exponent, dims)

    def _without_expansions(self, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        wanted = broadcast([value.shape for value in inputs])
        kept = list(inputs)
        for place, value in enumerate(inputs):
            if made := self.made_by(value, "expand"):
                trial = [*kept[:place], made[1][0], *kept[place + 1 :]]
                if broadcast([value.shape for value in trial]) == wanted:
                    kept = trial
        return tuple(kept)

    def _value(self, dtype: str, shape: tuple[int, ...]) -> Value:
        self._count += 1
        return Value(self._count, dtype, tuple(int(size) for size in shape))


def _counts(shape: Sequence[int]) -> tuple[Count, ...]:
    return tuple(Count(int(size)) for size in shape)


def _numbered(node: Node, inputs: Sequence[Value], number: dict[int, Count]) -> Node:
    sources = tuple(number[value.serial] for value in inputs)
    return Node(node.operator, sources, node.attributes, node.dtype, node.shape)
