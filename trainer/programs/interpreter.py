"""The interpreter: checks a program once, then executes its nodes in order and frees each value after its last use.

Two ways of executing give the same bits: node by node on the operators' own kernels, which is the reference, and on
compiled loops, whose first outputs must be the reference's.
"""

import contextlib
import ctypes
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from trainer import exact
from trainer.exact.native import CannotCompile
from trainer.programs.conversion import seen_by_law, to_torch
from trainer.programs.devices import products_for
from trainer.programs.folding import Folded, fold
from trainer.programs.kernels import DTYPE_NAMES, Kernel, KernelFailed
from trainer.programs.loops import compiled as compilation
from trainer.programs.loops.arena import Ground
from trainer.programs.loops.compiled import CheckFailed, CompiledProgram
from trainer.programs.operators import bind
from trainer.programs.options import NODE_BY_NODE, Loops, RunOptions
from verification.arithmetic.places import Spec
from verification.errors import BadEvidence, Malformed
from verification.library import StepFailed
from verification.operators import ARITHMETIC
from verification.program import (
    Node,
    Program,
    check_program,
    first_node,
    last_uses,
    require_affordable,
    tables,
    values,
)
from verification.tensors import tensor_digest
from verification.units import Digest

Tap = Callable[[int, torch.Tensor], None]
"""Called with a node's number and what it made, even if that is an output that ends the step."""

NodeStep = tuple[Kernel, tuple[int, ...], tuple[int, ...]]
"""A node's kernel, its inputs' numbers, and the numbers of the values that end with it."""


@dataclass(frozen=True)
class Nodes:
    """A program's nodes ready to run one by one: `numbers` are their own in the program that was loaded, and `outputs`
    the names of the values that must be finite."""

    constants: Sequence[torch.Tensor]
    steps: Sequence[NodeStep]
    numbers: Sequence[int]
    outputs: Mapping[int, str]


GIVEN_BACK = ((-4, 1 << 16), (-3, 1 << 20), (-1, 1 << 20), (-2, 0))
"""glibc's M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD: pieces of a MiB or more lie apart."""

LOWEST_EXPONENT, HIGHEST_EXPONENT = -148, 128
"""What `exact.row_exponent` gives."""


class NoLoops(RuntimeWarning):
    """A program runs node by node though compiled loops were wanted: the same bits, more slowly."""


