"""How a peer executes programs: one value from the command line to the kernel. No torch: the node process reads it."""

import os
import re
from dataclasses import dataclass
from enum import StrEnum

from verification.errors import UserError
from verification.units import Count

FORCE = "PROOFSWARM_PRODUCT"
"""Environment variable that names the backend of every product that it can serve, for speed tests."""


class Loops(StrEnum):
    """Whether a program runs on compiled loops: never, where it is worth the compiler's time, or always."""

    NEVER = "never"
    WORTHWHILE = "worthwhile"
    ALWAYS = "always"


NOTHING = Count(0)


@dataclass(frozen=True)
class RunOptions:
    """Where and how programs run; none of it changes a bit of what they make.

    `device` is cpu, cuda or cuda:N. `memory` is the most bytes that one program may need, None: any; `held` of them are
    taken beside a program that runs whole, by what runs in turn with it. `product` names the backend of every product
    that it can serve, empty: the fastest. `scratch` is the folder for files of what has no place in memory, empty: the
    system's for such files. By default all runs node by node on the CPU.
    Raises ValueError for a device of another name.
    """

    device: str = "cpu"
    memory: Count | None = None
    loops: Loops = Loops.NEVER
    product: str = ""
    scratch: str = ""
    held: Count = NOTHING

    @property
    def room(self) -> int | None:
        """The most bytes that a program may need that runs whole, None: any."""
        return None if self.memory is None else max(0, self.memory - self.held)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", self.device):
            raise ValueError(f"unknown device {self.device!r}: choose cpu, cuda or cuda:N")


NODE_BY_NODE, AS_PEERS = RunOptions(), RunOptions(loops=Loops.WORTHWHILE)


def forced_product() -> str:
    """Return the backend that the environment names, or nothing: the one place that reads it, for commands to call."""
    return os.environ.get(FORCE, "")


def peer_options(device: str = "cpu", memory: Count | None = None) -> RunOptions:
    """Return how a peer runs programs, or a command that does what a peer would. Raises UserError for no device."""
    try:
        return RunOptions(device, memory, Loops.WORTHWHILE, forced_product())
    except ValueError as error:
        raise UserError(str(error)) from error
