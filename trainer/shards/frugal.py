"""The engine of a machine with less memory than its run's programs: they run by stretches, all else lies in files.

Working states, starts, and what one stretch makes for a later one are in files that the system maps, writes back and
drops; in memory is what one stretch needs. The bits are those of whole programs.
"""

import contextlib
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from trainer import exact
from trainer.programs.conversion import is_mapped, seen_by_law, to_torch
from trainer.programs.executor import filled
from trainer.programs.interpreter import (
    LoadedProgram,
    Tap,
    bound,
    check_inputs,
    give_memory_back,
    keep_nothing_freed,
    part_options,
    require_finite_output,
)
from trainer.programs.kernels import KernelFailed
from trainer.programs.options import Loops, RunOptions
from trainer.rounds.torch_engine import Tensors, TorchEngine
from trainer.shards.banded import BandedStretch
from trainer.shards.spool import Spool
from trainer.shards.stretches import Stretch, held_bytes, stretches_of
from verification.errors import BadEvidence, Refused, Unsound
from verification.library import StepFailed
from verification.program import Program, decode_program, digest_of_program, peak_bytes, tables
from verification.tensors import Bundle
from verification.units import Count, Digest

MIB = 1 << 20
Key = TypeVar("Key")


def fitting(programs: Mapping[Digest, bytes], options: RunOptions) -> TorchEngine:
    """Return the engine for programs: one that runs them whole where each fits the memory, else one by stretches.

    Raises as `TorchEngine` when it loads them, and Refused where a single node does not fit.
    """
    engine = TorchEngine(programs, options)
    try:
        for digest in programs:
            engine.program(digest)
    except Refused:
        return FrugalEngine(programs, options)
    return engine


class StretchedProgram:
    """A checked program in stretches, ready to run; what one of them makes for another lies in a spool."""

    def __init__(
        self,
        program: Program,
        stretches: Sequence[Stretch],
        options: RunOptions,
        products: exact.Products,
        spool: Spool,
        finite: Collection[int] | None = None,
    ) -> None:
        """`finite` are the places of the outputs that end the step with NaN or infinity, None for all.

        Raises as `LoadedProgram`.
        """
        self.program, self.stretches, self._spool = program, stretches, spool
        own = part_options(program, options)
        self._loaded = {
            part: LoadedProgram(part, own, products, is_part=True)
            for part in {part: None for stretch in stretches for part in stretch.programs}
        }
        self._names = {
            int(output.source): output.name
            for place, output in enumerate(program.outputs)
            if finite is None or place in finite
        }
        outputs = {int(output.source) for output in program.outputs}
        self._wanted = outputs | {number for stretch in stretches for number in stretch.reads}
        self._banded = [
            None if each.bands is None else BandedStretch(each, self._loaded, spool, self._require_finite)
            for each in stretches
        ]

    @property
    def is_compiled(self) -> bool:
        """Whether all stretches use compiled loops."""
        return all(loaded.is_compiled for loaded in self._loaded.values())

    @property
    def refused(self) -> str:
        """Why one of them does not though it was wanted, in one line, or nothing."""
        return next((loaded.refused for loaded in self._loaded.values() if loaded.refused), "")

    def run(self, inputs: Sequence[torch.Tensor | None], tap: Tap | None = None) -> Tensors:
        """Return the outputs in their order, in files; None stands for zeros. A `tap` hears every node once, in order.

        Raises BadEvidence for other inputs than the program's, StepFailed with the node at which the whole fails.
        """
        given = filled(self.program, inputs)
        check_inputs(self.program, given)
        on_disk = tables(self.program)
        values = {n: tensor if n in on_disk else self._spool.keep(tensor) for n, tensor in enumerate(given)}
        del given
        for stretch, banded in zip(self.stretches, self._banded, strict=True):
            reads = [values[number] for number in stretch.reads]
            made = self._made(stretch, reads, tap) if banded is None else self._in_bands(banded, reads, tap)
            del reads
            for number in stretch.last:
                del values[number]
            for number in stretch.makes:
                tensor = made.pop(number, None)
                if tensor is not None and number in self._wanted:
                    values[number] = self._spool.keep(tensor)
            del tensor
            for program in stretch.programs:
                self._loaded[program].rest()
            give_memory_back()
        return [self._output(int(output.source), values) for output in self.program.outputs]

    def _in_bands(
        self, stretch: BandedStretch, given: Sequence[torch.Tensor], tap: Tap | None
    ) -> dict[int, torch.Tensor]:
        """Return as `_made` what a stretch makes in bands."""
        if tap is None:
            with contextlib.suppress(StepFailed, KernelFailed):
                return stretch.run(given, self._wanted)
        return stretch.tell(given, tap)

    def _made(
        self, stretch: Stretch, given: Sequence[torch.Tensor], tap: Tap | None
    ) -> dict[int, torch.Tensor]:
        """Return what a stretch makes; raises StepFailed with the first of its nodes that ends the step."""
        loaded = self._loaded[stretch.program]

        def hear(place: int, value: torch.Tensor) -> None:
            number = stretch.nodes[place - loaded.first]
            if number >= stretch.first and tap is not None:
                tap(number, value)
            self._require_finite(number, value)

        if tap is None:
            with contextlib.suppress(StepFailed, KernelFailed):
                made = dict(zip(stretch.makes, loaded.run(given), strict=True))
                for number, value in made.items():
                    self._require_finite(number, value)
                return made
        try:
            return dict(zip(stretch.makes, loaded.run(given, hear), strict=True))
        except StepFailed as failure:
            reason = str(failure.__cause__ or failure)
            raise StepFailed(stretch.nodes[failure.node - loaded.first], reason) from failure

    def _require_finite(self, number: int, value: torch.Tensor) -> None:
        if number in self._names:
            require_finite_output(self._names[number], value)

    def _output(self, source: int, values: Mapping[int, torch.Tensor]) -> torch.Tensor:
        place = source - len(self.program.inputs)
        if 0 <= place < len(self.program.constants):
            return self._spool.keep(to_torch(self.program.constants[place]))
        return values[source]


