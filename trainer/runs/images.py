"""Images as training records: the bytes of an image, channel by channel, and the byte of its label."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from trainer.programs.conversion import from_torch
from verification.errors import UserError
from verification.tensors import Tensor


def read_images(path: Path, held_out: float) -> tuple[Tensor, Tensor]:
    """Return training and held-out records, uint8 [n, channels * height * width + 1]; the held-out are the last.

    The .safetensors file holds `images`, uint8 [n, channels, height, width], and `labels`, uint8 [n]. Raises UserError.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: no readable .safetensors file: {error}") from error
    images, labels = (tensors.get(name, torch.empty(0)) for name in ("images", "labels"))
    fits = (
        images.dim() == 4 and labels.shape == images.shape[:1] and images.dtype == labels.dtype == torch.uint8
    )
    if not fits:
        raise UserError(
            f"{path}: needs uint8 tensors images [n, channels, height, width] and labels [n], "
            f"has images {images.dtype} {list(images.shape)} and labels {labels.dtype} {list(labels.shape)}"
        )
    records = torch.cat([images.flatten(1), labels[:, None]], 1)
    kept = round(len(records) * held_out)
    if not 0 < kept < len(records):
        raise UserError(f"{path}: {len(records)} images leave none to train on or to hold out; give more")
    return from_torch(records[:-kept].clone()), from_torch(records[-kept:].clone())
