"""Runs of models that a Python file of the creator's makes: what trains, what comes out, a line for each mistake."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.tiny import JOB, make_run, start_of, trained
from trainer.commands.evaluate import evaluate_run, held_out_loss, held_out_records
from trainer.commands.export import export_run
from trainer.folder import RunFolder
from trainer.programs.conversion import to_torch
from trainer.runs.architectures import compared, tokens
from trainer.runs.facts import ModelFacts
from trainer.runs.modules import read_module
from trainer.runs.rebuilding import rebuilt
from trainer.runs.tasks import TASKS, Marks
from verification.errors import UserError

pytestmark = pytest.mark.slow
SOURCE = """
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Sizes:
    words: int = 256
    width: int = 16


class Small(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.words = nn.Embedding(sizes.words, sizes.width)
        self.places = nn.Parameter(torch.zeros(16, sizes.width))
        self.norm = nn.LayerNorm(sizes.width)
        self.mix = nn.Linear(sizes.width, sizes.width)
        self.still = nn.Parameter(torch.randn(sizes.width, sizes.width), requires_grad=False)
        self.register_buffer("past", torch.tril(torch.ones(16, 16)))
        self.noise = 0.1 * torch.randn(sizes.width)
        self.head = nn.Linear(sizes.width, sizes.words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens):
        length = tokens.shape[1]
        past = self.past[:length, :length]
        x = self.words(tokens) + self.places[:length] + self.noise
        x = x + past / past.sum(1, keepdim=True) @ torch.relu(self.mix(self.norm(x)) @ self.still)
        return self.head(x)


def build():
    return Small(Sizes())
"""
MODULE: dict[str, Any] = {
    **{key: None for key in JOB if key.startswith("model.config.")},
    "model.module": "model.py:build",
}


def make(folder: Path, source: str = SOURCE, **changes: Any) -> RunFolder:
    """Make a run of a file's model."""
    (folder / "model.py").write_text(source)
    return make_run(folder, {**MODULE, **changes}).folder


def built(folder: Path, seed: int = 1) -> nn.Module:
    """The model that `folder`/model.py makes."""
    return read_module("model.py:build", folder).build(seed)


def test_a_step_is_pytorchs(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(SOURCE)
    found = compared("small", built(tmp_path), TASKS["causal-lm"].loss(None, Marks()), tokens())
    assert found.exact, found.reason


def test_a_run_trains_and_is_judged_with_its_file_alone(tmp_path: Path) -> None:
    folder = make(tmp_path)
    assert not (tmp_path / "__pycache__").exists()
    assert list(folder.path.rglob("*.py")) == []
    (before,) = evaluate_run(folder, 1, lambda line: None, module=tmp_path / "model.py")
    records, loss = (
        held_out_records(folder.held_out, ModelFacts.read(folder)),
        TASKS["causal-lm"].loss(None, Marks()),
    )
    assert before.loss == held_out_loss(built(tmp_path), records, loss)
    with pytest.raises(
        UserError, match=r"made by build in model\.py, a Python file of who made the run: name it"
    ):
        evaluate_run(folder, 1, lambda line: None)
    (tmp_path / "model.py").write_text(SOURCE + "\n")
    with pytest.raises(
        UserError, match=r"is not the model\.py that the run was made with, SHA-256 [0-9a-f]{64}"
    ):
        evaluate_run(folder, 1, lambda line: None, module=tmp_path / "model.py")


def test_what_is_exported_loads_into_the_file_s_model(tmp_path: Path) -> None:
    """Parameters, the shared one under both of its names, the frozen one and the buffer."""
    (tmp_path / "model.py").write_text(SOURCE)
    made = make_run(tmp_path, {**MODULE, "swarm.workers": 1, "swarm.min_workers": 1})
    folder, facts = made.folder, ModelFacts.read(made.folder)
    after = trained(made, 0, 1)[-1]
    assert all(one != other for one, other in zip(start_of(made).tensors[:5], after.tensors[:5], strict=True))
    again = rebuilt(folder, facts, tmp_path / "model.py")
    again.load(after)
    said = export_run(folder, tmp_path / "out", None, "float32")
    assert said.endswith("README.md says how to load it")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "model.load_state_dict" in card
    assert card.startswith("---\ntags: [proofswarm]\n---\n")
    state = load_file(tmp_path / "out" / "model.safetensors")
    fresh = built(tmp_path, 7)
    fresh.load_state_dict(state)
    wanted = dict(zip(facts.parameter_names, map(to_torch, start_of(made).tensors), strict=False))
    assert {name: torch.equal(state[name], tensor) for name, tensor in wanted.items()} == dict.fromkeys(
        wanted, True
    )
    given = tokens()[:, :-1]
    assert not torch.equal(fresh(given), again.model(given))
    assert (tmp_path / "out" / "tokenizer" / "tokenizer.json").is_file()
    export_run(folder, tmp_path / "small", None, "bfloat16")
    assert {str(t.dtype) for t in load_file(tmp_path / "small" / "model.safetensors").values()} == {
        "torch.bfloat16"
    }


def test_what_a_file_draws_is_drawn_again_from_the_seed(tmp_path: Path) -> None:
    """`noise` is no buffer, and in no state."""
    folder = make(tmp_path)
    again: Any = rebuilt(folder, ModelFacts.read(folder), tmp_path / "model.py").model
    first: Any = built(tmp_path, JOB["seed"])
    other: Any = built(tmp_path, 2)
    assert torch.equal(again.noise, first.noise)
    assert not torch.equal(again.noise, other.noise)


def test_a_file_may_make_a_model_of_transformers(tmp_path: Path) -> None:
    source = (
        "import transformers\ndef build():\n    return transformers.GPT2LMHeadModel(transformers.GPT2Config("
        "vocab_size=256, n_positions=16, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, "
        "attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, attn_implementation='eager'))\n"
    )
    folder = make(tmp_path, source)
    (before,) = evaluate_run(folder, 1, lambda line: None, module=tmp_path / "model.py")
    assert 5.0 < before.loss < 6.0


def test_a_file_may_make_a_classifier_of_images(tmp_path: Path) -> None:
    images = (torch.arange(40 * 36) * 37 % 251).view(40, 1, 6, 6).to(torch.uint8)
    labels = (torch.arange(40) % 3).to(torch.uint8)
    save_file({"images": images, "labels": labels}, tmp_path / "images.safetensors")
    source = (
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), "
        "nn.Linear(64, {labels}))\n"
    )
    changes = {
        "model.task": "image-classification",
        "data.text": None,
        "data.length": None,
        "data.held_out": 0.25,
    }
    changes["data.images"] = "images.safetensors"
    folder = make(tmp_path, source.format(labels=3), **changes)
    (before,) = evaluate_run(folder, 1, lambda line: None, module=tmp_path / "model.py")
    assert 0.5 < before.loss < 3.0
    (tmp_path / "two").mkdir()
    save_file({"images": images, "labels": labels}, tmp_path / "two" / "images.safetensors")
    with pytest.raises(UserError, match="the model raises IndexError: Target 2 is out of bounds"):
        make(tmp_path / "two", source.format(labels=2), **changes)


def test_a_masked_model_of_a_file(tmp_path: Path) -> None:
    folder = make(
        tmp_path, SOURCE.replace("= 256", "= 257").replace("16", "17"), **{"model.task": "masked-lm"}
    )
    (before,) = evaluate_run(folder, 1, lambda line: None, module=tmp_path / "model.py")
    assert before.loss > 1.0


FAULTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no function named": (SOURCE, {"model.module": "model.py"}, "names no function of a file: write it as"),
    "no such file": (SOURCE, {"model.module": "none.py:build"}, "none.py: cannot be read: No such file or directory"),
    "no such function": (SOURCE, {"model.module": "model.py:make"}, "has no function 'make'; name one that it has"),
    "no Python": (SOURCE + "def", {}, "line 37: the file raises SyntaxError: invalid syntax"),
    "an import that fails": ("import nothing_of_that_name", {}, "line 1: the file raises ModuleNotFoundError"),
    "an end": ("raise SystemExit(3)", {}, "line 1: the file raises SystemExit: 3"),
    "a function that fails": ("def build():\n\n    return 1 / 0", {}, "line 3: the file raises ZeroDivisionError"),
    "a function that needs something": ("def build(size):\n    pass", {}, "the file raises TypeError: build()"),
    "no module": ("def build():\n    return [1]", {}, "returns list; it must return a torch.nn.Module"),
    "half a float": (
        SOURCE.replace("Small(Sizes())", "Small(Sizes()).half()"), {}, "'places' is torch.float16 on cpu; make it",
    ),
    "a tuple": (SOURCE.replace("self.head(x)", "self.head(x), None"), {}, "forward returns tuple: it must return"),
    "the last place alone": (SOURCE.replace("head(x)", "head(x[:, -1:])"), {}, "logits [1, 1, 256] of tokens [1, 16]"),
    "another signature": (
        SOURCE.replace("(self, tokens)", "(self, tokens, mask)"), {}, "[batch, length], raises TypeError",
    ),
    "more logits than rows": (
        SOURCE.replace("self.head.weight = self.words.weight", "self.words = nn.Embedding(200, 16)"), {},
        "line 30: forward, on int64 tokens [batch, length], raises IndexError",
    ),
    "too short": (SOURCE, {"data.length": 17}, "raises RuntimeError: The size of tensor"),
    "too few words": (SOURCE.replace("= 256", "= 200"), {}, "embedding has 200 rows: give it at least 256"),
    "no causal mask": (SOURCE.replace("torch.tril", ""), {}, "give it a causal mask"),
    "a course that depends on data": (
        SOURCE.replace("length = tokens", "x = 1 if tokens.sum() > 9 else 2\n        length = tokens"), {},
        "the model cannot be traced: what it does next depends on data",
    ),
    "dropout": (SOURCE.replace("nn.LayerNorm(sizes.width)", "nn.AlphaDropout()"), {}, "set the model's dropout to 0"),
    "all frozen": (
        SOURCE.replace("Small(Sizes())", "Small(Sizes()).requires_grad_(False)"), {}, "parameters are frozen",
    ),
    "a config too": (SOURCE, {"model.config_file": "a.json"}, "model: give either config, config_file, from or module"),
    "an adapter on nothing": (
        SOURCE, {"training.lora.targets": "mixed"}, "lora.targets: no module is called 'mixed'; linear ones are mix",
    ),
    "an adapter on no layer": (
        SOURCE, {"training.lora.targets": "words"}, "training.lora.targets: words is no linear layer but Embedding",
    ),
    "an adapter on the head": (SOURCE, {"training.lora.targets": "head"}, "head shares its weights with another"),
    "an adapter that is never called": (
        SOURCE.replace("self.mix(self.norm(x))", "nn.functional.linear(self.norm(x), self.mix.weight)"),
        {"training.lora.rank": 2}, "training.lora.targets: the model never calls mix, so that its adapter",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_is_one_line_and_leaves_nothing(fault: str, tmp_path: Path) -> None:
    source, changes, reason = FAULTS[fault]
    with pytest.raises(UserError) as caught:
        make(tmp_path, source, **changes)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.toml", "model.py", "text.txt"]


def test_no_compiled_copy_is_taken_for_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(SOURCE)
    cached = Path(importlib.util.cache_from_source(str(tmp_path / "model.py")))
    cached.parent.mkdir()
    cached.write_bytes(b"nothing that runs")
    assert sum(p.numel() for p in built(tmp_path).parameters()) == 4096 + 256 + 32 + 272 + 256
