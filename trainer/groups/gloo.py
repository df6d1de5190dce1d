"""A group's exchanges by PyTorch's own library: int64 sums and maxima, exact, and an error when a member goes."""

import socket
from collections.abc import Sequence
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


def hosted(listener: socket.socket) -> Store:
    """Return the place where members leave their addresses, on a listening socket, which it takes over."""
    address, port = listener.getsockname()[:2]
    return distributed.TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=FINDING,
        master_listen_fd=listener.detach(),
    )


def visited(address: str, port: int) -> Store:
    """Return the same place from another machine; raises Unavailable."""
    try:
        return distributed.TCPStore(address, port, wait_for_workers=False, timeout=FINDING)
    except RuntimeError as error:
        raise Unavailable("the group's leader cannot be reached") from error


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

    def give(self, tensors: Sequence[torch.Tensor]) -> None:
        """As the leader, send a working state to all; raises Unavailable."""
        for tensor in tensors:
            self._broadcast(_bytes_of(tensor.detach().cpu().contiguous()))

    def take(self, tensors: Sequence[torch.Tensor]) -> None:
        """Fill tensors in this machine's memory with the working state that the leader gives; raises Unavailable."""
        for tensor in tensors:
            self._broadcast(_bytes_of(tensor))

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

    def _broadcast(self, data: torch.Tensor) -> None:
        options = distributed.BroadcastOptions()
        options.rootRank = 0
        try:
            self._group.broadcast([data], options).wait()
        except RuntimeError as error:
            raise Unavailable("a member of the group is gone") from error


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)
