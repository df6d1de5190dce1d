"""The product of `int8.c`: three products of 7-bit planes on a processor's int8 tiles, or its products of int8 vectors.

Tiles (Intel's AMX) multiply eight times as many int8 as vectors multiply int16; ARM's vectors four times (dotprod) or
eight (i8mm). Linux saves the registers only of a
process that asked for them, so the process asks before the library is built.
"""

import ctypes
import os

import torch

from trainer.exact.c_product import CompiledProduct, instructions, text
from trainer.exact.native import ON_ARM, CannotCompile, build, processor_has

BITS = 14
"""Two planes of 7 bits hold so many, and their sum fits int8 again."""
RUN = 2**11
"""Numbers along the sum after which int8.c empties its sums of int32: the most that they hold. Panels of so many stay
in the second cache level."""

_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA = 158, 0x1023, 18


def refusal(device: torch.device, bits: int, depth: int) -> str:
    """Say why the product cannot serve, or nothing."""
    if bits > BITS:
        return f"two 7-bit planes hold {BITS} bits"
    return INT8.refusal(device)


def ask_for_tiles() -> str:
    """Ask Linux for tiles, for all threads of this process (kernel documentation, arch/x86/xstate); say why not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA) == 0:
        return ""
    return os.strerror(ctypes.get_errno())


def _load() -> ctypes.CDLL:
    """Return the library; raises CannotCompile where its instructions would end this process."""
    if not ON_ARM and not processor_has("amx_int8"):
        raise CannotCompile("this processor has no int8 tiles (AMX)")
    if not ON_ARM and (refused := ask_for_tiles()):
        mend = "use Linux 5.16 or newer, and let a sandbox pass arch_prctl"
        raise CannotCompile(f"the kernel refuses int8 tiles (AMX): {refused}; {mend}")
    library = build(text("int8.c"))
    if not instructions(library):
        raise CannotCompile(
            "this processor, or the C compiler, knows no products of int8 (asimddp)"
            if ON_ARM
            else "the C compiler knows no int8 tiles (AMX): install gcc 11, clang 12 or newer"
        )
    return library


INT8 = CompiledProduct(_load, lambda bits: RUN)
