"""Models in and out: Hugging Face configurations to modules, trained states to Hugging Face folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.programs.conversion import to_torch
from trainer.runs.tasks import TASKS
from verification.errors import UserError
from verification.tensors import Bundle

MAX_REASON = 300
"""Characters of somebody else's error message that ours repeats."""


def build_model(config: Mapping[str, Any], seed: int = 0, task: str = "causal-lm") -> nn.Module:
    """Return a float32 model for `task` and a Hugging Face config with `model_type`, weights drawn from `seed`.

    Attention is the eager one, whose gradients decompose. Raises UserError for a config that transformers refuses.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    settings = {key: value for key, value in config.items() if key != "model_type"}
    try:
        parsed = transformers.AutoConfig.for_model(str(config["model_type"]), **settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            build: Any = getattr(transformers, TASKS[task].auto_class).from_config
            model = build(parsed, attn_implementation="eager", dtype=torch.float32)
    except KeyError as error:
        raise UserError(
            f"the model's config lacks or misnames {error}; give a model_type that transformers knows"
        ) from error
    except (ValueError, TypeError, ArithmeticError, RuntimeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"transformers refuses the model's config: {reason[:MAX_REASON]}") from error
    built: nn.Module = model.train()
    return built


def export_model(model: nn.Module, parameter_names: Sequence[str], state: Bundle, folder: Path) -> None:
    """Write `config.json`, `model.safetensors` and, for a model of text, a byte tokenizer into `folder`.

    `state` begins with one tensor per name, in order; what follows (momentum) is left out. Changes the model's
    parameters to the state's. Raises UserError when a tensor does not fit its parameter.
    """
    import transformers

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in zip(parameter_names, state.tensors, strict=False):
            if parameters[name].shape != tuple(tensor.shape):
                raise UserError(
                    f"parameter {name!r} has shape {list(tensor.shape)} in the state; use the run's own model"
                )
            parameters[name].copy_(to_torch(tensor))
    folder.mkdir(parents=True, exist_ok=True)
    transformers.utils.logging.disable_progress_bar()
    saver: Any = model
    saver.save_pretrained(folder, safe_serialization=True)
    if hasattr(model.config, "vocab_size"):
        byte_tokenizer().save_pretrained(folder)


def byte_tokenizer() -> Any:
    """Return a fast tokenizer whose 256 tokens are the bytes of UTF-8 text, each with its value as its number."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {character: value for value, character in enumerate(_byte_alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    make: Any = transformers.PreTrainedTokenizerFast
    return make(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def _byte_alphabet() -> list[str]:
    """The printable character that the byte-level pre-tokenizer writes for each byte (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    return [chr(value) if value in printable else chr(256 + others.index(value)) for value in range(256)]
