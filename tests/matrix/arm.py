"""ARM processors under an emulator: kernels compiled as `trainer.exact.native` does it, called over a pipe."""

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from trainer.exact import Products, int8, native
from trainer.exact.backends import Backend
from trainer.exact.c_product import CompiledProduct, Task, text
from trainer.exact.int8 import INT8
from trainer.exact.int16 import INT16
from trainer.exact.native import CannotCompile
from trainer.exact.quantise import BITS_MAX
from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import Tap
from trainer.programs.kernels import TORCH_DTYPES
from trainer.programs.loops import compiled, emit, fusion
from trainer.programs.loops.compiled import CheckFailed
from trainer.programs.loops.groups import Group, Operand, Step
from trainer.programs.operators import bind
from verification.arithmetic.places import Spec
from verification.program import Program, values

DRIVER = Path(__file__).with_name("driver.c")
COMPILERS = {"gcc": ["aarch64-linux-gnu-gcc", "-fopenmp"], "clang": ["clang", "--target=aarch64-linux-gnu"]}
KERNELS = {"int16": INT16, "int8": INT8}
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
ALIGNMENT = 64
THREADS = 2
PRODUCTS = Products()
UNWRITTEN = 0xA5
"""What a buffer holds before a function fills it."""


class Target(NamedTuple):
    """A key of `COMPILERS`, what it compiles for, and the emulator's processor."""

    compiler: str
    march: str
    cpu: str

    def __str__(self) -> str:
        return " ".join(self)


def missing(compiler: str = "gcc") -> str:
    """Say which Debian packages this machine lacks for ARM, or nothing."""
    packages = []
    if shutil.which(COMPILERS["gcc"][0]) is None:
        packages += ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"]
    if shutil.which(COMPILERS[compiler][0]) is None and compiler != "gcc":
        packages.append(compiler)
    if not any(map(shutil.which, EMULATORS)):
        packages.append("qemu-user")
    return f"ARM is emulated: apt-get install {' '.join(packages)}" if packages else ""


def product(kernel: str) -> str:
    """Return the text of a key of `KERNELS`, whose products are called by its name."""
    return f"#define product {kernel}_product\n{text(f'{kernel}.c')}"


def functions(kernel: str) -> tuple[str, ...]:
    """Return the names by which the functions of a key of `KERNELS` are called."""
    return (f"{kernel}_product", *(("instructions",) if kernel == "int8" else ()))