class LoadedProgram:
    """A checked program, ready to run; holds its constants as tensors on the options' device, folded (`folding`).

    `products` do its products, by default new ones for the options. Loops.ALWAYS raises CannotCompile (a UserError)
    where there are no compiled loops; Loops.WORTHWHILE compiles what is worth it (`compilation.worthwhile`) if it can.
    A program that `is_part` of a checked one may read integers and exponents and make infinities and NaN, and is
    compiled if the options let it. Programs on one `ground`, of which one runs at a time, share their loops' memory.
    The first run compares the loops' outputs with those of the nodes' own kernels; on a difference the loops are
    dropped with a NoLoops warning. `refused` says in one line why there are none though they were wanted, or nothing.

    Raises Malformed (unknown operator, wrong shape, dtype or attribute, unknown arithmetic) or Refused (more memory
    than the options allow) with the node's number, before anything runs; UserError as `products_for`.
    """

    def __init__(
        self,
        program: Program,
        options: RunOptions = NODE_BY_NODE,
        products: exact.Products | None = None,
        is_part: bool = False,
        ground: Ground | None = None,
    ) -> None:
        self.program = program
        self.ground = ground or Ground()
        """Where its loops have their memory."""
        self.first = first_node(program)
        self.products = products or products_for(options)
        self.device = self.products.device
        self._is_part = is_part
        kernels = bound(program, self.products, is_part)
        require_affordable(program, options.room)
        self._folded = fold(program, kernels, self.device)
        self._tables = tables(program)
        if self._is_folded:
            kernels = _bind(self._folded.program, self.products)
        self._nodes = self._ready(self._folded, kernels)
        self.refused = ""
        self._compiled = self._compile(kernels, options, is_part)
        self._certified = False

    @property
    def is_compiled(self) -> bool:
        """Whether runs use compiled loops."""
        return self._compiled is not None

    @property
    def _is_folded(self) -> bool:
        return self._folded.program is not self.program

    def run(self, inputs: Sequence[torch.Tensor], tap: Tap | None = None) -> list[torch.Tensor]:
        """Return the outputs in their order; inputs are not changed, and an output may be one of them.

        Inputs elsewhere are copied to the program's device, where the outputs are, but for `tables`. With a `tap` every
        node runs by itself. Raises BadEvidence when an input has not its port's dtype and shape, StepFailed with a
        node's number when the arithmetic ends the step: an operator's own rule, or an output that holds NaN or
        infinity.
        """
        self.check_inputs(inputs)
        inputs = self._at_hand(inputs)
        if self._compiled is None or tap is not None:
            return self._run_nodes(inputs, tap)
        if not self._certified:
            return self._run_both(self._compiled, inputs)
        try:
            return self._apart(self._compiled.run(inputs))
        except CheckFailed:
            made = self._run_nodes(inputs)  # which says where the step ends
        self._drop_loops("a compiled loop fails where the nodes' own kernels do not")
        return made

    def advance(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the outputs, written over inputs on the program's device where they can be: no one may read them then.

        Raises as `run`, and CheckFailed, with the inputs lost, where the loops may have to end or are not exact: `run`
        says which.
        """
        if self._compiled is None:
            return self.run(inputs)
        self.check_inputs(inputs)
        expected = None if self._certified else self._by_nodes(inputs, self.products)
        made = self._apart(self._compiled.run(inputs, spends=True))
        if expected is not None and _digests(made) != expected:
            raise CheckFailed
        self._certified = True
        return made

    def rest(self) -> None:
        """Give back to the system what compiled loops hold between two runs."""
        if self._compiled is not None:
            self._compiled.rest()

    def _at_hand(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [
            tensor if number in self._tables else tensor.to(self.device)
            for number, tensor in enumerate(inputs)
        ]

    def check_inputs(self, inputs: Sequence[torch.Tensor]) -> None:
        """Raise BadEvidence unless the inputs have the ports' dtypes and shapes."""
        check_inputs(self.program, inputs)

    def again(self, inputs: Sequence[torch.Tensor]) -> list[Digest]:
        """Return the outputs' digests, made in another way: node by node, with new products of the trusted backend.

        Raises as `run`.
        """
        self.check_inputs(inputs)
        self.rest()
        return self._by_nodes(self._at_hand(inputs), exact.Products(self.device, exact.TRUSTED))

    def _ready(self, folded: Folded, kernels: Sequence[Kernel], keeps: bool = True) -> Nodes:
        """Return nodes that can run; what the last of them leaves are the outputs, if it `keeps` them."""
        program, first = folded.program, first_node(folded.program)
        last = last_uses(program if keeps else replace(program, outputs=()))
        names = {} if self._is_part else {int(output.source): output.name for output in program.outputs}
        return Nodes(folded.constants, plan(program, kernels, last), folded.numbers[first:], names)

    def _all_nodes(self, products: exact.Products, keeps: bool = True) -> Nodes:
        """Return every node, what is folded among them, with the constants that it reads."""
        whole = Folded(self.program, tuple(self._all_constants()), range(len(values(self.program))))
        return self._ready(whole, _bind(self.program, products), keeps)

    def _all_constants(self) -> list[torch.Tensor]:
        """Return all constants: those that are held, and the rest anew."""
        held = dict(
            zip(self._folded.numbers[len(self.program.inputs) :], self._folded.constants, strict=False)
        )
        return [
            held[number] if number in held else to_torch(constant).to(self.device)
            for number, constant in enumerate(self.program.constants, len(self.program.inputs))
        ]

    def _compile(
        self, kernels: Sequence[Kernel], options: RunOptions, is_part: bool
    ) -> CompiledProgram | None:
        needed = options.loops is Loops.ALWAYS
        pays = is_part or compilation.worthwhile(self.program)
        if not (needed or (options.loops is Loops.WORTHWHILE and pays)):
            return None
        try:
            if self.device.type != "cpu":
                raise CannotCompile(f"compiled loops run on the CPU only, not on {self.device}")
            folded = self._folded
            made = CompiledProgram(
                folded.program, kernels, folded.constants, self.products, is_part, self.ground
            )
            if options.room is not None and made.memory_bytes > options.room:
                raise CannotCompile(f"compiled loops need {made.memory_bytes} bytes, limit {options.room}")
            return made
        except CannotCompile as error:
            if needed:
                raise
            self._drop_loops(str(error))
            return None

    def _run_both(self, loops: CompiledProgram, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the loops' outputs if they are the nodes' own; else drop the loops and return what the nodes make.

        The nodes share nothing with the loops' plan. They go first, and only digests of their outputs stay: so the two
        ways' memory is never held together, and a step that ends says where before a loop has run.
        """
        expected = self._by_nodes(inputs, self.products)
        made: list[torch.Tensor] = []
        with contextlib.suppress(CheckFailed):
            made = self._apart(loops.run(inputs))
        if _digests(made) == expected:
            self._certified = True
            return made
        del made
        self._drop_loops(
            f"the compiled loops are not exact here, first {self._first_difference(loops, inputs)}"
        )
        return self._run_nodes(inputs)

    def _first_difference(self, loops: CompiledProgram, inputs: Sequence[torch.Tensor]) -> str:
        """Return the first node, in the loops' order, whose kept result is not what its own kernel makes."""
        right: dict[int, Digest] = {}
        wrong: list[int] = []

        def compare(number: int, made: torch.Tensor) -> None:
            if not wrong and _digests([made]) != [right[self._folded.numbers[number]]]:
                wrong.append(self._folded.numbers[number])

        self._run_nodes(inputs, lambda number, made: right.update({number: _digests([made])[0]}))
        with contextlib.suppress(CheckFailed):
            loops.run(inputs, compare)
        if not wrong:
            return "in a check or an output"
        return f"node {wrong[0]} ({self.program.nodes[wrong[0] - self.first].operator})"

    def _drop_loops(self, reason: str) -> None:
        self._compiled, self.refused = None, reason
        warnings.warn(f"running node by node: {reason}", NoLoops, stacklevel=4)

    def _run_nodes(self, inputs: Sequence[torch.Tensor], tap: Tap | None = None) -> list[torch.Tensor]:
        """Return the outputs; with a `tap` what is folded runs too."""
        if self._is_folded and tap is not None:
            known, program = _known_after(self._all_nodes(self.products), inputs, tap), self.program
        else:
            known, program = _known_after(self._nodes, inputs, tap), self._folded.program
        return self._apart([_present(known[output.source]).contiguous() for output in program.outputs])

    def _apart(self, made: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return outputs of which none lies in a constant: `advance` may write over them."""
        constants = {storage_of(constant) for constant in self._folded.constants}
        return [tensor.clone() if storage_of(tensor) in constants else tensor for tensor in made]

    def _by_nodes(self, inputs: Sequence[torch.Tensor], products: exact.Products) -> list[Digest]:
        """Return the digests of what all nodes make of inputs; each output is dropped when no other node needs it."""
        found: dict[int, Digest] = {}
        sources = [int(output.source) for output in self.program.outputs]

        def note(number: int, made: torch.Tensor) -> None:
            if number in sources:
                found[number] = _digests([made])[0]

        known = _known_after(self._all_nodes(products, keeps=False), inputs, note)
        give_memory_back()
        return [found[n] if n in found else _digests([_present(known[n])])[0] for n in sources]


def _known_after(nodes: Nodes, inputs: Sequence[torch.Tensor], tap: Tap | None) -> list[torch.Tensor | None]:
    """Run nodes; return the values that are left, by number. Raises StepFailed."""
    known: list[torch.Tensor | None] = [*inputs, *nodes.constants]
    for number, (kernel, sources, ending) in zip(nodes.numbers, nodes.steps, strict=True):
        try:
            made = kernel(*[known[source] for source in sources])
            if tap is not None:
                tap(number, made)  # before it is checked: a dispute shows which number ends the step
            if len(known) in nodes.outputs:
                require_finite_output(nodes.outputs[len(known)], made)
        except (exact.NonFinite, KernelFailed) as error:
            raise StepFailed(number, str(error)) from error
        known.append(made)
        for dead in ending:
            known[dead] = None
    return known


def bound(program: Program, products: exact.Products, is_part: bool = False) -> list[Kernel]:
    """Return the kernels of a program's nodes, once it has been checked; raises Malformed as `LoadedProgram`."""
    check_program(program)
    if program.arithmetic != ARITHMETIC:
        raise Malformed(f"unknown arithmetic {program.arithmetic!r}; this version knows {ARITHMETIC!r}")
    if not is_part:
        _check_integers(program)
    return _bind(program, products)


def _bind(program: Program, products: exact.Products) -> list[Kernel]:
    first = first_node(program)
    specs = [Spec(value.dtype, tuple(value.shape)) for value in values(program)]
    return [
        bind(first + place, node, [specs[source] for source in node.inputs], products)
        for place, node in enumerate(program.nodes)
    ]


def part_options(program: Program, options: RunOptions) -> RunOptions:
    """Return how parts of a program run: compiled where the whole is worth it."""
    pays = options.loops is Loops.ALWAYS or compilation.worthwhile(program)
    return options if pays else replace(options, loops=Loops.NEVER)


def storage_of(tensor: torch.Tensor) -> int:
    """Return the place of the memory that a tensor lies in, with all that share it."""
    return tensor.untyped_storage().data_ptr()


def _digests(tensors: Sequence[torch.Tensor]) -> list[Digest]:
    return [tensor_digest(seen_by_law(tensor)) for tensor in tensors]


def give_memory_back() -> None:
    """Return freed memory to the system, where the C library can: a run node by node takes more than the loops will."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_nothing_freed() -> None:
    """Have each large piece of memory go back to the system when it is freed, where the C library can, from now on.

    Peers' processes begin with the contrary (`trainer.compute.children`), which is faster; but pieces of all sizes then
    leave holes, and a process holds more than its programs need.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in GIVEN_BACK:
            mallopt(option, value)


def require_finite_output(name: str, made: torch.Tensor) -> None:
    """Raise KernelFailed for NaN or infinity, with which an output ends the step."""
    try:
        exact.require_finite(made)
    except exact.NonFinite as error:
        raise KernelFailed(f"output {name!r} holds NaN or infinity") from error


def _present(value: torch.Tensor | None) -> torch.Tensor:
    assert value is not None
    return value


def plan(program: Program, kernels: Sequence[Kernel], last: Sequence[int]) -> list[NodeStep]:
    """Return per node its kernel, its inputs' numbers, and the numbers of the values that end with it."""
    first = first_node(program)
    ending: list[list[int]] = [[] for _ in range(len(last) + 1)]
    for number in range(first, len(last)):
        ending[last[number]].append(number)
    return [
        (kernel, tuple(node.inputs), tuple(ending[first + place]))
        for place, (kernel, node) in enumerate(zip(kernels, program.nodes, strict=True))
    ]


def check_inputs(program: Program, inputs: Sequence[torch.Tensor]) -> None:
    """Raise BadEvidence unless tensors have the dtypes and shapes of a program's ports."""
    if len(program.inputs) != len(inputs):
        raise BadEvidence(f"expected {len(program.inputs)} tensors, got {len(inputs)}")
    for place, (port, tensor) in enumerate(zip(program.inputs, inputs, strict=True)):
        wanted = Spec(port.dtype, tuple(port.shape))
        found = Spec(DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))
        if found != wanted:
            raise BadEvidence(
                f"input {place} must be {wanted.dtype}{list(wanted.shape)}, "
                f"got {found.dtype}{list(found.shape)}"
            )


def _check_integers(program: Program) -> None:
    """Check that quantised integers and exponents come from their own operators only.

    A product is exact because its operands keep within their bits, and a quantised row is defined because its exponent
    is its own. Both are checked on the program, once, instead of on the numbers, every time.
    """
    first = first_node(program)
    origin: Mapping[int, Node] = {first + place: node for place, node in enumerate(program.nodes)}
    for number, node in origin.items():
        if node.operator == "quantise":
            source = origin.get(node.inputs[1]) if len(node.inputs) == 2 else None
            wanted = (
                "row_exponent",
                node.inputs[:1],
                tuple(pair for pair in node.attributes if pair[0] == "dim"),
            )
            if source is None or (source.operator, source.inputs, source.attributes) != wanted:
                raise Malformed(
                    f"node {number} (quantise): its exponents are not the row exponents of its tensor"
                )
        if node.operator == "product":
            for place, operator in enumerate(("quantise", "row_exponent") * 2):
                source = _through_permutations(origin, node, place)
                if source is None or source.operator != operator:
                    raise Malformed(f"node {number} (product): input {place} is not made by {operator}")
                if operator == "quantise" and dict(source.attributes).get("bits") != dict(
                    node.attributes
                ).get("bits"):
                    raise Malformed(f"node {number} (product): input {place} has other bits")


def _through_permutations(origin: Mapping[int, Node], node: Node, place: int) -> Node | None:
    if place >= len(node.inputs):
        return None
    source = origin.get(node.inputs[place])
    while source is not None and source.operator == "permute" and len(source.inputs) == 1:
        source = origin.get(source.inputs[0])
    return source
