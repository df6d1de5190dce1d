"""A group's exchanges by PyTorch's own library: int64 sums and maxima, exact, and an error when a member goes."""

import socket
from datetime import timedelta
from typing import Any

import torch

from verification.errors import Unavailable

distributed: Any = torch.distributed
"""Whose stubs leave out what stands here."""
Store = Any
"""A `torch.distributed.Store`."""

PATIENCE = timedelta(minutes=10)
"""How long a member may keep the others waiting: its first step compiles and tries kernels."""
FINDING = timedelta(seconds=20)
"""How long members may take to find each other, each as soon as it is told."""
RECOVERY_SECONDS = 30.0
"""How long after one member's error all others have theirs."""


class GlooMeeting:
    """The place where members leave their addresses, at the leader's."""

    recovery = RECOVERY_SECONDS

    def __init__(self, store: Store, text: str, own: str) -> None:
        self._store, self.text, self._own = store, text, own

    @classmethod
    def hosted(cls, address: str) -> "GlooMeeting":
        """Open one at an address of this machine."""
        listener = socket.create_server((address, 0))
        port = listener.getsockname()[1]
        store = distributed.TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=FINDING,
            master_listen_fd=listener.detach(),
        )
        return cls(store, str(port), address)

    @classmethod
    def visited(cls, text: str, leader: str, own: str) -> "GlooMeeting":
        """Come to a leader's from a machine's own address; raises Unavailable."""
        try:
            store = distributed.TCPStore(leader, int(text), wait_for_workers=False, timeout=FINDING)
        except RuntimeError as error:
            raise Unavailable("the group's leader cannot be reached") from error
        return cls(store, text, own)

    def meet(self, generation: int, place: int, members: int) -> "Gloo":
        """Return the exchange of a member; raises Unavailable."""
        return Gloo(self._store, generation, place, members, self._own)

    def close(self) -> None:
        """End it."""
        self._store = None


class Gloo:
    """The exchange of one member with a fixed set of others."""

    def __init__(self, store: Store, generation: int, place: int, members: int, address: str) -> None:
        """Meet the others of a generation, each at its place 0 .. `members` - 1, on the interface of an address.

        Raises Unavailable when one does not come.
        """
        options = distributed.ProcessGroupGloo._Options()
        options._devices = [distributed.ProcessGroupGloo.create_device(hostname=address)]
        options._timeout = FINDING
        try:
            own = distributed.PrefixStore(str(generation), store)
            self._group = distributed.ProcessGroupGloo(own, place, members, options)
            self._group._set_default_timeout(PATIENCE)
        except RuntimeError as error:
            raise Unavailable("a member of the group did not come") from error

    def greatest(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the greatest number at each place, in the numbers' memory; raises Unavailable."""
        return self._reduced(numbers, distributed.ReduceOp.MAX)

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the sums modulo 2^64, in the numbers' memory; raises Unavailable."""
        return self._reduced(numbers, distributed.ReduceOp.SUM)

    def close(self) -> None:
        """Leave, which ends what others wait for."""
        del self._group

    def _reduced(self, numbers: torch.Tensor, operation: Any) -> torch.Tensor:
        options = distributed.AllreduceOptions()
        options.reduceOp = operation
        try:
            self._group.allreduce([numbers], options).wait()
        except RuntimeError as error:
            raise Unavailable("a member of the group is gone") from error
        return numbers