def build(target: Target, texts: Mapping[str, str], names: Sequence[str], folder: Path) -> Path:
    """Return a program for the target whose functions of these names can be called; raises AssertionError."""
    declared = f"long {', '.join(f'{name}()' for name in names)};\n"
    table = f"static long (*const FUNCTIONS[])() = {{{', '.join(names)}}};\n"
    written = {title: native.GUARD + body for title, body in texts.items()}
    written["driver"] = declared + table + DRIVER.read_text("utf-8")
    for title, body in written.items():
        (folder / f"{title}.c").write_text(body, encoding="utf-8")
    kept = [flag for flag in native.FLAGS if flag not in (native.NATIVE, "-fPIC", "-shared")]
    made = folder / f"{target.compiler}-{target.march}"
    command = [*COMPILERS[target.compiler], *kept, f"-march={target.march}", "-static"]
    done = subprocess.run(
        [*command, *(str(folder / f"{title}.c") for title in written), "-o", str(made), "-lm"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return made


class Memory:
    """What a call sees: bytes at the addresses that they have on the other side."""

    def __init__(self, start: int) -> None:
        """The first address."""
        self._start = start
        self.content = bytearray()

    def put(self, data: bytes) -> int:
        """Return the address of a copy."""
        self.content += bytes(-len(self.content) % ALIGNMENT)
        self.content += data
        return self._start + len(self.content) - len(data)

    def tensor(self, value: torch.Tensor) -> int:
        """Return the address of the first element of a tensor, whose strides stay what they are."""
        storage = torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage()).numpy().tobytes()
        return self.put(storage) + value.storage_offset() * value.element_size()

    def room(self, count: int, dtype: torch.dtype) -> int:
        """Return the address of `count` elements that nothing has written."""
        return self.put(bytes([UNWRITTEN]) * (count * dtype.itemsize))

    def read(self, address: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return a flat tensor of what lies at an address."""
        if count == 0:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(self.copy(address, count * dtype.itemsize)), dtype=dtype)

    def copy(self, address: int, size: int) -> bytes:
        """Return what lies at an address."""
        return bytes(self.content[address - self._start :][:size])


class Machine:
    """An emulated processor that runs a program of `build`; `called` counts the calls by name."""

    def __init__(self, process: "subprocess.Popen[bytes]", names: Sequence[str]) -> None:
        """The process has been started."""
        self._process = process
        self._places = {name: place for place, name in enumerate(names)}
        self._start = int.from_bytes(self._receive(8), "little")
        self.called = dict.fromkeys(names, 0)

    def memory(self) -> Memory:
        """Return the memory of a call, empty."""
        return Memory(self._start)

    def call(self, name: str, memory: Memory, *arguments: int) -> int:
        """Return what a function of integers and addresses gives; what it wrote is in the memory then."""
        assert self._process.stdin is not None
        self.called[name] += 1
        filled = [*arguments, *[0] * (7 - len(arguments))]
        self._process.stdin.write(struct.pack("<9q", self._places[name], len(memory.content), *filled))
        self._process.stdin.write(memory.content)
        self._process.stdin.flush()
        result = int.from_bytes(self._receive(8), "little", signed=True)
        memory.content[:] = self._receive(len(memory.content))
        return result

    def _receive(self, count: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(count)
        assert len(data) == count, f"the emulated program ended with {self._process.wait()}"
        return data


@contextmanager
def started(target: Target, program: Path, names: Sequence[str]) -> Iterator[Machine]:
    """Run a program of `build` on the target's processor, and end it."""
    emulator = next(found for name in EMULATORS if (found := shutil.which(name)))
    pipe = subprocess.PIPE
    with subprocess.Popen([emulator, "-cpu", target.cpu, str(program)], stdin=pipe, stdout=pipe) as process:
        try:
            yield Machine(process, names)
        finally:
            assert process.stdin is not None
            process.stdin.close()


class Plan:
    """A program's loops and products for another processor; nodes that are no loop and no product run on this one."""

    def __init__(self, program: Program, kernel: str = "int16", every: bool = False) -> None:
        """`kernel`: a key of `KERNELS`; `every` writes each node's values, not only what others need."""
        self._program, self._plan, self._kernel = program, fusion.plan(program), kernel
        self._known = values(program)
        groups = [work for work in self._plan.steps if isinstance(work, Group)]
        for group in groups:
            group.kept = tuple(group.members) if every else group.kept
        outputs = [self._plan.places[output.source].root for output in program.outputs]
        loops, self._calls = emit.write(groups, outputs, {})
        self.texts = {"loops": loops, kernel: product(kernel)}
        self.names = [*dict.fromkeys(name for name, _ in self._calls), "scales", f"{kernel}_product"]

    def run(
        self, machine: Machine, inputs: Sequence[torch.Tensor], tap: Tap = lambda number, value: None
    ) -> list[torch.Tensor]:
        """Return the outputs; `tap` sees what the nodes made. Raises CheckFailed where the step may have to end."""
        held = dict(enumerate([*inputs, *map(to_torch, self._program.constants)]))
        held = {number: value.contiguous().flatten() for number, value in held.items()}
        calls = iter(self._calls)
        for work in self._plan.steps:
            if isinstance(work, Group):
                held |= self._loop(machine, work, *next(calls), held)
            elif work.node.operator == "product":
                held[work.number] = self._product(machine, work, held).flatten()
            else:
                operands = [_tensor(held, operand) for operand in work.operands]
                specs = [Spec(self._known[s].dtype, tuple(self._known[s].shape)) for s in work.node.inputs]
                held[work.number] = (
                    bind(work.number, work.node, specs, PRODUCTS)(*operands).contiguous().flatten()
                )
            for number in work.makes:
                tap(number, _tensor(held, self._plan.places[number]))
        return [_tensor(held, self._plan.places[output.source]) for output in self._program.outputs]

    def _loop(
        self,
        machine: Machine,
        group: Group,
        name: str,
        buffers: Sequence[int],
        held: Mapping[int, torch.Tensor],
    ) -> dict[int, torch.Tensor]:
        memory = machine.memory()
        sizes = {n: torch.Size(self._known[n].shape).numel() for n in buffers}
        dtypes = {n: TORCH_DTYPES[self._known[n].dtype] for n in buffers}
        slots = [
            memory.room(sizes[n], dtypes[n]) if n in group.kept else memory.tensor(held[n]) for n in buffers
        ]
        table = memory.put(struct.pack(f"<{len(slots)}q", *slots))
        at = memory.put(struct.pack(f"<{len(slots)}i", *range(len(slots))))
        if machine.call(name, memory, table, at, THREADS):
            raise CheckFailed
        places = dict(zip(buffers, slots, strict=True))
        return {n: memory.read(places[n], sizes[n], dtypes[n]) for n in group.kept}

    def _product(self, machine: Machine, step: Step, held: Mapping[int, torch.Tensor]) -> torch.Tensor:
        left, left_exponent, right, right_exponent = (
            value.flatten(0, -3) if value.dim() > 2 else value[None]
            for value in (_tensor(held, operand) for operand in step.operands)
        )
        bits = dict(step.node.attributes)["bits"][0]
        exponents = left_exponent[:, :, 0], right_exponent[:, 0]
        scales = [_scales(machine, exponent, bits) for exponent in exponents]
        return Product(machine, self._kernel).rounded(left, right, scales[0], scales[1], bits)


class Product(CompiledProduct):
    """A compiled product on the machine: its tasks, and what they point to, travel there and back."""

    def __init__(self, machine: Machine, kernel: str) -> None:
        """`kernel`: a key of `KERNELS`."""
        super().__init__(_nothing_here, KERNELS[kernel].run)
        self._machine, self._kernel = machine, kernel

    def backend(self) -> Backend:
        """Return what `exact.certify` tries."""
        limit = int8.BITS if self._kernel == "int8" else BITS_MAX
        refusals = {True: "", False: f"more than {limit} bits"}
        return Backend(lambda device, bits, depth: refusals[bits <= limit], self.against, self.rounded)

    def call(self, task: Task) -> None:
        """Do a product there."""
        memory, there = self._machine.memory(), Task.from_buffer_copy(task)
        for (here, field, size), (copy, _, _) in zip(_pointers(task), _pointers(there), strict=True):
            if start := getattr(here, field):
                setattr(copy, field, memory.put(ctypes.string_at(start, size)))
        assert self._machine.call(f"{self._kernel}_product", memory, memory.put(bytes(there)), THREADS) == 0
        for _, field, size in _pointers(task):
            if field in ("scaled", "exact") and (start := getattr(task, field)):
                ctypes.memmove(start, memory.copy(getattr(there, field), size), size)


def _nothing_here() -> ctypes.CDLL:
    raise CannotCompile("the library is on another machine")


def _pointers(task: Task) -> list[tuple[ctypes.Structure, str, int]]:
    """Return a task's pointers, each as a field and the bytes from there on."""
    batch, rows, columns, depth = task.batch, task.rows, task.columns, task.depth
    spans = [
        0
        if 0 in (batch, outer, depth)
        else _span((batch, outer, depth), (side.batch, side.outer, side.depth))
        for side, outer in ((task.left, rows), (task.right, columns))
    ]
    return [
        (task.left, "start", 2 * spans[0]),
        (task.right, "start", 2 * spans[1]),
        (task, "left_scale", 8 * batch * rows),
        (task, "right_scale", 8 * batch * columns),
        (task, "scaled", 4 * batch * rows * columns),
        (task, "exact", 8 * batch * rows * columns),
    ]


def _span(sizes: Sequence[int], strides: Sequence[int]) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))


def _scales(machine: Machine, exponent: torch.Tensor, bits: int) -> torch.Tensor:
    memory, count = machine.memory(), exponent.numel()
    start, made = memory.tensor(exponent), memory.room(count, torch.float64)
    machine.call("scales", memory, start, *exponent.shape, *exponent.stride(), bits, made)
    return memory.read(made, count, torch.float64).view(exponent.shape)


def _tensor(held: Mapping[int, torch.Tensor], operand: Operand) -> torch.Tensor:
    return compiled._strided(held[operand.root], operand.layout)
