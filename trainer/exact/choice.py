"""Which backend multiplies: certified first, then the fastest for the shape, as measured on this machine.

The choice is one of speed only, so it may differ between machines, runs and moments: every candidate gives the same
integers. A class of shapes is measured on the operands that meet it first, where the candidates must also agree.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.exact.backends import BACKENDS, REFERENCE, TRUSTED
from trainer.exact.certificate import certify
from trainer.exact.errors import BackendFault

SMALL = 2**18
"""Up to so many multiplications the first backend that serves is taken: measuring would cost more than it saves."""

LACKING = "this processor has no "
"""How a backend refuses where nothing can be mended."""

SAMPLE = (192, 192, 192)
SLOW = 4.0
"""A backend this many times slower than the best on the sample is no candidate for other shapes."""

REPEATS = 3


class ShapeClass(NamedTuple):
    """Products that share a backend; sizes as exponents of the next power of two; `prepared`: see `choose`."""

    threads: int
    bits: int
    batch: int
    rows: int
    depth: int
    columns: int
    prepared: bool


Run = Callable[[str], Tensor]
"""Does the product at hand with the backend of that name."""

Clock = Callable[[], float]
"""Seconds since some moment."""


class Products:
    """What multiplies on one device: the backends that were certified there, and the one chosen per class of shapes.

    Whoever multiplies is handed one. A check has its own, so that it shares neither verdicts nor choices with what it
    checks. `forced` names the backend of every product that it can serve, empty: the fastest. Raises BackendFault when
    there is no such backend or it fails its certificate on `device`.
    """

    def __init__(
        self, device: str | torch.device = "cpu", forced: str = "", clock: Clock = time.perf_counter
    ) -> None:
        self.device = torch.device(device)
        self.forced = forced
        self._clock = clock
        self._verdicts: dict[str, str] = {}
        self._candidates: dict[tuple[int, int], list[str]] = {}
        self._chosen: dict[ShapeClass, str] = {}
        self._used: set[str] = set()
        if forced and forced not in BACKENDS:
            raise BackendFault(f"there is no product backend {forced!r}; choose from {', '.join(BACKENDS)}")
        if forced and (fault := self.verdict(forced)):
            raise BackendFault(fault)

    @property
    def chosen(self) -> dict[ShapeClass, str]:
        """The choices made so far."""
        return dict(self._chosen)

    @property
    def used(self) -> frozenset[str]:
        """The backends that did products."""
        return frozenset(self._used)

    def verdict(self, name: str) -> str:
        """Certify a backend in the short form, once; return why it failed, or nothing. Raises KeyError."""
        if name not in self._verdicts:
            try:
                certify(name, str(self.device), full=False)
                self._verdicts[name] = ""
            except BackendFault as fault:
                self._verdicts[name] = str(fault)
        return self._verdicts[name]

    def refused_kernels(self) -> tuple[str, ...]:
        """Return why each compiled product that this processor has instructions for is not used, in a line each."""
        if self.device.type != "cpu":
            return ()
        compiled = [name for name, backend in BACKENDS.items() if backend.rounded is not None]
        return tuple(fault for name in compiled if (fault := self.verdict(name)) and LACKING not in fault)

    def choose(self, left: Tensor, right: Tensor, bits: int, run: Run, prepared: bool = False) -> str:
        """Return the backend's name for int16 [B, M, K] by [B, K, N]; measures a class of shapes when it is new.

        `prepared`: only one that can `prepare`, for a caller that checks the results itself. Raises BackendFault for
        operands on another device, or when no certified backend serves.
        """
        if left.device != self.device:
            raise BackendFault(f"backends certified on {self.device} do not multiply on {left.device}")
        if self.forced and self._serves(self.forced, bits, left.shape[2], prepared):
            name = self.forced
        else:
            name = self._choose(left, right, bits, run, prepared)
        self._used.add(name)
        return name

    def _choose(self, left: Tensor, right: Tensor, bits: int, run: Run, prepared: bool) -> str:
        depth = left.shape[2]
        if left.numel() * right.shape[2] <= SMALL:
            return self._first(bits, depth, prepared)
        place = shape_class(left, right, bits, prepared)
        name = self._chosen.get(place)
        # Depths of one class may lie on both sides of a backend's limit.
        if name is None or BACKENDS[name].refusal(self.device, bits, depth):
            names = self.serving(bits, depth, prepared)
            if not prepared:
                names = [name for name in names if name in self.candidates(bits)]
            name = self._chosen[place] = self._fastest(names, run, place)
        return name

    def serving(self, bits: int, depth: int, prepared: bool = False) -> list[str]:
        """Certified backends for these sizes, or those of them that can `prepare`, in the order of preference.

        Raises BackendFault when there is none.
        """
        first = self._first(bits, depth, prepared)
        return [first, *(name for name in self._able(bits, depth, prepared) if name != first)]

    def prepares(self, bits: int, depth: int) -> bool:
        """Return whether `choose` finds a backend that can `prepare`, the forced one if one is."""
        if self.forced:
            return self._serves(self.forced, bits, depth, prepared=True)
        return any(self._able(bits, depth, prepared=True))

    def candidates(self, bits: int) -> list[str]:
        """Backends worth measuring: those that a sample does not show to be hopeless. One without int8 instructions
        may be a hundred times slower, and would hold up the first step of a run for minutes."""
        key = (bits, torch.get_num_threads())
        if key not in self._candidates:
            m, k, n = SAMPLE
            left = torch.ones(1, m, k, dtype=torch.int16, device=self.device)
            right = torch.ones(1, k, n, dtype=torch.int16, device=self.device)

            def run(name: str) -> Tensor:
                return BACKENDS[name].against(right, bits)(left)

            seconds = self._seconds(run, self.serving(bits, k), 2)
            best = min(seconds.values())
            self._candidates[key] = [
                name for name, taken in seconds.items() if taken <= SLOW * best or name == TRUSTED
            ]
        return self._candidates[key]

    def _first(self, bits: int, depth: int, prepared: bool) -> str:
        for name in self._able(bits, depth, prepared):
            return name
        raise BackendFault(
            f"no certified backend multiplies {bits}-bit integers over K = {depth} on {self.device}"
        )

    def _able(self, bits: int, depth: int, prepared: bool) -> Iterator[str]:
        """Give the backends that serve, each certified only when it is asked for."""
        return (name for name in BACKENDS if name != REFERENCE and self._serves(name, bits, depth, prepared))

    def _serves(self, name: str, bits: int, depth: int, prepared: bool) -> bool:
        backend = BACKENDS[name]
        able = backend.prepare is not None or not prepared
        return able and not backend.refusal(self.device, bits, depth) and not self.verdict(name)

    def _fastest(self, names: list[str], run: Run, place: ShapeClass) -> str:
        """Measure on the product at hand; a backend that disagrees with the trusted one is refused from now on."""
        if len(names) == 1:
            return names[0]
        expected = run(TRUSTED) if TRUSTED in names else None
        right = []
        for name in names:
            if expected is not None and not torch.equal(run(name), expected):
                self._verdicts[name] = f"backend {name} disagrees with {TRUSTED} on {place}"
            else:
                right.append(name)
        seconds = self._seconds(run, right, REPEATS)
        return min(seconds, key=seconds.__getitem__)

    def _seconds(self, run: Run, names: list[str], repeats: int) -> dict[str, float]:
        """The least time of a few of each, in turn: what disturbs only adds, and as it lasts it reaches all alike."""
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(repeats):
            for name in names:
                began = self._clock()
                run(name)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                times[name].append(self._clock() - began)
        return {name: min(each) for name, each in times.items()}


def shape_class(left: Tensor, right: Tensor, bits: int, prepared: bool = False) -> ShapeClass:
    """The class of int16 [B, M, K] by [B, K, N]."""
    sizes = (*left.shape, right.shape[2])
    batch, rows, depth, columns = ((size - 1).bit_length() if size else 0 for size in sizes)
    return ShapeClass(torch.get_num_threads(), bits, batch, rows, depth, columns, prepared)
