"""Checkpoints in: a folder that transformers has saved, as the model that a run starts from."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.runs.bottlenecks import BOTTLENECKS
from trainer.runs.models import MAX_REASON, check_padding, read_config
from trainer.runs.tasks import TASKS
from verification.errors import UserError

_OF_THE_SAVER = ("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path")
"""Keys of a saved config that say how it was saved, not what the model is."""
TOKENIZER_FILE = "tokenizer.json"


def config_in(folder: Path) -> dict[str, Any]:
    """Return the config of the checkpoint in a folder; raises UserError."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: no checkpoint: it needs config.json and .safetensors files, as save_pretrained writes"
        )
    config = read_config(path)
    if "quantization_config" in config:
        raise UserError(
            f"{path}: the checkpoint is quantised; a run starts from plain weights: save it dequantised"
        )
    if BOTTLENECKS in config:
        raise UserError(
            f"{path}: the checkpoint has bottlenecks, which model.from does not read: go on from its run with "
            "'proofswarm run extend'"
        )
    return {key: value for key, value in config.items() if key not in _OF_THE_SAVER}


def load_checkpoint(folder: Path, config: Mapping[str, Any], task: str) -> nn.Module:
    """Return the model for `task` and `config` with a checkpoint's weights, whatever their dtype, as float32.

    The files are .safetensors, one or sharded: others can run code. Raises UserError, with the tensor's name, where the
    checkpoint lacks one, has one more, or one of another shape.
    """
    import transformers
    from safetensors import SafetensorError

    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: no .safetensors files; save the model with safe_serialization=True")
    settings = {key: value for key, value in config.items() if key != "model_type"}
    build: Any = getattr(transformers, TASKS[task].auto_class)
    try:
        parsed = transformers.AutoConfig.for_model(str(config["model_type"]), **settings)
        check_padding(parsed)
        with _quiet(transformers):
            model, found = build.from_pretrained(
                folder, config=parsed, attn_implementation="eager", dtype=torch.float32, local_files_only=True,
                use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
    except KeyError as error:
        raise UserError(
            f"{folder}/config.json lacks or misnames {error}: transformers must know its model_type"
        ) from error
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: the checkpoint cannot be loaded: {reason[:MAX_REASON]}") from error
    _require_all(folder, task, found)
    loaded: nn.Module = model.train()
    return loaded


def _require_all(folder: Path, task: str, found: Mapping[str, Any]) -> None:
    for name, was, wanted in sorted(found["mismatched_keys"]):
        raise UserError(
            f"{folder}: tensor {name!r} has shape {list(was)}, the model's is {list(wanted)}: config and weights differ"
        )
    for key, what in (("missing_keys", "lacks"), ("unexpected_keys", "has, and the model has not,")):
        names: Sequence[str] = sorted(found[key])
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"{folder}: the checkpoint {what} tensor {names[0]!r}{more}: no {task} model of its config"
            )


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers from printing tables about what is refused in one line below."""
    logging = transformers.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
