"""`doctor`: is this machine bit-exact, with which product backends, how fast, and what would it be paid for?"""

import json
import platform
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import torch
from rich import box
from rich.table import Column, Table
from rich.text import Text

from trainer import exact
from trainer.console import Console
from trainer.engine import TorchEngine
from trainer.native import CannotCompile
from trainer.programs.conversion import to_torch
from trainer.speeds import BITS, SHAPES, Speeds, median_seconds, native_speeds, product_speeds
from verification.errors import UserError
from verification.program import Port, decode_program, program_digest, work_units
from verification.tensors import Tensor

GOLDEN_STEP = "49c114ac96b1a15d84c44a488843ccbf95fa943b85cfabc599ecb5c2880e619b"
"""Digest of the golden step's outputs; part of the arithmetic version, the same on every machine."""


@dataclass(frozen=True)
class GoldenStep:
    """The golden step on this machine: how it ran, its digest, the one it must have, median seconds, work units."""

    how: str
    digest: str
    expected: str
    seconds: float
    work_units: int

    @property
    def reproduced(self) -> bool:
        """Whether this machine may stake."""
        return self.digest == self.expected


def examine(json_file: Path | None = None) -> int:
    """Print the examination, write it as JSON if asked; return 0 when this machine may train, else 1.

    Raises UserError when the file cannot be written.
    """
    console = Console()
    facts = machine()
    console.print(", ".join(str(fact) for fact in facts.values()))
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    speeds: list[Speeds] = []
    for device in devices:
        native = native_speeds(device)
        speeds += native
        for bits in BITS:
            found = product_speeds(device, bits)
            speeds += found
            console.print(_table(device, bits, found, native))
    golden = [golden_step(), *loops] if (loops := compiled_step(console)) else [golden_step()]
    reproduced = all(step.reproduced for step in golden)
    for step in golden:
        _tell(console, step)
    if reproduced:
        rate = f"{_rate(golden):.2e} work units a second (the golden step's {golden[0].work_units:.2e}; a work unit is"
        console.print(f"paid for: {rate} about one operation on one element)")
    else:
        console.print("this machine must not stake: its results would be convicted", style="red")
    if json_file is not None:
        _write(json_file, facts, speeds, golden)
    return 0 if reproduced else 1


def machine() -> dict[str, str | int]:
    """What the speeds depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "torch": f"torch {torch.__version__}",
        "vector_code": f"vector code {torch.backends.cpu.get_cpu_capability()}",
        "threads": f"{torch.get_num_threads()} threads",
    }


def golden_step(compiled: bool = False) -> GoldenStep:
    """Run a frozen Llama step on inputs from the integer generator; raises CannotCompile as `LoadedProgram` does."""
    encoded = resources.files("trainer.golden").joinpath("step.msgpack").read_bytes()
    program = decode_program(encoded)
    engine = TorchEngine({program_digest(encoded): encoded}, compiled=compiled)
    inputs = [_golden_input(number, port) for number, port in enumerate(program.inputs)]

    def step() -> list[torch.Tensor]:
        return engine.run(program_digest(encoded), [inputs])

    digest = engine.digest(step()).hex()
    if compiled and not engine.executor.load(program_digest(encoded)).is_compiled:
        raise CannotCompile("the compiled loops are not exact on this machine")
    how = "on compiled loops" if compiled else "node by node"
    return GoldenStep(how, digest, GOLDEN_STEP, median_seconds(step), work_units(program))


def compiled_step(console: Console) -> list[GoldenStep]:
    """Return the golden step on compiled loops, or nothing where peers do without them, after saying why."""
    try:
        return [golden_step(compiled=True)]
    except CannotCompile as error:
        console.print(f"no compiled loops: {error}", style="yellow")
        return []


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


def _table(device: str, bits: int, found: list[Speeds], native: list[Speeds]) -> Table:
    refusals = [f"{speeds.name}: {speeds.refused}" for speeds in found if speeds.refused]
    table = Table(
        Column("backend", no_wrap=True),
        Column("certified", no_wrap=True),
        *(Column(_folded(shape), justify="right", no_wrap=True) for shape in SHAPES),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{bits}-bit exact products on {device}, scaled and rounded: GFLOP/s by shape (*: chosen)",
        caption="\n".join(refusals) or None,
        caption_justify="left",
    )
    for speeds in found:
        certified = Text("no", "red") if speeds.refused else Text("yes", "green")
        table.add_row(speeds.name, certified, *(_cell(speeds, shape) for shape in SHAPES))
    table.add_section()
    for speeds in native:
        table.add_row(speeds.name, "not exact", *(_cell(speeds, shape) for shape in SHAPES), style="dim")
    return table


def _folded(shape: str) -> str:
    """A shape's name in a narrow column."""
    return shape.replace(" of ", " of\n").replace("x", "\nx")


def _cell(speeds: Speeds, shape: str) -> str:
    if shape not in speeds.gflops:
        return "" if speeds.refused or not speeds.bits else "slow"
    return f"{speeds.gflops[shape]:.0f}" + ("*" if shape in speeds.chosen else "")


def _tell(console: Console, golden: GoldenStep) -> None:
    verdict = (
        ("reproduced", "green") if golden.reproduced else (f"NOT reproduced, got {golden.digest}", "red")
    )
    console.print(
        Text.assemble(f"golden step {golden.how}: ", verdict, f" in {1000 * golden.seconds:.0f} ms")
    )


def _rate(golden: list[GoldenStep]) -> float:
    """Work units a second of the fastest way."""
    return golden[0].work_units / min(step.seconds for step in golden)


def _write(file: Path, facts: dict[str, str | int], speeds: list[Speeds], golden: list[GoldenStep]) -> None:
    record = {
        "machine": facts,
        "products": [asdict(row) for row in speeds],
        "golden": [asdict(step) | {"reproduced": step.reproduced} for step in golden],
        "work_units_per_second": _rate(golden) if all(step.reproduced for step in golden) else 0.0,
    }
    try:
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{file}: cannot write the examination: {error.strerror}; choose another file"
        ) from error
