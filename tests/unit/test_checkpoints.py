"""Checkpoints that a run cannot start from: one line each, and what it can start from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from tests.tiny import JOB, make_run
from trainer.commands.export import export_run
from trainer.folder import RunFolder
from trainer.runs.checkpoints import config_in, load_checkpoint
from verification.errors import UserError

pytestmark = pytest.mark.slow
SIZES = {key.removeprefix("model.config."): JOB[key] for key in JOB if key.startswith("model.config.")}
SECTION = {**{key: None for key in JOB if key.startswith("model.config.")}, "model.from": "start"}


def save(folder: Path, dtype: torch.dtype = torch.float16, **changes: Any) -> nn.Module:
    """Save a Llama of drawn weights."""
    torch.manual_seed(1)
    made: nn.Module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, **changes})).to(
        dtype
    )
    made.save_pretrained(folder, max_shard_size="15KB")  # type: ignore[operator]
    return made


def loaded(folder: Path, **changes: Any) -> nn.Module:
    """Load it for a config that differs from the one saved."""
    return load_checkpoint(folder, {**config_in(folder), **changes}, "causal-lm")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_of_any_dtype_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    begun, found = save(tmp_path, dtype), loaded(tmp_path)
    for one, other in zip(begun.parameters(), found.parameters(), strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(one.float(), other)


def cut(folder: Path) -> None:
    """Lose the second half of a shard."""
    path = min(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def quantised(folder: Path) -> None:
    """Say that the weights are quantised."""
    path = folder / "config.json"
    path.write_text(path.read_text().replace("{", '{"quantization_config": {"bits": 4},', 1))


def pickled(folder: Path) -> None:
    """Keep only a file that can run code when it is read."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard cut short": (cut, "the checkpoint cannot be loaded"),
    "a shard missing": (lambda folder: min(folder.glob("*.safetensors")).unlink(), "the checkpoint cannot be loaded"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no checkpoint: it needs config.json and"),
    "a config that is none": (lambda folder: (folder / "config.json").write_text("[]"), "a model config is a JSON"),
    "quantised weights": (quantised, "the checkpoint is quantised"),
    "weights that can run code": (pickled, "no .safetensors files"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_checkpoint_is_one_line(fault: str, tmp_path: Path) -> None:
    breaks, reason = BROKEN[fault]
    save(tmp_path)
    breaks(tmp_path)
    with pytest.raises(UserError) as caught:
        loaded(tmp_path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 2}, "lacks tensor 'model.layers.1.input_layernorm.weight' and 8 more"),
        (
            {"num_hidden_layers": 0},
            "has, and the model has not, tensor 'model.layers.0.input_layernorm.weight'",
        ),
        ({"hidden_size": 64}, "has shape [256, 32], the model's is [256, 64]"),
        ({"pad_token_id": 400}, "pad_token_id: 400 is no token of 256"),
        ({"model_type": "nothing"}, "Unrecognized model identifier"),
    ],
)
def test_a_config_that_is_not_the_weights_names_the_tensor(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    save(tmp_path)
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, **changes)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_with_dropout_goes_in_and_comes_out(tmp_path: Path) -> None:
    save(tmp_path / "start", attention_dropout=0.1)
    run = make_run(tmp_path, SECTION)
    assert export_run(run.folder, tmp_path / "out", None, "float16").startswith("model of run")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert back.config.attention_dropout == 0.1
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "start")
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("number", "dtype", "out", "reason"),
    [
        (3, "float32", "new", "round 3 has no state; rounds with one: none"),
        (None, "int8", "new", "--dtype int8 is none of float32, bfloat16, float16"),
        (None, "float32", ".", "is not empty: choose another folder"),
    ],
)
def test_what_cannot_be_exported(
    number: int | None, dtype: str, out: str, reason: str, tiny_run: Any, tmp_path: Path
) -> None:
    (tmp_path / "something").write_text("else")
    with pytest.raises(UserError, match=reason):
        export_run(tiny_run.folder, tmp_path / out, number, dtype)
    assert not (tmp_path / "new").exists()


def test_a_copy_without_the_models_facts_says_where_they_are(tmp_path: Path) -> None:
    folder = RunFolder(make_run(tmp_path).folder.path)
    folder.model.unlink()
    with pytest.raises(UserError, match=r"lacks model\.json: only who made the run has it"):
        export_run(folder, tmp_path / "out", None, "float32")
