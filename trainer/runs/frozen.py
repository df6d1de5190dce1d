"""What a run does not train of its model: constants of the programs, kept by name for whoever rebuilds the model."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from trainer.programs.tracing.parameters import trained_parameters
from verification.errors import UserError


def _frozen_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    trained = trained_parameters(model)
    return {name: value.detach() for name, value in model.named_parameters() if name not in trained}


def frozen_digest(model: nn.Module) -> str | None:
    """Return the SHA-256 over names, dtypes, shapes and bytes of the frozen parameters, in hex; None without any."""
    frozen, hashed = _frozen_parameters(model), hashlib.sha256()
    for name, value in sorted(frozen.items()):
        hashed.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        hashed.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest() if frozen else None


def write_frozen(model: nn.Module, path: Path) -> None:
    """Write frozen parameters and the buffers that a checkpoint holds; no file where there is neither."""
    saved, kept = model.state_dict(), _frozen_parameters(model)
    kept |= {name: value for name, value in model.named_buffers() if name in saved}
    if kept:
        apart = {name: value.clone(memory_format=torch.contiguous_format) for name, value in kept.items()}
        save_file(apart, path)  # which takes no two views of one memory


def read_frozen(path: Path, needed: bool) -> dict[str, torch.Tensor]:
    """Return what `write_frozen` has written; raises UserError for a broken file, and for none where it is needed."""
    if not path.is_file():
        if needed:
            raise UserError(f"{path.parent} lacks {path.name}: copy it from where the run was made")
        return {}
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not the run's: copy it from where the run was made") from error


def load_frozen(model: nn.Module, path: Path, needed: bool) -> None:
    """Copy what `write_frozen` has written into a model; raises UserError as `read_frozen`, and for another model's."""
    try:
        found = model.load_state_dict(read_frozen(path, needed), strict=False)
    except RuntimeError as error:
        raise UserError(f"{path}: not the run's: copy it from where the run was made") from error
    if found.unexpected_keys:
        raise UserError(f"{path}: not the run's: its model has no {found.unexpected_keys[0]}")