class FrugalEngine(TorchEngine):
    """Runs programs stretch by stretch in `options.memory` bytes, with all tensors in files of `options.scratch`.

    Nothing is ever written over: a step takes the disk of two working states and of what its stretches give each other.
    """

    def __init__(self, programs: Mapping[Digest, bytes], options: RunOptions) -> None:
        """Raises as `LoadedProgram` for each program, and Refused where a node alone needs more memory."""
        super().__init__({}, options)
        assert options.memory is not None
        keep_nothing_freed()
        self._options, self._memory = replace(options, held=Count(0)), int(options.memory)
        self._spool = Spool(Path(options.scratch or tempfile.gettempdir()))
        decoded = {digest: decode_program(encoded) for digest, encoded in programs.items()}
        for program in decoded.values():
            bound(program, self.executor.products)
        self._programs = {
            digest: self._loaded(decoded[digest], stretches, self._options, self.executor.products)
            for digest, stretches in within(decoded, self._memory).items()
        }
        wanted = max(map(peak_bytes, decoded.values()))
        count = max(len(each.stretches) for each in self._programs.values())
        self.shortage = (
            f"a program takes up to {wanted / MIB:.1f} MiB of memory, of {self._memory / MIB:.1f} that it may take "
            f"here, so it runs in {count} stretches, out of files"
        )

    def load(self, bundle: Bundle) -> Tensors:
        """Return the bundle's tensors for torch, in files."""
        pairs = [(to_torch(tensor), is_mapped(tensor)) for tensor in bundle.tensors]
        return [tensor if is_there else self._spool.keep(tensor) for tensor, is_there in pairs]

    def dump(self, handle: Iterable[torch.Tensor]) -> Bundle:
        """Return the bytes of torch tensors, as they lie in files."""
        return Bundle(tuple(seen_by_law(self._spool.keep(tensor)) for tensor in handle))

    def program(self, digest: Digest) -> Program:
        """Return a checked program; raises BadEvidence for an unknown digest."""
        return self._named(digest).program

    def learn(self, program: Program, of: Digest, finite: Collection[int] | None = None) -> Digest:
        """Know a program made of another one's nodes from now on (`Engine.learn`); raises as `StretchedProgram`."""
        digest = digest_of_program(program)
        if digest not in self._programs:
            bound(program, self.executor.products, is_part=finite is not None)
            held = sum(held_bytes(known.stretches) for known in self._programs.values())
            stretches = stretches_of(program, self._memory - held)
            self._programs[digest] = StretchedProgram(
                program, stretches, self._options, self.executor.products, self._spool, finite
            )
        return digest

    def run(
        self, digest: Digest, inputs: Sequence[Iterable[torch.Tensor | None]], tap: Tap | None = None
    ) -> Tensors:
        """Execute a program on the concatenated inputs; None stands for zeros. Raises StepFailed, BadEvidence."""
        return self._named(digest).run([tensor for part in inputs for tensor in part], tap)

    def again(self, digest: Digest, inputs: Sequence[torch.Tensor]) -> list[Digest]:
        """Return the digests of a program's outputs, made in another way: node by node, with the trusted product."""
        known, products = self._named(digest), exact.Products(self.executor.products.device, exact.TRUSTED)
        by_nodes = replace(self._options, loops=Loops.NEVER)
        return self.digests(self._loaded(known.program, known.stretches, by_nodes, products).run(inputs))

    def compiled(self, digest: Digest) -> tuple[bool, str]:
        """Return whether a program runs on compiled loops, and why not though they were wanted, or nothing."""
        known = self._named(digest)
        return known.is_compiled, known.refused

    def own(self, working: Iterable[torch.Tensor], kept: Sequence[torch.Tensor | None]) -> Tensors:
        """Return a working state in files: nothing is written over."""
        return [self._spool.keep(tensor) for tensor in working]

    def advance(self, digest: Digest, working: Tensors, is_checked: bool) -> Tensors:
        """Execute an inner step, and `is_checked` in another way too; raises StepFailed, Unsound where they differ."""
        expected = self.again(digest, working) if is_checked else None
        made = self.run(digest, [working])
        if expected is not None and self.digests(made) != expected:
            raise Unsound("computed in another way it has another digest")
        return made

    def _named(self, digest: Digest) -> StretchedProgram:
        if digest not in self._programs:
            raise BadEvidence(f"unknown program {digest.hex()}")
        return self._programs[digest]

    def _loaded(
        self, program: Program, stretches: Sequence[Stretch], options: RunOptions, products: exact.Products
    ) -> StretchedProgram:
        return StretchedProgram(program, stretches, options, products, self._spool)


def within(programs: Mapping[Key, Program], memory: int) -> dict[Key, tuple[Stretch, ...]]:
    """Return checked programs in stretches of so much memory, in which their constants stay too; raises Refused."""
    held = 0
    while True:
        found = {digest: stretches_of(program, memory - held) for digest, program in programs.items()}
        constants = sum(map(held_bytes, found.values()))
        if constants <= held:
            return found
        held = constants
