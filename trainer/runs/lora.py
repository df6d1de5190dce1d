"""LoRA: small matrices beside frozen ones are what a run trains, W x + alpha / rank * B A x (Hu et al., 2021).

PEFT builds, merges and names them, so what a run makes is an adapter like any other.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from trainer.programs.tracing.capture import head_of
from trainer.runs.job import ALL_LINEAR, LoraSection
from verification.errors import UserError

ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_NAMES = 12
"""Modules that an error message lists."""


def add_lora(model: nn.Module, lora: LoraSection, seed: int = 0) -> Any:
    """Freeze a model of transformers and put A [rank, inputs], drawn from `seed`, and B [outputs, rank], zeros, beside
    its targets, in place; return PEFT's view of it.

    Raises UserError for targets that match nothing, are no linear layers or share their weights, and for a rank over
    a target's smaller side.
    """
    from peft import LoraConfig, get_peft_model

    targets = targets_of(model, lora)
    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config: Any = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=_ends(model, targets))
        return get_peft_model(model, config)


def targets_of(model: nn.Module, lora: LoraSection) -> list[str]:
    """Return the names of the modules that get matrices; raises UserError."""
    modules = dict(model.named_modules())
    linear = {name: module for name, module in modules.items() if _is_linear(module)}
    if lora.targets == ALL_LINEAR:
        head = head_of(model)
        found = [name for name, module in linear.items() if module is not head]
        if not found:
            raise UserError(
                "training.lora.targets: the model has no linear layer before its head; leave LoRA out"
            )
    else:
        named = [lora.targets] if isinstance(lora.targets, str) else lora.targets
        found = [name for target in named for name in _matches(modules, target, linear)]
    shared = set(_shared(model))
    for name in found:
        weight: Any = modules[name].weight
        if f"{name}.weight" in shared:
            raise UserError(
                f"training.lora.targets: {name} shares its weights with another module, which a merge would change "
                "too: leave it out, or set model.config.tie_word_embeddings = false"
            )
        if lora.rank > min(weight.shape):
            raise UserError(
                f"training.lora.rank: {lora.rank} is more than the smaller side of {name} {list(weight.shape)}: lower "
                "it, or name other targets"
            )
    return list(dict.fromkeys(found))


def _ends(model: nn.Module, targets: list[str]) -> list[str]:
    """Return the last parts of the targets' names, as adapters mostly have them, where those match nothing else."""
    ends = {name: name.rpartition(".")[2] for name, _ in model.named_modules()}
    chosen = {ends[name] for name in targets}
    return sorted(chosen) if {name for name in ends if ends[name] in chosen} == set(targets) else targets


def _matches(modules: dict[str, nn.Module], target: str, linear: dict[str, nn.Module]) -> list[str]:
    found = [name for name in modules if name == target or name.endswith(f".{target}")]
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in linear))
    more = f" and {len(known) - MAX_NAMES} more" if len(known) > MAX_NAMES else ""
    listed = f"{', '.join(known[:MAX_NAMES])}{more}"
    if not found:
        raise UserError(f"training.lora.targets: no module is called {target!r}; linear ones are {listed}")
    for name in found:
        if name not in linear:
            raise UserError(
                f"training.lora.targets: {name} is no linear layer but {type(modules[name]).__name__}; those are "
                f"{listed}"
            )
    return found


def _is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer; in GPT-2 and its kin those are Conv1D, with the matrix transposed."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _shared(model: nn.Module) -> Iterator[str]:
    """Yield the names of parameters that have another name too."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for same in names.values():
        if len(same) > 1:
            yield from same


def write_adapter(tuned: Any, folder: Path) -> None:
    """Write the trained matrices, float32, and their config as PEFT reads them."""
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True)
    config = tuned.peft_config["default"]
    config.inference_mode = True
    config.save_pretrained(folder)
    state = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        folder / ADAPTER_WEIGHTS,
        {"format": "pt"},
    )


def merged(tuned: Any) -> nn.Module:
    """Return the model with W + alpha / rank * B A in the place of each target, in PyTorch's float32."""
    whole: nn.Module = tuned.merge_and_unload()
    return whole
