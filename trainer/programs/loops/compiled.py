"""A program on compiled loops: the plan of `fusion`, the C of `emit`, the memory of `arena`."""

import ctypes
import mmap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from trainer import exact
from trainer.exact import native
from trainer.exact.native import CannotCompile
from trainer.programs.kernels import TORCH_DTYPES, Kernel, KernelFailed
from trainer.programs.loops import arena, emit, fusion, layouts
from trainer.programs.loops.arena import Ground, Life
from trainer.programs.loops.groups import Group, LoopStep, Operand, Step
from trainer.programs.loops.layouts import Layout
from verification.program import Program, first_node, values, work_units

WORTHWHILE = 10**10
"""Work units from which an inner step is compiled. Building takes seconds once per machine; a step of this size takes
some tenths of a second, of which loops save a part that repays it in a round. A demo's tiny models stay below."""

MAX_NODES = 1 << 16
"""Planning takes some tens of seconds for so many; a Llama of 80 layers has about 35,000."""
MAX_TEXT = 1 << 20
"""Characters of C, for which a compiler takes minutes: a Llama of any depth needs 70,000, its layers being alike."""
SMALL = 1 << 15
"""Elements below which a loop runs on one thread."""


def worthwhile(program: Program) -> bool:
    """Return whether compiling pays: a program that runs many times, on much."""
    return program.role == "inner" and work_units(program) >= WORTHWHILE


class CheckFailed(ArithmeticError):
    """A check in a compiled loop failed; the operators' own kernels say which, and whether the step ends."""


@dataclass(frozen=True)
class _Loop:
    """A group ready to call: its function, and the places of its buffers among all."""

    group: Group
    call: Callable[[int, object, int], int]
    places: object
    large: bool
    ending: tuple[int, ...]


@dataclass
class _Call:
    """A step ready to call; `prepared` does a product whose operands and result stay where they are."""

    step: Step
    kernel: Kernel
    in_arena: bool
    ending: tuple[int, ...]
    prepared: Callable[[], object] | None = None


