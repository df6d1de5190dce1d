"""Tensors in files instead of in memory: the system reads them where somebody does, and drops them where it needs room.

A file has a name only while it is written, so none is left over, whatever ends the process.
"""

import errno
import os
import tempfile
from pathlib import Path

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

    def _written(self, tensor: torch.Tensor) -> torch.Tensor:
        require_room(self._folder, tensor.nbytes)
        try:
            handle, name = tempfile.mkstemp(dir=self._folder, prefix="value-")
            try:
                with os.fdopen(handle, "wb", buffering=0) as file:
                    left = memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)
                    while left:
                        left = left[file.write(left) :]
                mapped = torch.from_file(name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
            finally:
                Path(name).unlink()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoom(f"{self._folder}: its disk is full: free space there") from error
            raise Unavailable(f"{self._folder}: cannot write there: {error.strerror}") from error
        self.written += tensor.nbytes
        return mapped.reshape(tensor.shape)
