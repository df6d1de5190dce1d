"""A run's model again, from what its folder keeps: to judge it, and to hand it out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from trainer.folder import RunFolder
from trainer.programs.conversion import to_torch
from trainer.programs.tracing.bottleneck import add_bottlenecks, bottlenecks_in
from trainer.runs.bottlenecks import write_code, write_model_code
from trainer.runs.facts import ModelFacts
from trainer.runs.frozen import load_frozen, read_frozen
from trainer.runs.job import LoraSection
from trainer.runs.lora import (
    add_lora,
    before_lora,
    merged,
    merged_tensors,
    targets_in,
    write_adapter,
    write_adapter_of,
)
from trainer.runs.models import build_model, load_state, save_model
from trainer.runs.modules import rebuilt_module
from verification.tensors import Bundle

ADAPTER, WEIGHTS = "adapter", "model.safetensors"


@dataclass(frozen=True)
class Rebuilt:
    """A model for a task of which only what a run trains is missing: a state of it. `tuned` is PEFT's view of it."""

    model: nn.Module
    parameter_names: tuple[str, ...]
    task: str
    tuned: Any = None

    def load(self, state: Bundle) -> None:
        """Take the parameters of a state; raises UserError for another model's."""
        load_state(self.model, self.parameter_names, state)

    def save(self, folder: Path, tokenizer: Path | None, dtype: torch.dtype = torch.float32) -> None:
        """Write the model as a Hugging Face folder, with LoRA merged, and the adapter itself into adapter/.

        A model with bottlenecks brings the code that has them. It is of no use afterwards.
        """
        if self.tuned is not None:
            write_adapter(self.tuned, folder / ADAPTER)
        save_model(self.model if self.tuned is None else merged(self.tuned), folder, tokenizer, dtype)
        if bottlenecks_in(self.model):
            write_model_code(self.model, self.task, folder)


def rebuilt(folder: RunFolder, facts: ModelFacts, module: Path | None = None) -> Rebuilt:
    """Return the model of a folder's run, where a Python file makes it from `module`, that file.

    Raises UserError where the file or frozen weights are missing or others.
    """
    if facts.module is not None:
        model = rebuilt_module(facts.module, module)
    else:
        model = build_model(facts.config, task=facts.task)
    tuned = None if facts.lora is None else add_lora(model, LoraSection(**facts.lora))
    load_frozen(model, folder.frozen, facts.frozen is not None)
    add_bottlenecks(model, facts.bottlenecks or {})
    return Rebuilt(model, facts.parameter_names, facts.task, tuned)


def write_tensors(
    folder: RunFolder, facts: ModelFacts, state: Bundle, out: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write all that a module's `load_state_dict` takes into model.safetensors, without running the module's code.

    With LoRA that is the merged module, and the adapter itself goes into adapter/; with bottlenecks what has them, for
    the module to get before.
    """
    tensors = read_frozen(folder.frozen, facts.frozen is not None)
    tensors |= {
        name: to_torch(tensor) for name, tensor in zip(facts.parameter_names, state.tensors, strict=False)
    }
    shared = {} if facts.module is None else facts.module.shared
    if facts.module is not None and facts.lora is not None:
        lora, transposed, targets = LoraSection(**facts.lora), facts.module.transposed, targets_in(tensors)
        write_adapter_of(tensors, lora, transposed, out / ADAPTER)
        tensors = merged_tensors(tensors, lora, transposed)
        shared = {before_lora(name, targets): before_lora(other, targets) for name, other in shared.items()}
    tensors |= {name: tensors[other].clone() for name, other in shared.items()}
    rounded = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()
    }
    save_file(rounded, out / WEIGHTS, {"format": "pt"})
    if facts.bottlenecks:
        write_code(out)
