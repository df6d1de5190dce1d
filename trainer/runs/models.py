"""Models in and out: Hugging Face configurations to modules, trained states to Hugging Face folders."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.programs.conversion import to_torch
from trainer.runs.tasks import TASKS, plain_logits
from verification.errors import UserError
from verification.tensors import Bundle

TRACEABLE = {"attn_implementation": "eager", "experts_implementation": "batched_mm"}
"""The forms of attention and of experts whose gradients decompose, in shapes that depend on no data."""

REFUSALS = (ValueError, TypeError, ArithmeticError, RuntimeError, AttributeError, ImportError)
"""What the models of transformers raise for configs that do not fit together, or for a package that is missing."""

MAX_REASON = 300
"""Characters of somebody else's error message that ours repeats."""


def build_model(config: Mapping[str, Any], seed: int = 0, task: str = "causal-lm") -> nn.Module:
    """Return a float32 model for `task` and a Hugging Face config with `model_type`, weights drawn from `seed`.

    Raises UserError for a config that transformers refuses.
    """
    return build_class(TASKS[task].auto_class, config, seed)


def build_class(auto_class: str, config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """Return the same for a class of transformers that picks a model's own by its config."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    settings = {key: value for key, value in config.items() if key != "model_type"}
    try:
        parsed = transformers.AutoConfig.for_model(str(config["model_type"]), **settings)
        check_padding(parsed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            build: Any = getattr(transformers, auto_class).from_config
            model = build(parsed, **TRACEABLE, dtype=torch.float32)
    except KeyError as error:
        raise UserError(
            f"the model's config lacks or misnames {error}; give a model_type that transformers knows"
        ) from error
    except (*REFUSALS, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"transformers refuses the model's config: {reason[:MAX_REASON]}") from error
    built: nn.Module = model.train()
    return built


def read_config(path: Path) -> dict[str, Any]:
    """Return the Hugging Face config in a JSON file; raises UserError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no readable JSON config: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: a model config is a JSON object")
    return config


def check_padding(config: Any) -> None:
    """Raise UserError for a padding token that is none: training needs no such token, but the embedding marks it."""
    text = config.get_text_config(decoder=True)
    padding, rows = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if isinstance(padding, int) and isinstance(rows, int) and not -rows <= padding < rows:
        raise UserError(
            f"model.config.pad_token_id: {padding} is no token of {rows}: leave it out, or raise vocab_size"
        )


def config_of(model: nn.Module) -> Any:
    """Return the config of a model of transformers, None for another module."""
    import transformers

    return model.config if isinstance(model, transformers.PreTrainedModel) else None


def logits_of(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Return the logits [batch, length, vocabulary] of int64 tokens [batch, length]; raises UserError for others."""
    if config_of(model) is not None:
        given: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
        return given
    logits = plain_logits(model, tokens)
    if logits.dim() != 3 or logits.shape[:2] != tokens.shape:
        raise UserError(
            f"the model's forward makes logits {list(logits.shape)} of tokens {list(tokens.shape)}: make them [batch, "
            "length, vocabulary]"
        )
    return logits


def reads_ahead(model: nn.Module, length: int) -> bool:
    """Return whether what a causal model says of a token moves with tokens that come later."""
    if length < 2:
        return False
    rows, read = rows_of(model, length), length if config_of(model) is None else min(length, 8)
    tokens = torch.arange(read)[None] % rows
    changed = tokens.clone()
    changed[0, -1] = (tokens[0, -1] + 1) % rows
    model.eval()
    with torch.no_grad():
        before, after = (logits_of(model, given)[0, :-1] for given in (tokens, changed))
    model.train()
    return bool((before - after).abs().max() > 1e-4 * before.abs().max())


def rows_of(model: nn.Module, length: int) -> int:
    """Return how many tokens a model of text knows, which a module that is none of transformers tells of so many."""
    if config_of(model) is None:
        with torch.no_grad():
            return logits_of(model, torch.zeros(1, length, dtype=torch.int64)).shape[-1]
    given: Any = model
    rows: int = given.get_input_embeddings().weight.shape[0]
    return rows


def positions_of(model: nn.Module) -> int | None:
    """Return how many tokens at once a model's config is for, None where it does not say."""
    config = config_of(model)
    found = None if config is None else getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def load_state(model: nn.Module, parameter_names: Sequence[str], state: Bundle) -> None:
    """Copy a state into a model's parameters.

    `state` begins with one tensor per name, in order; what follows (momentum) is left out. Raises UserError when a
    tensor does not fit its parameter.
    """
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in zip(parameter_names, state.tensors, strict=False):
            if parameters[name].shape != tuple(tensor.shape):
                raise UserError(
                    f"parameter {name!r} has shape {list(tensor.shape)} in the state; use the run's own model"
                )
            parameters[name].copy_(to_torch(tensor))


def save_model(
    model: nn.Module, folder: Path, tokenizer: Path | None, dtype: torch.dtype = torch.float32
) -> None:
    """Write `config.json`, `model.safetensors` and the files in the folder `tokenizer`, if there is one, to `folder`.

    Parameters are rounded once to `dtype`, to nearest, in the model too.
    """
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    transformers.utils.logging.disable_progress_bar()
    saver: Any = model.to(dtype)
    saver.save_pretrained(folder, safe_serialization=True)
    if tokenizer is not None:
        shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
