"""`doctor`: is this machine bit-exact, per backend, and how fast?"""

import platform
import statistics
import time
from collections.abc import Callable
from importlib import resources

import torch
from rich.console import Console
from rich.table import Table

from trainer import exact
from trainer.engine import TorchEngine
from trainer.exact.product import BACKENDS
from trainer.programs.conversion import to_torch
from verification.program import Port, decode_program, program_digest
from verification.tensors import Tensor

GOLDEN_STEP = "afa0dbe2644c4e41e8261574406266857260ba022d74ce983487f8ae2b6fbe5f"
"""Digest of the golden step's outputs; part of the arithmetic version, the same on every machine."""
SHAPES = ((512, 128, 352), (2048, 512, 2048))
REPEATS = 5


def examine() -> int:
    """Print the examination; return 0 when this machine may train, else 1."""
    console = Console()
    machine = platform.processor() or platform.machine()
    software = f"torch {torch.__version__}, vector code {torch.backends.cpu.get_cpu_capability()}"
    console.print(f"{machine}, {software}, {torch.get_num_threads()} threads", highlight=False)
    console.print(_backends())
    digest, seconds = golden_step()
    fits = digest == GOLDEN_STEP
    verdict = "[green]reproduced[/]" if fits else f"[red]NOT reproduced[/], got {digest}"
    console.print(f"golden step: {verdict} in {1000 * seconds:.0f} ms", highlight=False)
    if not fits:
        console.print("this machine must not stake: its results would be convicted", style="red")
    return 0 if fits else 1


def golden_step() -> tuple[str, float]:
    """Return the digest of a frozen Llama step on inputs from the integer generator, and its median seconds."""
    encoded = resources.files("trainer.golden").joinpath("step.msgpack").read_bytes()
    program = decode_program(encoded)
    engine = TorchEngine({program_digest(encoded): encoded})
    inputs = [_golden_input(number, port) for number, port in enumerate(program.inputs)]

    def step() -> list[torch.Tensor]:
        return engine.run(program_digest(encoded), [inputs])

    return engine.digest(step()).hex(), _seconds(step)


def _golden_input(number: int, port: Port) -> torch.Tensor:
    """Return a port's input: zeros for counters and moments, small normals for parameters, bytes for tokens."""
    shape = tuple(int(size) for size in port.shape)
    seed = b"proofswarm golden step"
    if port.dtype == "uint8":
        count = torch.Size(shape).numel()
        return (exact.uniform_bits(seed, str(number), count) & 0xFF).to(torch.uint8).reshape(shape)
    if port.name.startswith(("working/m/", "working/v/")) or port.dtype != "float32":
        return to_torch(Tensor(port.dtype, port.shape, bytes(torch.Size(shape).numel() * _width(port.dtype))))
    if shape == ():
        return torch.ones(()) if port.name.endswith("power") else torch.zeros(())
    return exact.normal_f32(seed, str(number), shape, 0.05)


def _width(dtype: str) -> int:
    return {"float32": 4, "int64": 8}[dtype]


def _backends() -> Table:
    """Certify every product backend and time it; whoever fails says why."""
    table = Table(
        "backend", "certified", *(f"{m}x{k}x{n}" for m, k, n in SHAPES), title="exact products, GFLOP/s"
    )
    for name in BACKENDS:
        try:
            exact.certify(name)
        except exact.BackendFault as fault:
            table.add_row(name, f"[red]no[/]: {fault}", *("" for _ in SHAPES))
            continue
        speeds = [
            _speed(name, shape) if name != "int64" or shape == SHAPES[0] else "reference only"
            for shape in SHAPES
        ]
        table.add_row(name, "[green]yes[/]", *speeds)
    table.add_row("float32 (native, not exact)", "", *(_native(shape) for shape in SHAPES), style="dim")
    return table


def _speed(backend: str, shape: tuple[int, int, int]) -> str:
    left, right = _operands(shape)
    ea, eb = exact.row_exponent(left, -1), exact.row_exponent(right, -2)
    qa, qb = exact.quantise(left, ea, -1), exact.quantise(right, eb, -2)
    return _rate(shape, lambda: exact.product(qa, ea, qb, eb, backend=BACKENDS[backend]))


def _native(shape: tuple[int, int, int]) -> str:
    left, right = _operands(shape)
    return _rate(shape, lambda: torch.mm(left, right))


def _operands(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    m, k, n = shape
    return exact.normal_f32(b"doctor", "left", (m, k)), exact.normal_f32(b"doctor", "right", (k, n))


def _rate(shape: tuple[int, int, int], run: Callable[[], object]) -> str:
    m, k, n = shape
    return f"{2 * m * k * n / _seconds(run) / 1e9:.0f}"


def _seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
