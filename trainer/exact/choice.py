"""Which backend multiplies: certified first, then the fastest for the shape, as measured on this machine.

The choice is one of speed only, so it may differ between machines, runs and moments: every candidate gives the same
integers. A class of shapes is measured on the operands that meet it first, where the candidates must also agree.
"""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.exact.backends import BACKENDS, REFERENCE, TRUSTED
from trainer.exact.certificate import certify
from trainer.exact.errors import BackendFault

FORCE = "PROOFSWARM_PRODUCT"
"""Environment variable that names the backend of every product that it can serve."""

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

    device: str
    threads: int
    bits: int
    batch: int
    rows: int
    depth: int
    columns: int
    prepared: bool


_forced: str | None = os.environ.get(FORCE) or None
_verdicts: dict[tuple[str, str], str] = {}
_candidates: dict[tuple[str, int, int], list[str]] = {}
_chosen: dict[ShapeClass, str] = {}
_used: set[str] = set()


def verdict(name: str, device: str = "cpu") -> str:
    """Certify a backend in the short form, once per process; return why it failed, or nothing."""
    if (name, device) not in _verdicts:
        try:
            certify(name, device, full=False)
            _verdicts[name, device] = ""
        except BackendFault as fault:
            _verdicts[name, device] = str(fault)
    return _verdicts[name, device]


def refused_kernels() -> tuple[str, ...]:
    """Return why each compiled product that this processor has instructions for is not used, in one line each."""
    compiled = [name for name, backend in BACKENDS.items() if backend.rounded is not None]
    return tuple(fault for name in compiled if (fault := verdict(name)) and LACKING not in fault)


def force_backend(name: str | None, device: str = "cpu") -> None:
    """Use one backend for every product that it can serve; None: choose by speed again.

    Raises KeyError for an unknown name and BackendFault where it fails its certificate.
    """
    global _forced
    if name is not None and (fault := verdict(name, device)):
        raise BackendFault(fault)
    _forced = name


def forced_backend() -> str | None:
    """The backend that `force_backend` or the environment names."""
    return _forced


def chosen_backends() -> dict[ShapeClass, str]:
    """The choices made so far in this process."""
    return dict(_chosen)


def used_backends() -> frozenset[str]:
    """The backends that products of this process were given by `choose`, and not by force."""
    return frozenset(_used)


def forget_choices() -> None:
    """Certify and measure again from now on."""
    for table in (_verdicts, _candidates, _chosen, _used):
        table.clear()


def shape_class(left: Tensor, right: Tensor, bits: int, prepared: bool = False) -> ShapeClass:
    """The class of int16 [B, M, K] by [B, K, N]."""
    sizes = (*left.shape, right.shape[2])
    batch, rows, depth, columns = ((size - 1).bit_length() if size else 0 for size in sizes)
    return ShapeClass(str(left.device), torch.get_num_threads(), bits, batch, rows, depth, columns, prepared)


Run = Callable[[str], Tensor]
"""Does the product at hand with the backend of that name."""

Clock = Callable[[], float]
"""Seconds since some moment."""


def choose(
    left: Tensor,
    right: Tensor,
    bits: int,
    run: Run,
    prepared: bool = False,
    *,
    clock: Clock = time.perf_counter,
) -> str:
    """Return the name of the backend for int16 [B, M, K] by [B, K, N]; measures a class of shapes when it is new.

    `prepared`: only one that can `prepare`, for a caller that checks the results itself. Raises BackendFault when no
    certified backend serves or the environment names none of ours.
    """
    name = _choose(left, right, bits, run, prepared, clock)
    if _forced is None:
        _used.add(name)
    return name


def _choose(left: Tensor, right: Tensor, bits: int, run: Run, prepared: bool, clock: Clock) -> str:
    device, depth = left.device, left.shape[2]
    if _forced is not None:
        if _forced not in BACKENDS:
            raise BackendFault(f"{FORCE} names no backend: {_forced!r}; there are {', '.join(BACKENDS)}")
        if _serves(_forced, device, bits, depth) and (BACKENDS[_forced].prepare or not prepared):
            return _forced
    if left.numel() * right.shape[2] <= SMALL:
        return serving(device, bits, depth, prepared)[0]
    place = shape_class(left, right, bits, prepared)
    name = _chosen.get(place)
    # Depths of one class may lie on both sides of a backend's limit.
    if name is None or BACKENDS[name].refusal(device, bits, depth):
        names = serving(device, bits, depth, prepared)
        if not prepared:
            names = [n for n in names if n in candidates(device, bits, clock)]
        name = _chosen[place] = _fastest(names, run, place, clock)
    return name


def serving(device: torch.device, bits: int, depth: int, prepared: bool = False) -> list[str]:
    """Certified backends for these sizes, or those of them that can `prepare`, in the order of preference.

    Raises BackendFault when there is none.
    """
    names = [name for name in BACKENDS if name != REFERENCE and (BACKENDS[name].prepare or not prepared)]
    names = [name for name in names if _serves(name, device, bits, depth)]
    if not names:
        raise BackendFault(
            f"no certified backend multiplies {bits}-bit integers over K = {depth} on {device}"
        )
    return names


def prepares(device: torch.device, bits: int, depth: int) -> bool:
    """Return whether `choose` finds a backend that can `prepare`, the forced one if one is."""
    names = [_forced] if _forced in BACKENDS else BACKENDS
    return any(BACKENDS[name].prepare and _serves(name, device, bits, depth) for name in names)


def _serves(name: str, device: torch.device, bits: int, depth: int) -> bool:
    return not BACKENDS[name].refusal(device, bits, depth) and not verdict(name, str(device))


def candidates(device: torch.device, bits: int, clock: Clock = time.perf_counter) -> list[str]:
    """Backends worth measuring: those that a sample does not show to be hopeless. One without int8 instructions may be
    a hundred times slower, and would hold up the first step of a run for minutes."""
    key = (str(device), bits, torch.get_num_threads())
    if key not in _candidates:
        m, k, n = SAMPLE
        left = torch.ones(1, m, k, dtype=torch.int16, device=device)
        right = torch.ones(1, k, n, dtype=torch.int16, device=device)

        def run(name: str) -> Tensor:
            return BACKENDS[name].against(right, bits)(left)

        seconds = {name: _seconds(run, name, device, 2, clock) for name in serving(device, bits, k)}
        best = min(seconds.values())
        _candidates[key] = [
            name for name, taken in seconds.items() if taken <= SLOW * best or name == TRUSTED
        ]
    return _candidates[key]


def _fastest(names: list[str], run: Run, place: ShapeClass, clock: Clock) -> str:
    """Measure on the product at hand; a backend that disagrees with the trusted one is refused from now on."""
    if len(names) == 1:
        return names[0]
    expected = run(TRUSTED) if TRUSTED in names else None
    seconds = {}
    for name in names:
        if expected is not None and not torch.equal(run(name), expected):
            _verdicts[name, place.device] = f"backend {name} disagrees with {TRUSTED} on {place}"
        else:
            seconds[name] = _seconds(run, name, torch.device(place.device), REPEATS, clock)
    return min(seconds, key=seconds.__getitem__)


def _seconds(run: Run, name: str, device: torch.device, repeats: int, clock: Clock) -> float:
    """The least time of a few: what disturbs only adds."""
    times = []
    for _ in range(repeats):
        began = clock()
        run(name)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - began)
    return min(times)
