"""A run's model again, from what its folder keeps: to judge it, and to hand it out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.folder import RunFolder
from trainer.runs.facts import ModelFacts
from trainer.runs.frozen import load_frozen
from trainer.runs.job import LoraSection
from trainer.runs.lora import add_lora, merged, write_adapter
from trainer.runs.models import build_model, load_state, save_model
from verification.errors import UserError
from verification.tensors import Bundle

ADAPTER = "adapter"


@dataclass(frozen=True)
class Rebuilt:
    """A model of which only what a run trains is missing: a state of it. `tuned` is PEFT's view of it, with LoRA."""

    model: nn.Module
    parameter_names: tuple[str, ...]
    tuned: Any = None

    def load(self, state: Bundle) -> None:
        """Take the parameters of a state; raises UserError for another model's."""
        load_state(self.model, self.parameter_names, state)

    def save(self, folder: Path, tokenizer: Path | None, dtype: torch.dtype = torch.float32) -> None:
        """Write the model as a Hugging Face folder, with LoRA merged, and the adapter itself into adapter/.

        It is of no use afterwards.
        """
        if self.tuned is not None:
            write_adapter(self.tuned, folder / ADAPTER)
        save_model(self.model if self.tuned is None else merged(self.tuned), folder, tokenizer, dtype)


def rebuilt(folder: RunFolder, facts: ModelFacts) -> Rebuilt:
    """Return the model of a folder's run; raises UserError where its frozen weights are missing."""
    model = build_model(facts.config, task=facts.task)
    tuned = None if facts.lora is None else add_lora(model, LoraSection(**facts.lora))
    if facts.frozen is not None and not folder.frozen.is_file():
        raise UserError(f"{folder.path} lacks {folder.frozen.name}: copy it from where the run was made")
    load_frozen(model, folder.frozen)
    return Rebuilt(model, facts.parameter_names, tuned)
