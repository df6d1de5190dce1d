"""LoRA on models that a Python file makes: exact steps beside PyTorch's, and what comes out, merged and apart."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from p2p.blobs import BlobStore
from tests.tiny import JOB, make_run, start_of, trained
from tests.unit.test_modules import MODULE, SOURCE, built
from trainer.commands.evaluate import evaluate_run, held_out_loss, held_out_records
from trainer.commands.export import export_run
from trainer.runs.architectures import compared, redraw_constants, tokens
from trainer.runs.create import Created
from trainer.runs.facts import ModelFacts
from trainer.runs.job import LoraSection
from trainer.runs.lora import add_lora
from trainer.runs.rebuilding import Rebuilt, rebuilt
from trainer.runs.states import Kept
from trainer.runs.tasks import TASKS, Marks
from verification.program import decode_program
from verification.tensors import Bundle

pytestmark = pytest.mark.slow
ALONE = {"swarm.workers": 1, "swarm.min_workers": 1}
LORA = {"training.lora.rank": 4, "training.lora.alpha": 8.0, "training.learning_rate": 0.03}
TRANSPOSED = """
import transformers


def build():
    sizes = {"vocab_size": 256, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "attn_implementation": "eager"}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **still, bos_token_id=0, eos_token_id=0))
"""
"""GPT-2's linear layers are transposed ones, and one of them is square."""
SOURCES = {"linear": SOURCE, "transposed": TRANSPOSED}
GIVEN = tokens()[:, :-1]


def run_of(folder: Path, source: str) -> tuple[Created, Bundle]:
    """Make a run of an adapter on a file's model, and its state after two rounds of one worker."""
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(source)
    made = make_run(folder, {**MODULE, **LORA, **ALONE})
    return made, trained(made, 0, 2)[-1]


@pytest.fixture(scope="module", params=SOURCES)
def lora_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Created, Bundle]:
    return run_of(tmp_path_factory.mktemp(request.param), SOURCES[request.param])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        made = model(GIVEN)
    found: torch.Tensor = getattr(made, "logits", made)
    return found


def loaded(made: Created, state: Bundle) -> Rebuilt:
    """The run's model with an adapter apart, as PEFT computes it."""
    again = rebuilt(made.folder, ModelFacts.read(made.folder), made.folder.path.parent / "model.py")
    again.load(state)
    return again


def test_a_step_of_an_adapter_is_pytorchs(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(SOURCE)
    model = built(tmp_path)
    add_lora(model, LoraSection(rank=4), 1)
    redraw_constants(model)  # B begins as zeros, and A's gradient with it
    found = compared("small", model, TASKS["causal-lm"].loss(None, Marks()), tokens())
    assert found.exact, found.reason


def test_only_the_adapter_is_state_and_the_rest_are_constants(lora_run: tuple[Created, Bundle]) -> None:
    made, after = lora_run
    names = ModelFacts.read(made.folder).parameter_names
    assert names and all(".lora_A." in name or ".lora_B." in name for name in names)
    inner = decode_program(BlobStore(made.folder.blobs).get(made.manifest.programs.inner.blob))
    assert (256, 16) in [constant.shape for constant in inner.constants]
    before = start_of(made).tensors[: len(names)]
    assert all(one != other for one, other in zip(before, after.tensors, strict=False))


def test_a_run_lowers_the_held_out_loss(lora_run: tuple[Created, Bundle]) -> None:
    made, after = lora_run
    folder, facts = made.folder, ModelFacts.read(made.folder)
    (before,) = evaluate_run(folder, 1, lambda line: None, module=folder.path.parent / "model.py")
    model, loss = loaded(made, after).model, TASKS["causal-lm"].loss(None, Marks())
    assert held_out_loss(model, held_out_records(folder.held_out, facts), loss) < before.loss - 0.01


def test_what_is_exported_is_merged_and_apart(
    lora_run: tuple[Created, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's model takes the merged tensors, PEFT the adapter beside the frozen ones, and both are what trained."""
    made, after = lora_run
    again, seed = loaded(made, after), int(JOB["seed"])
    wanted = logits(again.model)
    monkeypatch.setattr(
        "trainer.commands.export.kept_state",
        lambda folder, state, number: Kept(made.manifest.start, None, after),
    )
    export_run(made.folder, tmp_path / "out", None, "float32")
    source = made.folder.path.parent
    untouched, whole = built(source, seed), built(source, seed)
    whole.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    assert torch.allclose(logits(whole), wanted, atol=1e-5)
    assert not torch.allclose(logits(untouched), wanted, atol=1e-3)
    joined = peft.PeftModel.from_pretrained(built(source, seed), tmp_path / "out" / "adapter")  # type: ignore[arg-type]
    assert torch.allclose(logits(joined), wanted, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "model.load_state_dict" in card
    assert "LoRA adapter of rank 4 and alpha 8" in card
    export_run(made.folder, tmp_path / "small", None, "bfloat16")
    assert {str(t.dtype) for t in load_file(tmp_path / "small" / "model.safetensors").values()} == {
        "torch.bfloat16"
    }
    assert {
        str(t.dtype) for t in load_file(tmp_path / "small" / "adapter" / "adapter_model.safetensors").values()
    } == {"torch.float32"}


def test_a_bias_that_is_shared_keeps_both_names(tmp_path: Path) -> None:
    source = SOURCE.replace(
        "        self.still", "        self.norm.bias = self.mix.bias\n        self.still"
    )
    made, _ = run_of(tmp_path, source)
    export_run(made.folder, tmp_path / "out", None, "float32")
    whole: Any = built(tmp_path, 7)
    state = load_file(tmp_path / "out" / "model.safetensors")
    whole.load_state_dict(state)
    assert torch.equal(state["norm.bias"], state["mix.bias"])
    assert isinstance(whole, nn.Module)
