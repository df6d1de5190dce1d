"""LoRA: small matrices beside frozen ones are what a run trains, W x + alpha / rank * B A x (Hu et al., 2021).

PEFT builds, merges and names them, so what a run makes is an adapter like any other.
"""

import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from trainer.programs.tracing.parameters import head_of
from trainer.runs.job import ALL_LINEAR, LoraSection
from verification.errors import UserError

ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_NAMES = 12
"""Modules that an error message lists."""
_A, _B, _BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer"
"""How PEFT names, within a target, its two matrices and the layer that it was."""


def add_lora(model: nn.Module, lora: LoraSection, seed: int = 0) -> Any:
    """Freeze a model and put A [rank, inputs], drawn from `seed`, and B [outputs, rank], zeros, beside
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
                "too: leave it out, or untie them, as model.config.tie_word_embeddings = false does"
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


@contextmanager
def all_called(model: nn.Module) -> Iterator[None]:
    """Raise UserError, at the end, for a target of a model's that nothing has called meanwhile.

    PyTorch's own attention reads the weights of its linear layers past them: an adapter would count for nothing.
    """
    targets = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    called: set[str] = set()

    def noting(name: str) -> Any:
        return lambda *call: called.add(name)

    hooks = [module.register_forward_pre_hook(noting(name)) for name, module in targets.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if waiting := [name for name in targets if name not in called]:
        raise UserError(
            f"training.lora.targets: the model never calls {waiting[0]}, so that its adapter would change nothing: "
            "leave it out"
        )


def transposed_in(model: nn.Module) -> tuple[str, ...]:
    """Return the names of a model's targets whose matrix is the transpose of a linear layer's."""
    return tuple(
        name for name, module in model.named_modules() if getattr(module, "fan_in_fan_out", False) is True
    )


def write_adapter(tuned: Any, folder: Path) -> None:
    """Write the trained matrices, float32, and their config as PEFT reads them."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    _write_adapter(tuned.peft_config["default"], state, folder)


def write_adapter_of(
    tensors: dict[str, torch.Tensor], lora: LoraSection, transposed: Collection[str], folder: Path
) -> None:
    """Write what `write_adapter` writes, from the tensors of a model by name alone."""
    from peft import LoraConfig

    targets = targets_in(tensors)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, fan_in_fan_out=bool(transposed)
    )
    kinds = {_A: ".lora_A.weight", _B: ".lora_B.weight"}
    state = {
        f"base_model.model.{target}{written}": tensors[target + kind]
        for target in targets
        for kind, written in kinds.items()
    }
    _write_adapter(config, state, folder)


def _write_adapter(config: Any, state: dict[str, torch.Tensor], folder: Path) -> None:
    folder.mkdir(parents=True)
    config.inference_mode = True
    config.save_pretrained(folder)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        folder / ADAPTER_WEIGHTS,
        {"format": "pt"},
    )


def merged(tuned: Any) -> nn.Module:
    """Return the model with W + alpha / rank * B A in the place of each target, in PyTorch's float32."""
    whole: nn.Module = tuned.merge_and_unload()
    return whole


def merged_tensors(
    tensors: dict[str, torch.Tensor], lora: LoraSection, transposed: Collection[str]
) -> dict[str, torch.Tensor]:
    """Return the tensors of the model that `merged` returns, by name, from those with the adapter apart."""
    targets = targets_in(tensors)
    whole = {
        before_lora(name, targets): tensor for name, tensor in tensors.items() if not name.endswith((_A, _B))
    }
    for target in targets:
        change = tensors[target + _B] @ tensors[target + _A]
        whole[f"{target}.weight"] = whole[f"{target}.weight"] + (
            change.T if target in transposed else change
        ) * (lora.alpha / lora.rank)
    return whole


def targets_in(names: Iterable[str]) -> list[str]:
    """Return the targets by the names of a model's tensors, sorted."""
    return sorted(name.removesuffix(_A) for name in names if name.endswith(_A))


def before_lora(name: str, targets: Collection[str]) -> str:
    """Return the name that a tensor had before its model got an adapter."""
    layer, _, last = name.rpartition(".")
    target = layer.removesuffix(_BASE)
    return f"{target}.{last}" if layer != target and target in targets else name
