"""Runs that train a LoRA adapter: exact steps beside PyTorch's, states of the adapter alone, models that come out."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

from p2p.blobs import BlobStore
from tests.tiny import JOB, make_run, start_of, trained, write_job
from trainer.commands.evaluate import evaluate_run, held_out_loss, held_out_records
from trainer.commands.export import export_run
from trainer.folder import RunFolder
from trainer.runs import create
from trainer.runs.architectures import compared, redraw_constants, tokens
from trainer.runs.create import Created, create_run
from trainer.runs.facts import ModelFacts
from trainer.runs.job import LoraSection, read_job
from trainer.runs.lora import add_lora
from trainer.runs.models import build_model
from trainer.runs.rebuilding import rebuilt
from trainer.runs.states import Ancestor
from trainer.runs.tasks import causal_lm_loss
from trainer.runs.tiny import tiny_config
from verification.digest import tagged
from verification.errors import UserError
from verification.manifest import Origin
from verification.program import decode_program
from verification.tensors import Bundle
from verification.units import Count, Round

pytestmark = pytest.mark.slow
SIZES = {key.removeprefix("model.config."): JOB[key] for key in JOB if key.startswith("model.config.")}
LORA: dict[str, Any] = {
    **{key: None for key in JOB if key.startswith("model.config.")},
    "model.from": "start",
    "training.lora.rank": 4,
    "training.lora.alpha": 8.0,
    "training.learning_rate": 0.03,
}
"""LoRA on all linear layers but the head of a checkpoint in `start`."""


def checkpoint(folder: Path, seed: int = 1) -> nn.Module:
    """Save a Llama of drawn weights as `folder`/start."""
    torch.manual_seed(seed)
    model: nn.Module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    model.save_pretrained(folder / "start")  # type: ignore[operator]
    return model


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Created, Bundle]:
    """A run of an adapter, and its state after two rounds of one worker."""
    folder = tmp_path_factory.mktemp("lora")
    checkpoint(folder)
    made = make_run(folder, {**LORA, "swarm.workers": 1, "swarm.min_workers": 1})
    return made, trained(made, 0, 2)[-1]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_a_step_of_an_adapter_is_pytorchs(kind: str) -> None:
    """GPT-2's linear layers are transposed ones; Mixtral's experts are none and stay as they are."""
    model = build_model(tiny_config(kind), 1)
    add_lora(model, LoraSection(rank=4), 1)
    redraw_constants(model)  # B begins as zeros, and A's gradient with it
    found = compared(kind, model, causal_lm_loss, tokens())
    assert found.exact, found.reason


def test_only_the_adapter_is_state_and_the_rest_are_constants(lora_run: tuple[Created, Bundle]) -> None:
    made, after = lora_run
    facts = ModelFacts.read(made.folder)
    assert len(facts.parameter_names) == 14  # A and B of seven matrices
    assert all(".lora_A." in name or ".lora_B." in name for name in facts.parameter_names)
    assert len(after.tensors) == 28  # with momentum
    inner = decode_program(BlobStore(made.folder.blobs).get(made.manifest.programs.inner.blob))
    assert (256, 32) in [constant.shape for constant in inner.constants]
    assert not [port.name for port in inner.inputs if "embed_tokens" in port.name]
    moved = [one != other for one, other in zip(start_of(made).tensors[:14], after.tensors[:14], strict=True)]
    assert all(moved)


def test_a_run_lowers_the_held_out_loss(lora_run: tuple[Created, Bundle]) -> None:
    made, after = lora_run
    folder = made.folder
    (before,) = evaluate_run(folder, 1, lambda line: None)
    model = rebuilt(folder, ModelFacts.read(folder))
    model.load(after)
    records = held_out_records(folder.held_out, ModelFacts.read(folder))
    assert held_out_loss(model.model, records) < before.loss - 0.05


def test_the_merged_model_is_base_and_adapter(lora_run: tuple[Created, Bundle], tmp_path: Path) -> None:
    made, after = lora_run
    model = rebuilt(made.folder, ModelFacts.read(made.folder))
    model.load(after)
    given = torch.arange(16)[None]
    with torch.no_grad():
        wanted = model.model(input_ids=given).logits
        model.save(tmp_path / "out", None)
        whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        start = made.folder.path.parent / "start"
        base = transformers.AutoModelForCausalLM.from_pretrained(start)
        untouched = base(input_ids=given).logits
        joined = peft.PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")
        assert torch.allclose(whole(input_ids=given).logits, wanted, atol=1e-5)
        assert torch.allclose(joined(input_ids=given).logits, wanted, atol=1e-5)
    assert not torch.allclose(untouched, wanted, atol=1e-2)


def test_a_run_is_exported_with_adapter_and_card(lora_run: tuple[Created, Bundle], tmp_path: Path) -> None:
    """The state before the first round: B is zero, so the merged model is the checkpoint."""
    folder = lora_run[0].folder
    export_run(folder, tmp_path / "out", None, "bfloat16")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\ntags:")
    assert "LoRA adapter of rank 4 and alpha 8" in card
    assert sorted(path.name for path in (tmp_path / "out" / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    ]  # fmt: skip
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    start = transformers.AutoModelForCausalLM.from_pretrained(folder.path.parent / "start").state_dict()
    assert {name: torch.equal(back[name], start[name].bfloat16()) for name in start} == dict.fromkeys(
        start, True
    )


def test_the_frozen_weights_must_be_there_and_the_runs(
    lora_run: tuple[Created, Bundle], tmp_path: Path
) -> None:
    checkpoint(tmp_path)
    folder = RunFolder(make_run(tmp_path, LORA).folder.path)
    folder.frozen.write_bytes(b"")
    with pytest.raises(UserError, match="not the run's: copy it from where the run was made"):
        export_run(folder, tmp_path / "out", None, "float32")
    folder.frozen.unlink()
    with pytest.raises(UserError, match=r"lacks frozen\.safetensors: copy it from where the run was made"):
        export_run(folder, tmp_path / "out", None, "float32")
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_gone_on_with_beside_the_same_weights(
    lora_run: tuple[Created, Bundle], tmp_path: Path
) -> None:
    made, after = lora_run
    origin = Origin(tagged("run"), Round(1), Count(2))
    ancestor = Ancestor(origin, after, ModelFacts.read(made.folder))
    for number, (seed, changes, reason) in enumerate(OTHERS):
        folder = tmp_path / str(number)
        folder.mkdir()
        checkpoint(folder, seed)
        with pytest.raises(UserError, match=reason):
            create_run(
                read_job(write_job(folder, {**LORA, **changes})), folder, folder / "run", ancestor=ancestor
            )
    checkpoint(tmp_path)
    job = read_job(write_job(tmp_path, LORA))
    again = create_run(job, tmp_path, tmp_path / "run", ancestor=ancestor)
    assert start_of(again) == after
    assert again.manifest.programs.inner.digest == made.manifest.programs.inner.digest


OTHERS: list[tuple[int, dict[str, Any], str]] = [
    (2, {}, "frozen weights are not those of the run it extends"),
    (1, {"training.lora.rank": 2}, r"has shape \[4, 32\] in the run that is extended, \[2, 32\] in the job"),
    (1, {"training.lora.alpha": 4.0}, "alpha: is 8 in the run that is extended, 4 in the job"),
    (1, {"training.lora.targets": "q_proj"}, "differ: see"),
]
"""A seed of the checkpoint, changes of the job, and why they are no going on."""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"rank": 64},
            r"lora.rank: 64 is more than the smaller side of model.layers.0.self_attn.q_proj \[32, 32\]",
        ),
        ({"rank": 40, "targets": ["gate_proj"]}, r"smaller side of model.layers.0.mlp.gate_proj \[48, 32\]"),
        (
            {"targets": ["q_proj", "querry"]},
            "no module is called 'querry'; linear ones are q_proj, k_proj, v_proj",
        ),
        ({"targets": "embed_tokens"}, "embed_tokens is no linear layer but Embedding; those are q_proj"),
        ({"targets": "lm_head"}, "lm_head shares its weights with another module"),
        ({"rank": 0}, "training.lora.rank: input should be greater than or equal to 1"),
        ({"dropout": 0.1}, "training.lora.dropout: is no key of a job file"),
    ],
)
def test_what_no_adapter_fits_is_one_line(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    made = {f"training.lora.{key}": value for key, value in changes.items()}
    with pytest.raises(UserError, match=reason) as caught:
        make_run(tmp_path, {"model.config.tie_word_embeddings": True, **made})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_model_without_linear_layers_before_its_head_has_no_adapter() -> None:
    with pytest.raises(UserError, match="no linear layer before its head"):
        add_lora(nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8)), LoraSection())


def test_frozen_weights_that_nobody_would_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial, with the limit lowered: frozen weights of 85 kB."""
    monkeypatch.setattr(create, "MAX_PROGRAM", 64_000)
    with pytest.raises(UserError, match=r"a program would have \d+ bytes .* more than 64000: take a smaller"):
        make_run(tmp_path, {"training.lora.rank": 2})
    assert not (tmp_path / "run").exists()


def test_a_start_without_a_checkpoint_is_drawn_from_the_seed(tmp_path: Path) -> None:
    made = make_run(tmp_path, {"training.lora.targets": ["q_proj", "v_proj"]})
    assert len(ModelFacts.read(made.folder).parameter_names) == 4
    (before,) = evaluate_run(made.folder, 1, lambda line: None)
    assert 5.0 < before.loss < 6.0
