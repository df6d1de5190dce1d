"""Images as training records: the bytes of an image, channel by channel, and the byte of its label."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from trainer.runs.data.records import Records, write_rows
from verification.errors import UserError

Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True)
class ImageRecords:
    """Records, uint8 [n, channels * height * width + 1], and the shape of their images."""

    train: Records
    held_out: Records
    shape: Shape


@contextmanager
def image_records(path: Path, held_out: float, config: Any, beside: Path) -> Iterator[ImageRecords]:
    """Give the records of images for a model's config; the last ones are held out.

    The .safetensors file holds `images`, uint8 [n, channels, height, width] or channels last, and `labels`, uint8 [n].
    Raises UserError.
    """
    images, labels = _read(path)
    images, shape = _channels_first(images, config, path)
    most, classes = int(labels.max()) if len(labels) else 0, getattr(config, "num_labels", 256)
    if most >= classes:
        raise UserError(
            f"{path}: image {int(labels.argmax())} has label {most}, but the model tells {classes} classes, from 0: "
            "set model.config.num_labels, or correct the labels"
        )
    kept = round(len(images) * held_out)
    if not 0 < kept < len(images):
        raise UserError(f"{path}: {len(images)} images leave none to train on or to hold out; give more")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=beside, prefix=".data-")
    except OSError as error:
        raise UserError(
            f"{beside}: cannot write there: {error.strerror}; choose another folder with --out"
        ) from error
    with folder as name:
        rows = torch.cat([images.flatten(1), labels[:, None]], 1).numpy()
        train, rest = write_rows(Path(name) / "images.records", rows).split_end(kept)
        yield ImageRecords(train, rest, shape)


def _read(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
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
    return images, labels


def _channels_first(images: torch.Tensor, config: Any, path: Path) -> tuple[torch.Tensor, Shape]:
    """Return the images as the model takes them, which a config says as far as its family knows; raises UserError."""
    channels, size = getattr(config, "num_channels", None), getattr(config, "image_size", None)
    height, width = (size, size) if isinstance(size, int) else size or (None, None)
    for laid in (images, images.permute(0, 3, 1, 2)):
        _, *found = laid.shape
        if all(known in (None, real) for known, real in zip((channels, height, width), found, strict=True)):
            return laid, (found[0], found[1], found[2])
    wanted = [channels, height, width]
    raise UserError(
        f"{path}: has images of {list(images.shape[1:])}, but images of {wanted} are what the model takes: set "
        "model.config.num_channels and image_size, or scale the images"
    )
