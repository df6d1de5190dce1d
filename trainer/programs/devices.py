"""The door to a device: whether it is here, what multiplies on it, and how much memory it has."""

import torch

from trainer.exact import BackendFault, Products
from trainer.programs.options import FORCE, RunOptions
from verification.errors import UserError


def require_device(options: RunOptions) -> torch.device:
    """Return the options' device with its number; raises UserError where this machine has none such."""
    name, device = options.device, torch.device(options.device)
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        built = "sees no NVIDIA GPU" if torch.version.cuda else "was built without CUDA"
        mend = "look at nvidia-smi and CUDA_VISIBLE_DEVICES" if torch.version.cuda else "install one with it"
        raise UserError(f"no device {name!r}: this PyTorch {built}; {mend}, or take --device cpu")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= (count := torch.cuda.device_count()):
        raise UserError(f"no device {name!r}: PyTorch sees {count}, the last is cuda:{count - 1}")
    return torch.device("cuda", index)


def products_for(options: RunOptions) -> Products:
    """Return what multiplies on the options' device, certified there.

    Raises UserError where the device is not here, or the backend that is asked for does not serve on it.
    """
    device = require_device(options)
    try:
        return Products(device, options.product)
    except BackendFault as fault:
        raise UserError(f"{FORCE}={options.product}: {fault}") from fault


def device_memory(options: RunOptions) -> int | None:
    """Return the bytes of a GPU's own memory; None for the CPU, whose memory is the machine's."""
    device = require_device(options)
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None
