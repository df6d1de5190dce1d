"""Tiny models of many kinds train exactly: experts, recurrences, encoders, images, sound, and two of these together."""

import pytest
import torch
from torch import nn

from trainer.programs.tracing.capture import trace_run
from trainer.runs.architectures import JOB, compared, tokens, try_architecture
from trainer.runs.models import build_model
from trainer.runs.tasks import causal_lm_loss
from trainer.runs.tiny import tiny_config
from verification.errors import UserError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        "mixtral", "afmoe", "gpt_oss", "deepseek_v3", "mamba2", "qwen3_next", "llama4_text", "roberta", "marian",
        "bert as masked-lm", "vit as image-classification", "audio-spectrogram-transformer", "clip", "llava",
    ],
)  # fmt: skip
def test_architectures_train_exactly(name: str) -> None:
    outcome = try_architecture(name)
    assert outcome.exact, outcome.reason


class _Frozen(nn.Module):
    """A table of words, and a frozen matrix behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(32, 8), nn.Linear(8, 32)
        self.head.weight.requires_grad_(False)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.head(self.words(given))
        return made


def _loss(model: nn.Module, records: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(records[:, :-1]).flatten(0, 1), records[:, 1:].flatten())


def test_frozen_parameters_are_constants_of_the_program() -> None:
    torch.manual_seed(1)
    model = _Frozen()
    assert trace_run(model, _loss, JOB).parameter_names == ("words.weight", "head.bias")
    assert compared("frozen", model, _loss, tokens()).exact
    with pytest.raises(UserError, match="frozen"):
        trace_run(model.requires_grad_(False), _loss, JOB)


def test_a_routers_noise_is_refused_by_its_key() -> None:
    noisy = build_model(tiny_config("mixtral") | {"router_jitter_noise": 0.1})
    with pytest.raises(UserError, match="router_jitter_noise"):
        trace_run(noisy, causal_lm_loss, JOB)


def test_a_tiny_config_has_one_layer_of_each_kind() -> None:
    settings = tiny_config("gemma3_text")
    assert settings["layer_types"] == ["sliding_attention", "full_attention"]
    assert (settings["num_hidden_layers"], settings["vocab_size"]) == (2, 64)
