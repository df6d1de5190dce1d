"""The model before and after, in plain PyTorch float32: for people to look at, no part of what is proven."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.folder import RunFolder
from trainer.programs.conversion import to_torch
from trainer.programs.tracing.capture import Loss
from trainer.runs.models import build_model, export_model
from trainer.runs.tasks import TASKS, causal_lm_loss
from verification.tensors import Bundle

PROMPT = "The statement "
SAMPLE_BYTES = 120
MAX_RECORDS = 128
TEMPERATURE = 0.7


@dataclass(frozen=True)
class ModelFacts:
    """What `run create` keeps about the model (model.json)."""

    task: str
    config: dict[str, Any]
    parameter_names: tuple[str, ...]
    width: int

    @classmethod
    def read(cls, folder: RunFolder) -> "ModelFacts":
        """Return the facts in a run's folder."""
        facts = json.loads(folder.model.read_text(encoding="utf-8"))
        return cls(facts["task"], facts["config"], tuple(facts["parameter_names"]), facts["width"])


def export_and_evaluate(folder: RunFolder, before: Bundle, after: Bundle) -> dict[str, Any]:
    """Write the trained model to `model/` and return held-out losses and samples of the first and the last state."""
    facts = ModelFacts.read(folder)
    held_out = _held_out(folder.path / "held_out.bin", facts.width)
    model = build_model(facts.config, task=facts.task)
    loss, writes = TASKS[facts.task].loss(model.config), facts.task == "causal-lm"
    figures: dict[str, Any] = {"sample_prompt": PROMPT if writes else ""}
    for name, state in (("before", before), ("after", after)):
        _load(model, facts.parameter_names, state)
        figures[f"loss_{name}"] = held_out_loss(model, held_out, loss)
        figures[f"sample_{name}"] = continue_text(model, PROMPT) if writes else ""
    export_model(model.train(), facts.parameter_names, after, folder.path / "model")
    return figures


def held_out_loss(model: torch.nn.Module, records: torch.Tensor, loss: Loss = causal_lm_loss) -> float:
    """Return the mean loss over records, int64 [n, width]; for text in nats a byte."""
    model.eval()
    with torch.inference_mode():
        return float(loss(model, records))


def continue_text(model: torch.nn.Module, prompt: str) -> str:
    """Return what the model writes after `prompt`, drawn at a fixed temperature from a fixed seed."""
    tokens = torch.tensor([list(prompt.encode())])
    generator = torch.Generator().manual_seed(0)
    model.eval()
    with torch.inference_mode():
        for _ in range(SAMPLE_BYTES):
            window = tokens[:, -model.config.max_position_embeddings :]  # type: ignore[union-attr, operator]
            chances = torch.softmax(model(input_ids=window).logits[:, -1] / TEMPERATURE, dim=-1)
            tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=generator)], dim=1)
    return bytes(tokens[0, len(prompt.encode()) :].tolist()).decode("utf-8", errors="replace")


def _load(model: torch.nn.Module, names: tuple[str, ...], state: Bundle) -> None:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in zip(names, state.tensors, strict=False):
            parameters[name].copy_(to_torch(tensor))


def _held_out(path: Path, width: int) -> torch.Tensor:
    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8).reshape(-1, width)
    return data[:MAX_RECORDS].to(torch.int64)
