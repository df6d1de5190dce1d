"""Between the law's tensors (bytes) and torch's."""

import sys
import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from trainer.programs.kernels import DTYPE_NAMES, TORCH_DTYPES
from verification.tensors import Bundle, Tensor
from verification.units import Count

if sys.byteorder != "little":
    raise ImportError("proofswarm reads tensors as little-endian bytes; this machine is big-endian")


def to_torch(tensor: Tensor) -> torch.Tensor:
    """Return a torch tensor on the CPU with the same dtype, shape and elements.

    It has memory of its own, or that of a bytearray or of a file that is mapped; programs change no tensor in place.
    """
    kind, shape, data = TORCH_DTYPES[tensor.dtype], tuple(tensor.shape), tensor.data
    if not data:
        return torch.empty(shape, dtype=kind)
    if is_mapped(tensor):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            return torch.frombuffer(data, dtype=kind).reshape(shape)
    own = data if isinstance(data, bytearray) else bytearray(data)
    return torch.frombuffer(own, dtype=kind).reshape(shape)


def is_mapped(tensor: Tensor) -> bool:
    """Return whether a tensor's numbers lie in a file, which the system reads where somebody reads them."""
    return isinstance(tensor.data, memoryview) and tensor.data.readonly


def from_torch(value: torch.Tensor) -> Tensor:
    """Return the law's tensor for any torch tensor of an allowed dtype; raises TypeError for other dtypes."""
    seen = seen_by_law(value)
    return Tensor(seen.dtype, seen.shape, bytes(seen.data))


def seen_by_law(value: torch.Tensor) -> Tensor:
    """Return what `from_torch` returns, in the memory of torch's tensor where that is dense and on the CPU: for who
    hashes or writes it before anyone changes it. Raises TypeError as `from_torch`."""
    name = DTYPE_NAMES.get(value.dtype)
    if name is None:
        raise TypeError(f"dtype {value.dtype} has no place in a program")
    value = value.detach().cpu().contiguous()
    if value.is_floating_point() and bool((unordered := value.isnan()).any()):
        # A NaN's sign and payload differ between machines; its digest must not.
        value = torch.where(unordered, torch.full((), float("nan")), value)
    array: np.ndarray[Any, Any] = value.numpy()
    data: Any = array.reshape(-1).view(np.uint8).data
    return Tensor(name, tuple(Count(size) for size in value.shape), cast(bytes, data))


def bundle_of(values: Sequence[torch.Tensor]) -> Bundle:
    """Return the bundle of torch tensors in their order."""
    return Bundle(tuple(from_torch(value) for value in values))
