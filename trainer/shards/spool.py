"""Tensors in files instead of in memory: the system reads them where somebody does, and drops them where it needs room.

A file has a name only while it is written, so none is left over, whatever ends the process.
"""

import errno
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from p2p.blobs import require_room
from verification.errors import NoRoom, Unavailable

PAGE = 4096
"""Bytes of the smallest tensor that has a file: a mapped one takes no less memory."""


class Spool:
    """Puts tensors into files of a folder, each mapped as long as a tensor in it lives; nobody may change one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.written = 0
        """Bytes of all tensors that got a file."""

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the same tensor on the CPU and in a file, unless it has one already or is small.

        Raises NoRoom where the disk has no more to spare, Unavailable where it cannot be written to.
        """
        storage = tensor.untyped_storage()
        if storage.filename is not None or (storage.nbytes() <= PAGE and tensor.device.type == "cpu"):
            return tensor
        if tensor.nbytes <= PAGE:
            return tensor.detach().cpu().clone()  # of memory that others lie in too
        return self._written(tensor.detach().cpu().contiguous())

    def draft(self, shape: Sequence[int], dtype: torch.dtype) -> "Draft":
        """Return the file of a tensor whose numbers come in their order; raises NoRoom, Unavailable."""
        return Draft(self, self._folder, tuple(shape), dtype)

    def _written(self, tensor: torch.Tensor) -> torch.Tensor:
        with self.draft(tensor.shape, tensor.dtype) as draft:
            draft.add(tensor)
            return draft.finish()


class Draft:
    """A tensor that is being written; leaving it leaves no name."""

    def __init__(self, spool: Spool, folder: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Raises NoRoom where the disk has no more to spare, Unavailable where it cannot be written to."""
        self._spool, self._folder, self._shape, self._dtype = spool, folder, shape, dtype
        self.missing = math.prod(shape)
        """How many numbers are still to come."""
        require_room(folder, self.missing * dtype.itemsize)
        with self._told():
            handle, self._name = tempfile.mkstemp(dir=folder, prefix="value-")
            self._file = os.fdopen(handle, "wb", buffering=0)

    def add(self, tensor: torch.Tensor) -> None:
        """Write down the next numbers, a tensor on the CPU; raises NoRoom, Unavailable."""
        left = memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        with self._told():
            while left:
                left = left[self._file.write(left) :]
        self.missing -= tensor.numel()

    def finish(self) -> torch.Tensor:
        """Return the tensor, all of whose numbers are there; raises Unavailable."""
        assert not self.missing
        with self._told():
            size = math.prod(self._shape)
            mapped = torch.from_file(self._name, shared=True, size=size, dtype=self._dtype)
        self._spool.written += mapped.nbytes
        return mapped.reshape(self._shape)

    def close(self) -> None:
        """Forget the name; what is mapped stays."""
        self._file.close()
        Path(self._name).unlink(missing_ok=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raise NoRoom or Unavailable for what the system says."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoom(f"{self._folder}: its disk is full: free space there") from error
            raise Unavailable(f"{self._folder}: cannot write there: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
