"""Golden training runs: programs and data that travel as files, and the digests that every machine must reach.

A machine that traces a model computes constants of its own (rotary tables use `pow`), and draws start weights with its
own vector width, so a run is only the same everywhere when its programs travel, as they do between peers. The files
beside this one hold each model's four programs and records; the start weights come from the exact integer generator.
`python -m tests.make_golden` writes them and `digests.json`, on a CPU.
"""

import json
import lzma
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer import exact
from trainer.programs.conversion import bundle_of, to_torch
from trainer.programs.devices import products_for
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.options import NODE_BY_NODE, Loops, RunOptions
from verification import codec
from verification.program import Port, Program
from verification.tensors import Bundle, digest_of

FOLDER = Path(__file__).parent
STEPS = 20
MODES = {"eager": NODE_BY_NODE, "compiled": RunOptions(loops=Loops.ALWAYS)}
"""Ways to execute on a CPU by name; every one gives the same bits."""
MAX_FILE = 1 << 26
START_SEED = b"proofswarm golden start"
START_STD = 0.05
WEIGHTS = torch.tensor([2, 0, 3])
"""Weights of the contributions in the outer step; all three are the same one."""


@dataclass(frozen=True)
class Golden:
    """A model's four programs, and what its prologue takes after the start state: uint8 records, int64 index, int64
    round."""

    prologue: Program
    inner: Program
    epilogue: Program
    outer: Program
    data: Bundle


def names() -> list[str]:
    """Return the golden runs: a model's name, and its precision where that is not the default."""
    return list(expected())


def expected() -> dict[str, list[str]]:
    """Return every run's digests: of the state before the first step, after each, of contribution and outer step."""
    found: dict[str, list[str]] = json.loads((FOLDER / "digests.json").read_text(encoding="utf-8"))
    return found


def read(name: str) -> Golden:
    """Return a golden run's programs and data."""
    return codec.decode(Golden, lzma.decompress((FOLDER / f"{name}.xz").read_bytes()), MAX_FILE)


def write(name: str, golden: Golden) -> None:
    """Write a golden run's file; equal contents give equal bytes."""
    (FOLDER / f"{name}.xz").write_bytes(lzma.compress(codec.encode(golden), preset=9))


def train(
    golden: Golden, steps: int = STEPS, options: RunOptions = NODE_BY_NODE, every: int = 1
) -> list[str]:
    """Return the digests that this machine reaches, in the order of `expected`; of a shorter run when `steps` is less.

    Steps are digested `every` so many: on models this small hashing takes as long as training.
    Raises UserError as `products_for`, BackendFault when compiled loops were asked for and dropped.
    """
    products = products_for(options)
    device = products.device
    state = start(golden.prologue, device)
    data = [to_torch(tensor).to(device) for tensor in golden.data.tensors]
    working = LoadedProgram(golden.prologue, options, products).run([*state, *data])
    digests, inner = [_digest(working)], LoadedProgram(golden.inner, options, products)
    for number in range(1, steps + 1):
        working = inner.run(working)
        if number % every == 0:
            digests.append(_digest(working))
    if options.loops is Loops.ALWAYS and not inner.is_compiled:
        raise exact.BackendFault("compiled loops gave other numbers than the kernels and were dropped")
    contribution = LoadedProgram(golden.epilogue, options, products).run([*state, *working])
    outer = LoadedProgram(golden.outer, options, products)
    ended = outer.run([*state, *contribution * 3, WEIGHTS.to(device)])
    return [*digests, _digest(contribution), _digest(ended)]


def start(prologue: Program, device: torch.device) -> list[torch.Tensor]:
    """Return the state bundle that a golden run starts from: the same bits on every machine."""
    ports = [port for port in prologue.inputs if port.name.startswith(("parameter/", "momentum/"))]
    return [_start(port).to(device) for port in ports]


def _start(port: Port) -> torch.Tensor:
    """Small normals for matrices, ones for the scales of norms, zeros for biases and momentum."""
    shape = tuple(int(size) for size in port.shape)
    if port.name.startswith("momentum/"):
        return torch.zeros(shape)
    if len(shape) > 1:
        return exact.normal_f32(START_SEED, port.name, shape, START_STD)
    return torch.ones(shape) if port.name.endswith("weight") else torch.zeros(shape)


def _digest(tensors: list[torch.Tensor]) -> str:
    return digest_of(bundle_of(tensors)).hex()
