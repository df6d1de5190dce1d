"""Bottlenecks at a job's boundaries: each mistake in one line, and models that come out with them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from tests.tiny import JOB, make_run, start_of, trained
from trainer.commands.evaluate import evaluate_run
from trainer.commands.export import export_run
from trainer.programs.tracing.bottleneck import Bottleneck, add_bottlenecks, bottlenecks_in
from trainer.programs.tracing.boundaries import Boundaries, rounded, standing
from trainer.runs.bottlenecks import CODE, sizes_at
from trainer.runs.boundaries import boundaries_of
from trainer.runs.checkpoints import config_in
from trainer.runs.create import Created
from trainer.runs.facts import ModelFacts
from trainer.runs.job import BoundariesSection
from trainer.runs.rebuilding import rebuilt
from verification.errors import UserError
from verification.tensors import Bundle


class Pair(nn.Module):
    """A block that makes more than hidden states."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        return 2 * x, "and more"


class Taken(nn.Module):
    """A block to which something else is its boundary."""

    boundary = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Model(nn.Module):
    """Blocks of every kind over rows of 12 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        self.pair, self.taken, self.idle, self.several = (
            Pair(),
            Taken(),
            nn.Linear(2, 2),
            nn.Sequential(nn.ReLU()),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        made: torch.Tensor = self.several(self.taken(self.pair(x)[0]))
        return made


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "as wide as the model": ({"count": 1, "width": 12}, "width: 12 is not below the 12 numbers that blocks.1 makes"),
    "wider": ({"count": 1, "width": 24}, "width: 24 is not below the 12 numbers that blocks.1 makes of a"),
    "a block that is never called": ({"after": "idle", "width": 1}, "after: the model never calls idle"),
    "a list of blocks": ({"after": "blocks", "width": 3}, "width: blocks is a ModuleList, which would take a bottlen"),
    "blocks in a row": ({"after": "several", "width": 3}, "width: several is a Sequential, which would take a bottle"),
    "a block with one already": ({"after": "taken", "width": 3}, "width: taken has a boundary of its own"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str) -> None:
    changes, line = MISTAKES[mistake]
    model = Model()
    boundaries = boundaries_of(model, BoundariesSection(**changes))
    assert boundaries is not None
    with pytest.raises(UserError) as caught:
        sizes_at(model, boundaries, lambda: model(torch.ones(2, 12)))
    assert f"model.boundaries.{line}" in str(caught.value) and "\n" not in str(caught.value)
    assert not bottlenecks_in(model)


def test_they_stand_behind_their_blocks_and_are_found_again() -> None:
    model, given = Model(), torch.linspace(-1, 1, 24).view(2, 12)
    boundaries = Boundaries(("blocks.0", "pair"), 8, width=5)
    sizes = sizes_at(model, boundaries, lambda: model(given))
    assert sizes == {"blocks.0": (12, 5), "pair": (12, 5)}
    block = model.blocks[0](given)
    add_bottlenecks(model, sizes)
    assert bottlenecks_in(model) == sizes
    own = model.blocks[0].get_submodule("boundary")
    assert isinstance(own, Bottleneck)
    assert torch.equal(model.blocks[0](given), own(block))
    made, more = model.pair(given)
    assert more == "and more" and torch.equal(made, Bottleneck(12, 5)(2 * given))
    with standing(model, boundaries):
        assert torch.equal(model.blocks[0](given), own.decoder(rounded(own.encoder(block), 8, 0)))
        model(given)
    assert torch.equal(model.blocks[0](given), own(block)), "nothing is rounded any more"


CHANGES: dict[str, Any] = {
    "model.config.num_hidden_layers": 2,
    "model.boundaries.count": 1,
    "model.boundaries.width": 8,
    "swarm.workers": 1,
    "swarm.min_workers": 1,
}


@pytest.fixture(scope="module")
def narrow_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Created, Bundle]:
    """A run of a model with a bottleneck, and its state after a round of one worker."""
    made = make_run(tmp_path_factory.mktemp("narrow"), CHANGES)
    return made, trained(made, 0, 1)[-1]


@pytest.mark.slow
def test_both_projections_are_trained_and_judged(narrow_run: tuple[Created, Bundle]) -> None:
    made, after = narrow_run
    facts = ModelFacts.read(made.folder)
    assert facts.bottlenecks == {"model.layers.0": (32, 8)}
    own = [place for place, name in enumerate(facts.parameter_names) if ".boundary." in name]
    assert [after.tensors[place].shape for place in own] == [(8, 32), (32, 8)]
    assert [any(start_of(made).tensors[place].data) for place in own] == [False, False]
    assert [any(after.tensors[place].data) for place in own] == [True, True]
    (before,) = evaluate_run(made.folder, 1, lambda line: None)
    assert 5.0 < before.loss < 6.0


@pytest.mark.slow
def test_transformers_loads_an_exported_model_with_its_code_and_not_without(
    narrow_run: tuple[Created, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, after = narrow_run
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    said = export_run(made.folder, tmp_path / "start", None, "bfloat16")
    assert said.endswith("start', trust_remote_code=True)")
    card = (tmp_path / "start" / "README.md").read_text()
    assert "8 numbers behind `model.layers.0`" in card and CODE in card and "trust_remote_code=True" in card
    whole = rebuilt(made.folder, ModelFacts.read(made.folder))
    whole.load(after)
    given = torch.arange(16)[None]
    with torch.no_grad():
        wanted = whole.model(input_ids=given).logits
        whole.save(tmp_path / "out", None)
        auto = transformers.AutoModelForCausalLM
        again = auto.from_pretrained(tmp_path / "out", trust_remote_code=True)
        assert torch.allclose(again(input_ids=given).logits, wanted, atol=1e-5)
        assert again.generate(given[:, :4], max_new_tokens=3).shape == (1, 7)
    with pytest.raises(ValueError, match="trust_remote_code"):
        auto.from_pretrained(tmp_path / "out", trust_remote_code=False)
    with pytest.raises(
        UserError, match=r"has bottlenecks, which model\.from does not read: go on from its run"
    ):
        config_in(tmp_path / "out")


SOURCE = """
from torch import nn


class Block(nn.Linear):
    def forward(self, x):
        return x + super().forward(x).tanh()


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(256, 16)
        self.blocks = nn.ModuleList(Block(16, 16) for _ in range(2))
        self.head = nn.Linear(16, 256)

    def forward(self, tokens):
        x = self.words(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def build():
    return Small()
"""


@pytest.mark.slow
def test_the_card_of_a_file_s_model_says_how_it_gets_its_bottlenecks(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(SOURCE)
    config = {key: None for key in JOB if key.startswith("model.config.")}
    made = make_run(
        tmp_path,
        {**CHANGES, **config, "model.module": "model.py:build", "model.boundaries.width": 4},
    )
    export_run(made.folder, tmp_path / "out", None, "float32")
    card = (tmp_path / "out" / "README.md").read_text()
    (line,) = [line.strip() for line in card.splitlines() if line.strip().startswith("add_bottlenecks")]
    names: dict[str, Any] = {}
    exec((tmp_path / "model.py").read_text(), names)
    exec((tmp_path / "out" / CODE).read_text(), names)
    names["model"] = names["build"]()
    exec(line, names)
    names["model"].load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    facts = json.loads(made.folder.model.read_text())
    assert facts["bottlenecks"] == {"blocks.0": [16, 4]}
    (before,) = evaluate_run(made.folder, 1, lambda line: None, module=tmp_path / "model.py")
    assert 5.0 < before.loss < 6.5
