"""`doctor`: is this machine bit-exact, with which product backends, how fast, and what would it be paid for?"""

import platform
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich import box
from rich.table import Column, Table
from rich.text import Text

from trainer import exact
from trainer.commands.console import Console
from trainer.commands.progress import Stages
from trainer.commands.results import write_json
from trainer.commands.speeds import BITS, SHAPES, Speeds, native_speeds, product_speeds
from trainer.commands.trials import Trial, TriedStep, golden_trial, run_trials
from trainer.compute.memory import within_memory
from trainer.exact import hashing
from trainer.folder import RunFolder
from trainer.programs.interpreter import NoLoops
from trainer.programs.options import RunOptions, peer_options
from trainer.rounds.machine import Kernels
from trainer.rounds.selfcheck import kernels_of, over_float32
from verification.errors import UserError

STAGES = 2
"""What is told of each run's steps: that they are tried, and compared with float32."""


@dataclass(frozen=True)
class Examination:
    """What was found: speeds of products, steps in every way they run, what they run on, and their time over float32's.

    The last two are of the last step: the run's own where there is one.
    """

    speeds: list[Speeds]
    steps: list[TriedStep]
    kernels: Kernels
    over_float32: float

    @property
    def reproduced(self) -> bool:
        """Whether this machine may stake."""
        return all(step.reproduced for step in self.steps)

    @property
    def rate(self) -> float:
        """Work units a second of the last step, the fastest way."""
        last = [step for step in self.steps if step.what == self.steps[-1].what]
        return last[0].work_units / min(step.seconds for step in last)


def examine(
    json_file: Path | None = None, run: RunFolder | None = None, options: RunOptions | None = None
) -> int:
    """Print the examination, write it as JSON if asked; return 0 when this machine may train, else 1.

    Steps are done as `options` say, by default as a peer does them. With a `run` its own inner step is tried too.
    Raises UserError when the file cannot be written, there is no run or no such device.
    """
    options = within_memory(options or peer_options())
    console = Console()
    console.print(", ".join(str(fact) for fact in machine().values()))
    try:
        exact.require_subnormals()
    except UserError as error:
        _say(console, f"this machine must not stake: {error}", "red")
        return 1
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    total = len(devices) * (1 + len(BITS) * (1 + len(exact.BACKENDS))) + STAGES * (1 + (run is not None))
    with Stages(console, total) as tell, warnings.catch_warnings(action="ignore", category=NoLoops):
        speeds = _products(console, devices, tell)
        found = _steps(console, speeds, run, options, tell)
    if found.kernels.complaint:
        _say(console, found.kernels.complaint, "yellow")
    if complaint := hashing.refusal():
        _say(console, complaint, "yellow")
    if not found.reproduced:
        _say(console, "this machine must not stake: its results would be convicted", "red")
    else:
        _say(
            console,
            f"paid for: {found.rate:.2e} work units a second, each about one operation on one element",
        )
    if json_file is not None:
        _write(json_file, found)
    return 0 if found.reproduced else 1


def machine() -> dict[str, str | int]:
    """What the speeds depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "torch": f"torch {torch.__version__}",
        "vector_code": f"vector code {torch.backends.cpu.get_cpu_capability()}",
        "threads": f"{torch.get_num_threads()} threads",
    }


def _products(console: Console, devices: Sequence[str], tell: Stages) -> list[Speeds]:
    """Certify and measure products on every device; print a table for each number of bits."""
    speeds: list[Speeds] = []
    for device in devices:
        native = native_speeds(device, tell)
        speeds += native
        for bits in BITS:
            found = product_speeds(device, bits, tell)
            speeds += found
            console.print(_table(device, bits, found, native))
            for row in found:
                if row.refused:
                    _say(console, f"{row.name}: {row.refused}", "red" if row.is_faulty else "dim")
                elif row.instructions:
                    _say(console, f"{row.name}: {row.instructions}", "dim")
    return speeds


def _steps(
    console: Console, speeds: list[Speeds], run: RunFolder | None, options: RunOptions, tell: Stages
) -> Examination:
    """Try the golden step, and then the run's own; print how each came out."""
    tell("the golden step")
    trials = [golden_trial(options)]
    steps = _tried(console, trials[0])
    if run is not None:
        tell("the run's own step")
        trials = run_trials(run, options)
        for trial in trials:
            steps += _tried(console, trial)
    last = trials[-1]
    kernels = kernels_of(last.engine, last.inner, last.inputs, last.refused)
    tell("the same step on PyTorch's float32")
    ratio = over_float32(last.engine, last.inner, last.inputs)
    _say(
        console,
        f"a step takes {ratio:.2f} times as long as on PyTorch's float32, which is not exact",
    )
    return Examination(speeds, steps, kernels, ratio)


def _tried(console: Console, trial: Trial) -> list[TriedStep]:
    tried = trial.tried()
    for step in tried:
        verdict = (
            ("reproduced", "green") if step.reproduced else (f"NOT reproduced, got {step.digest}", "red")
        )
        told = Text.assemble(f"{step.what} {step.how}: ", verdict, f" in {1000 * step.seconds:.0f} ms")
        console.print(told, soft_wrap=True)
    return tried


def _table(device: str, bits: int, found: list[Speeds], native: list[Speeds]) -> Table:
    table = Table(
        Column("backend", no_wrap=True),
        Column("certified", no_wrap=True),
        *(Column(_folded(shape), justify="right", no_wrap=True) for shape in SHAPES),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{bits}-bit exact products on {device}: GFLOP/s by shape (*: chosen)",
    )
    for speeds in found:
        certified = (
            Text("no", "red" if speeds.is_faulty else "dim") if speeds.refused else Text("yes", "green")
        )
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


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style or None, soft_wrap=True)


def _write(file: Path, found: Examination) -> None:
    record = {
        "machine": machine(),
        "products": [asdict(row) for row in found.speeds],
        "steps": [asdict(step) | {"reproduced": step.reproduced} for step in found.steps],
        "kernels": asdict(found.kernels) | {"over_float32": found.over_float32},
        "work_units_per_second": found.rate if found.reproduced else 0.0,
    }
    write_json(file, record)
