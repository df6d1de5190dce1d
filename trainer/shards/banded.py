"""Running a stretch in bands: each band's rows go to files, so that no value is in memory whole."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch

from trainer.programs.interpreter import LoadedProgram, Tap
from trainer.programs.kernels import TORCH_DTYPES
from trainer.shards.spool import Draft, Spool
from trainer.shards.stretches import Stretch
from verification.library import StepFailed
from verification.program import Program

Check = Callable[[int, torch.Tensor], None]
"""Raises KernelFailed for numbers with which a value of the whole program ends the step."""


class BandedStretch:
    """A stretch that has bands, on programs that are loaded."""

    def __init__(
        self, stretch: Stretch, loaded: Mapping[Program, LoadedProgram], spool: Spool, check: Check
    ) -> None:
        assert stretch.bands is not None
        self._stretch, self._bands = stretch, stretch.bands
        self._loaded, self._spool, self._check = loaded, spool, check

    def run(self, given: Sequence[torch.Tensor], wanted: Collection[int]) -> dict[int, torch.Tensor]:
        """Return those values that are `wanted` of what the stretch makes, in files; raises StepFailed, KernelFailed
        where some node ends the step."""
        with ExitStack() as files:
            drafts = {
                number: self._draft(number, files) for number in self._stretch.makes if number in wanted
            }
            for program, band in self._in_turn(given):
                made = self._loaded[program].run(band)
                for number, rows in zip(self._stretch.makes, made, strict=True):
                    self._check(number, rows)
                    if number in drafts:
                        drafts[number].add(rows)
                del made, rows  # or the next band runs beside them
            return {number: draft.finish() for number, draft in drafts.items()}

    def tell(self, given: Sequence[torch.Tensor], tap: Tap | None) -> dict[int, torch.Tensor]:
        """Return all values, and let a `tap` hear each, once; raises StepFailed with the first node that ends the step.

        What that one made is heard too, if it made all of it.
        """
        own = [number for number in self._stretch.nodes if number >= self._stretch.first]
        failure: StepFailed | None = None
        with ExitStack() as files:
            drafts = {number: self._draft(number, files) for number in own}
            for program, band in self._in_turn(given):
                try:
                    self._loaded[program].run(band, self._hearing(program, drafts))
                except StepFailed as error:
                    found = StepFailed(self._number(program, error.node), str(error.__cause__ or error))
                    failure = found if failure is None or found.node < failure.node else failure
            until = own[-1] if failure is None else failure.node
            made = {n: drafts[n].finish() for n in own if n <= until and not drafts[n].missing}
        if tap is not None:
            for number, value in made.items():
                tap(number, value)
        if failure is not None:
            raise failure
        return made

    def _hearing(self, program: Program, drafts: Mapping[int, Draft]) -> Tap:
        def hear(place: int, rows: torch.Tensor) -> None:
            number = self._number(program, place)
            if number in drafts:
                drafts[number].add(rows)
            self._check(number, rows)

        return hear

    def _number(self, program: Program, place: int) -> int:
        return self._stretch.nodes[place - self._loaded[program].first]

    def _in_turn(self, given: Sequence[torch.Tensor]) -> Iterator[tuple[Program, list[torch.Tensor]]]:
        """Yield each band's program with what it reads."""
        for program, begin, end in self._bands.spans():
            yield (
                program,
                [
                    tensor[begin:end] if is_cut else tensor
                    for tensor, is_cut in zip(given, self._bands.is_cut, strict=True)
                ],
            )

    def _draft(self, number: int, files: ExitStack) -> Draft:
        node = self._stretch.program.nodes[self._stretch.nodes.index(number)]
        return files.enter_context(self._spool.draft(node.shape, TORCH_DTYPES[node.dtype]))
