"""Inner steps that a machine must get right: a frozen one, the same for everybody, and those of a run's own program."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources

import torch

from p2p.blobs import BlobStore
from p2p.bundles import read_bundle, read_data
from trainer import exact
from trainer.commands.speeds import median_seconds
from trainer.exact.native import CannotCompile
from trainer.folder import RunFolder
from trainer.programs.conversion import to_torch
from trainer.programs.options import Loops, RunOptions
from trainer.rounds.selfcheck import drawn
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import Rounds
from trainer.runs.ledgers import genesis_of
from verification.library import StepFailed
from verification.manifest import Place
from verification.program import Port, decode_program, program_digest, work_units
from verification.sizes import data_size, state_size
from verification.tensors import Tensor, bundle_digest
from verification.units import Digest

GOLDEN_STEP = "49c114ac96b1a15d84c44a488843ccbf95fa943b85cfabc599ecb5c2880e619b"
"""Digest of the golden step's outputs; part of the arithmetic version, the same on every machine."""


@dataclass(frozen=True)
class Trial:
    """A step to try: what it is, its program on an engine, its inputs, the digest that its outputs must have.

    `refused` says why it cannot have compiled loops, or nothing.
    """

    what: str
    engine: TorchEngine
    inner: Digest
    inputs: list[torch.Tensor]
    expected: str
    refused: str = ""

    def tried(self) -> "list[TriedStep]":
        """Do the step in every way that it runs here, node by node first; raises StepFailed."""

        def nodes() -> list[torch.Tensor]:
            return self.engine.run(self.inner, [self.inputs], tap=lambda number, value: None)

        def loops() -> list[torch.Tensor]:
            return self.engine.run(self.inner, [self.inputs])

        ways = [self._timed("node by node", nodes)]
        loops()  # compared with the nodes the first time, and dropped on a difference
        if self.engine.executor.load(self.inner).is_compiled:
            ways.append(self._timed("on compiled loops", loops))
        return ways

    def _timed(self, how: str, step: Callable[[], list[torch.Tensor]]) -> "TriedStep":
        digest, units = self.engine.digest(step()).hex(), work_units(self.engine.program(self.inner))
        return TriedStep(self.what, how, digest, self.expected, median_seconds(step), units)


@dataclass(frozen=True)
class TriedStep:
    """A step on this machine: what and how, its digest, the one it must have, median seconds, work units."""

    what: str
    how: str
    digest: str
    expected: str
    seconds: float
    work_units: int

    @property
    def reproduced(self) -> bool:
        """Whether this machine may stake."""
        return self.digest == self.expected


def golden_trial(options: RunOptions) -> Trial:
    """Return the frozen Llama step, on inputs from the integer generator, on compiled loops where there can be any."""
    encoded = resources.files("trainer.golden").joinpath("step.msgpack").read_bytes()
    digest, program = program_digest(encoded), decode_program(encoded)
    engine, refused = TorchEngine({digest: encoded}, replace(options, loops=Loops.ALWAYS)), ""
    try:
        engine.executor.load(digest)
    except CannotCompile as error:
        engine, refused = TorchEngine({digest: encoded}, replace(options, loops=Loops.NEVER)), str(error)
    inputs = [_golden_input(number, port) for number, port in enumerate(program.inputs)]
    return Trial("golden step", engine, digest, inputs, GOLDEN_STEP, refused)


def run_trials(folder: RunFolder, options: RunOptions) -> list[Trial]:
    """Return a run's golden step and its step on numbers of the integer generator, as its peers run them.

    Raises UserError and what loading a program raises.
    """
    manifest = genesis_of(folder).manifest
    store, inner = BlobStore(folder.blobs), manifest.programs.inner.digest
    encoded = {ref.digest: store.get(ref.blob) for ref in manifest.programs.all()}
    engine = TorchEngine(encoded, options)
    programs = {place: engine.program(manifest.programs.at(place).digest) for place in Place}
    data = read_data(store, manifest.data, data_size(programs))
    start = read_bundle(store, manifest.start, state_size(programs))
    opening = Rounds(engine, manifest, data).opening(start.tensors)
    trials = [Trial("the run's golden step", engine, inner, opening, manifest.golden.hex())]
    inputs = list(drawn(engine.program(inner), opening))
    try:
        expected = bundle_digest(engine.again(inner, inputs)).hex()
    except StepFailed:  # a model that does not bear these numbers
        return trials
    return [*trials, Trial("the run's step on drawn numbers", engine, inner, inputs, expected)]


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