class CompiledProgram:
    """Runs a checked program on compiled loops; one run at a time, for its arena is one.

    `kernels` are the nodes' own, for what no loop does; `products` choose what multiplies in the arena. Where a program
    `is_part` of another its outputs may hold anything. Programs on one `ground` share their memory. Raises
    native.CannotCompile.
    """

    def __init__(
        self,
        program: Program,
        kernels: Sequence[Kernel],
        constants: Sequence[torch.Tensor],
        products: exact.Products,
        is_part: bool = False,
        ground: Ground | None = None,
    ) -> None:
        self._program = program
        self._is_part = is_part
        self._kernels = kernels
        self._products = products
        self._first = first_node(program)
        if len(program.nodes) > MAX_NODES:
            raise CannotCompile(
                f"the program has {len(program.nodes)} nodes, limit for compiling {MAX_NODES}"
            )
        self._plan = fusion.plan(program)
        self._results = {self._plan.places[output.source].root for output in program.outputs}
        self._loops = {
            number for work in self._plan.steps if isinstance(work, Group) for number in work.makes
        }
        self._sizes, self._dtypes = self._buffers()
        self._prepared = self._products_in_arena()
        self._places, self._within, self.arena_bytes = self._arranged()
        self._over = self._results_over_inputs()
        made = self._results & self._loops
        self._all_results, self._new_results = self._beside(made), self._beside(made - self._over.keys())
        self._slot = {number: place for place, number in enumerate(self._sizes)}
        self._slots = (ctypes.c_void_p * len(self._slot))()
        self._library, calls = self._build()
        self._work = self._bind(calls)
        self._constants = {
            len(program.inputs) + place: constant.contiguous() for place, constant in enumerate(constants)
        }
        self._held = dict(self._constants)
        self._ground = ground or Ground()
        self._memory: mmap.mmap | None = None
        self._arena: torch.Tensor | None = None
        self._views: dict[Operand, torch.Tensor] = {}

    @property
    def memory_bytes(self) -> int:
        """What a run holds at most: the arena, inputs, constants, results, and what steps make outside the arena."""
        outside = (number for number in self._sizes if number not in self._places)
        return self.arena_bytes + sum(self._bytes(n) for n in outside)

    def run(
        self,
        inputs: Sequence[torch.Tensor],
        tap: Callable[[int, torch.Tensor], None] | None = None,
        *,
        spends: bool = False,
    ) -> list[torch.Tensor]:
        """Return the outputs; a `tap` hears the number and result of every node whose result is kept.

        Outputs share one block of memory: who keeps one of them keeps all. A run that `spends` writes outputs over the
        inputs where it can: nobody may read those again, even when it raises.
        Raises CheckFailed where the step may have to end.
        """
        self._start(inputs, spends)
        table, threads = ctypes.addressof(self._slots), torch.get_num_threads()
        try:
            for work in self._work:
                if isinstance(work, _Loop):
                    if work.call(table, work.places, threads if work.large else 1):
                        raise CheckFailed
                else:
                    self._step(work)
                if tap is not None:
                    for number in work.group.makes if isinstance(work, _Loop) else work.step.makes:
                        tap(number, self._tensor(self._plan.places[number]))
                for number in work.ending:
                    self._held.pop(number, None)
            return [self._output(output.source) for output in self._program.outputs]
        except (exact.NonFinite, KernelFailed) as error:
            raise CheckFailed from error
        finally:
            self._held = dict(self._constants)

    def rest(self) -> None:
        """Give the memory of the arena, and of results that nobody has, back to the system until the next run."""
        self._ground.rest()

    def _settle(self) -> None:
        """Have the arena where the ground has it now; what is prepared lies where it was."""
        memory = self._ground.arena(self.arena_bytes)
        if memory is self._memory:
            return
        self._memory, self._arena = memory, torch.frombuffer(memory, dtype=torch.uint8)
        self._views = {}
        for number, place in self._places.items():
            self._slots[self._slot[number]] = self._arena.data_ptr() + place
        for work in self._work:
            if isinstance(work, _Call):
                work.prepared = None

    def _start(self, inputs: Sequence[torch.Tensor], spends: bool) -> None:
        self._settle()
        for number, tensor in [*enumerate(inputs), *self._constants.items()]:
            self._hold(number, tensor.contiguous())
        places, size = self._new_results if spends else self._all_results
        results = self._ground.block(size)
        for number, place in places.items():
            self._hold(number, results[place : place + self._bytes(number)].view(self._dtypes[number]))
        for number, given in self._over.items() if spends else ():
            self._hold(number, self._held[given].flatten())

    def _step(self, work: _Call) -> None:
        if work.in_arena:
            if work.prepared is None:
                work.prepared = self._prepare(work.step)
            work.prepared()
        else:
            made = work.kernel(*[self._tensor(operand) for operand in work.step.operands])
            self._hold(work.step.number, made.contiguous())

    def _prepare(self, step: Step) -> Callable[[], object]:
        """Return what does a product in the arena; the scales are made anew from the exponents at every run."""
        shape = layouts.contiguous(step.node.shape)
        left, left_exponent, right, right_exponent, result = (
            self._tensor(operand).flatten(0, -3) if len(step.node.shape) > 2 else self._tensor(operand)[None]
            for operand in (*step.operands, Operand(step.number, shape))
        )
        exponents = left_exponent[:, :, 0], right_exponent[:, 0]
        scales = [torch.empty(exponent.shape, dtype=torch.float64) for exponent in exponents]
        bits = _bits(step)
        arguments = [
            (exponent.data_ptr(), *exponent.shape, *exponent.stride(), bits, scale.data_ptr())
            for exponent, scale in zip(exponents, scales, strict=True)
        ]

        @cache
        def ready(name: str) -> Callable[[], None]:
            prepare = exact.BACKENDS[name].prepare
            assert prepare is not None
            return prepare(left, right, scales[0], scales[1], result, bits)

        def run(name: str | None = None) -> torch.Tensor:
            for one in arguments:
                self._library.scales(*one)
            (ready(name) if name else multiply)()
            return result

        multiply = ready(self._products.choose(left, right, bits, run, prepared=True))
        return run

    def _hold(self, number: int, tensor: torch.Tensor) -> None:
        self._held[number] = tensor
        self._slots[self._slot[number]] = tensor.data_ptr()

    def _tensor(self, operand: Operand) -> torch.Tensor:
        """Return a value as a tensor: of what is held, else of the arena, whose views stay."""
        held = self._held.get(operand.root)
        if held is not None:
            return _strided(held, operand.layout)
        if operand in self._views:
            return self._views[operand]
        assert self._arena is not None
        start = self._places[operand.root]
        flat = self._arena[start : start + self._bytes(operand.root)].view(self._dtypes[operand.root])
        made = _strided(flat, operand.layout)
        if made.untyped_storage().data_ptr() == self._arena.untyped_storage().data_ptr():
            self._views[operand] = made  # else it is a copy, which would be stale in the next run
        return made

    def _output(self, source: int) -> torch.Tensor:
        place = self._plan.places[source]
        result = self._tensor(place).contiguous()
        is_checked = self._is_part or place.root in self._loops  # loops check what they make
        if source >= self._first and not is_checked:
            exact.require_finite(result)
        return result

    def _buffers(self) -> tuple[dict[int, int], dict[int, torch.dtype]]:
        """Return the elements and dtype of every buffer."""
        known = values(self._program)
        numbers = [*range(self._first), *(number for work in self._plan.steps for number in work.makes)]
        sizes = {number: torch.Size(known[number].shape).numel() for number in numbers}
        return sizes, {number: TORCH_DTYPES[known[number].dtype] for number in numbers}

    def _bytes(self, number: int) -> int:
        return self._sizes[number] * self._dtypes[number].itemsize

    def _products_in_arena(self) -> set[Step]:
        """Return the products whose operands all stay where they are, for which a backend can be prepared: they come
        from loops or are constants."""
        inputs = len(self._program.inputs)
        still = (self._loops - self._results) | set(range(inputs, self._first))
        return {
            work
            for work in self._plan.steps
            if isinstance(work, Step)
            and work.node.operator == "product"
            and work.number not in self._results
            and all(o.root in still and _even(o.layout) for o in work.operands)
            and self._products.prepares(_bits(work), work.operands[0].layout.shape[-1])
        }

    def _results_over_inputs(self) -> dict[int, int]:
        """Return the outputs that a loop can write over the input at the same place in the program's order."""
        steps, last, over = self._plan.steps, arena.last_steps(self._plan.steps), dict[int, int]()
        passed = {self._plan.places[output.source].root for output in self._program.outputs}
        makers = {n: (at, work) for at, work in enumerate(steps) for n in work.makes}
        for given, output in zip(range(len(self._program.inputs)), self._program.outputs, strict=False):
            number = self._plan.places[output.source].root
            at, maker = makers.get(number, (0, None))
            if (
                maker is not None
                and given not in passed
                and last.get(given, 0) <= at
                and self._fits_over(maker, number, given)
            ):
                over.setdefault(number, given)
        return over

    def _beside(self, made: Collection[int]) -> tuple[dict[int, int], int]:
        """Return the places of buffers that all live to the end, and the bytes of a block for them."""
        return arena.arrange([Life(self._bytes(n), 0, 0, n) for n in sorted(made)])

    def _arranged(self) -> tuple[dict[int, int], dict[int, int], int]:
        """Return the place of each buffer in the arena, which of them takes the place of one that its loop reads last,
        and the arena's bytes."""
        lives, within, heads = (
            {life.number: life for life in self._lives()},
            dict[int, int](),
            dict[int, int](),
        )
        for step, work in enumerate(self._plan.steps):
            ended = {given for given in work.reads if given in lives and lives[given].last == step}
            for number in work.makes:
                fits = (given for given in sorted(ended) if self._fits_over(work, number, given))
                if number in lives and (given := next(fits, None)) is not None:
                    ended.remove(given)
                    within[number], heads[number] = given, heads.get(given, given)
        whole = {number: life for number, life in lives.items() if number not in within}
        for number, head in heads.items():
            whole[head] = whole[head]._replace(last=max(whole[head].last, lives[number].last))
        places, size = arena.arrange(list(whole.values()))
        return places | {number: places[head] for number, head in heads.items()}, within, size

    def _fits_over(self, work: LoopStep, number: int, given: int) -> bool:
        """Return whether a loop can write a buffer over one that nothing reads later."""
        same = (self._sizes[given], self._dtypes[given]) == (self._sizes[number], self._dtypes[number])
        return isinstance(work, Group) and same and emit.goes_over(work, number, given)

    def _lives(self) -> list[Life]:
        last = arena.last_steps(self._plan.steps)
        return [
            Life(self._bytes(number), place, last[number], number)
            for place, work in enumerate(self._plan.steps)
            if isinstance(work, Group) or work in self._prepared
            for number in work.makes
            if number not in self._results
        ]

    def _build(self) -> tuple[ctypes.CDLL, list[emit.Call]]:
        """Return the compiled loops, and per group its function's name and buffers."""
        groups = [work for work in self._plan.steps if isinstance(work, Group)]
        source, calls = emit.write(groups, () if self._is_part else self._results, self._over | self._within)
        if len(source) > MAX_TEXT:
            raise CannotCompile(f"its loops have {len(source)} characters, limit for compiling {MAX_TEXT}")
        library = native.build(source)
        long, pointer = ctypes.c_long, ctypes.c_void_p
        library.scales.argtypes = (pointer, long, long, long, long, ctypes.c_int, pointer)
        library.scales.restype = None
        return library, calls

    def _bind(self, calls: Sequence[emit.Call]) -> list[_Loop | _Call]:
        """Return all steps ready to call, each with the buffers that are not needed after it."""
        steps = self._plan.steps
        ending: list[list[int]] = [[] for _ in steps]
        for number, place in arena.last_steps(steps).items():
            if number >= self._first and number not in self._results:
                ending[place].append(number)
        waiting = iter(calls)
        bound: list[_Loop | _Call] = []
        for work, ends in zip(steps, map(tuple, ending), strict=True):
            if isinstance(work, Group):
                bound.append(self._loop(work, *next(waiting), ends))
            else:
                kernel = self._kernels[work.number - self._first]
                bound.append(_Call(work, kernel, work in self._prepared, ends))
        return bound

    def _loop(self, group: Group, name: str, buffers: tuple[int, ...], ending: tuple[int, ...]) -> _Loop:
        call = getattr(self._library, name)
        call.argtypes, call.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int), ctypes.c_int
        places = (ctypes.c_int * len(buffers))(*[self._slot[number] for number in buffers])
        large = group.rows * group.columns * max(group.depth, 1) >= SMALL
        return _Loop(group, call, places, large, ending)


def _bits(step: Step) -> int:
    return dict(step.node.attributes)["bits"][0]


def _even(layout: Layout) -> bool:
    """Return whether all but the last two dimensions are one run and those two are one each."""
    batch = Layout(0, layout.dims[:-2]).runs
    return len(batch) <= 1 and all(len(Layout(0, (dim,)).runs) <= 1 for dim in layout.dims[-2:])


def _strided(flat: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return the elements of a buffer in a layout: a view where torch has one, else a copy."""
    shape = layout.shape
    if layout == layouts.contiguous(shape) and flat.numel() == torch.Size(shape).numel():
        return flat.view(shape)
    return _runs(flat, layout).reshape(shape)


def _runs(flat: torch.Tensor, layout: Layout) -> torch.Tensor:
    runs = [run for dim in layout.dims for run in dim]
    start = flat.storage_offset() + layout.offset
    return flat.as_strided([size for size, _ in runs], [stride for _, stride in runs], start)
