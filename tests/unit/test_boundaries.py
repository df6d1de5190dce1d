"""Where a job's boundaries stand, and each mistake about them in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny import make_run
from trainer.programs.tracing.boundaries import Boundaries, bytes_of_a_row, rounded, standing
from trainer.runs.boundaries import blocks_of, boundaries_of
from trainer.runs.job import BoundariesSection
from trainer.runs.models import build_model
from trainer.runs.tiny import tiny_config
from verification.errors import UserError


class Blocks(nn.Module):
    """Blocks in a list, between two layers; `idle` is never called, and the last block makes a tuple."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.first = nn.Linear(4, 12)
        self.blocks = nn.ModuleList(nn.Linear(12, 12) for _ in range(count))
        self.idle = nn.Linear(2, 2)
        self.pair, self.whole = Pair(), Whole()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        made: torch.Tensor = self.pair(x)[0]
        return made + self.whole(x)


class Pair(nn.Module):
    """A block that makes more than hidden states."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        return x, "and more"


class Whole(nn.Module):
    """A block that makes integers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.long()


def placed(count: int, boundaries: int) -> list[int]:
    """After how many blocks each boundary stands."""
    made = boundaries_of(Blocks(count), BoundariesSection(count=boundaries))
    assert made is not None
    return [1 + int(name.removeprefix("blocks.")) for name in made.after]


def test_boundaries_stand_evenly_between_repeated_blocks() -> None:
    assert placed(12, 3) == [3, 6, 9]
    assert placed(6, 3) == [2, 3, 5]
    assert placed(4, 1) == [2]
    assert all(placed(count, count - 1) == list(range(1, count)) for count in range(2, 9))


@pytest.mark.parametrize(("model_type", "block"), [("llama", "model.layers.1"), ("gpt2", "transformer.h.1")])
def test_the_blocks_of_a_model_of_transformers_are_its_layers(model_type: str, block: str) -> None:
    assert blocks_of(build_model(tiny_config(model_type)))[-1] == block


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "too many": ({"count": 3}, "count: between 3 blocks stand 2 boundaries at most: take fewer"),
    "an unknown name": ({"after": ["blocks.9"]}, "after: no module is called 'blocks.9'; blocks are blocks.0 to"),
    "a name twice": ({"after": ["blocks.0", "blocks.0"]}, "after: names a module twice"),
    "an idle block": ({"after": "idle"}, "after: the model never calls idle"),
    "no tensor of floats": ({"after": "whole"}, "after: whole makes no float32 tensor"),
    "a chunk that does not divide": ({"count": 1, "chunk": 8}, "chunk: 8 does not divide the 12 numbers"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str) -> None:
    changes, line = MISTAKES[mistake]
    model = Blocks(3)

    def stand() -> None:
        with standing(model, boundaries_of(model, BoundariesSection(**changes))):
            model(torch.ones(2, 4))

    with pytest.raises(UserError) as caught:
        stand()
    assert f"model.boundaries.{line}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_without_repeated_blocks_says_so() -> None:
    with pytest.raises(
        UserError, match=r"no list of repeated blocks: name modules in model\.boundaries\.after"
    ):
        boundaries_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), BoundariesSection(count=1))


def test_boundaries_stand_while_they_are_wanted_and_no_longer() -> None:
    model, given = Blocks(2), torch.linspace(-1, 1, 24).view(6, 4)
    plain = model(given)
    with standing(model, Boundaries(("blocks.0", "pair"), 4)):
        x = rounded(model.blocks[0](model.first(given)), 4, 0)
        assert torch.equal(x, model.blocks[0](model.first(given))), "what is rounded stays as it is"
        assert not torch.equal(model(given), plain)
    with standing(model, None):
        assert torch.equal(model(given), plain)


def test_a_token_s_bytes_are_codes_and_exponents() -> None:
    assert bytes_of_a_row(256, None) == 1024
    assert [bytes_of_a_row(256, Boundaries((), bits)) for bits in (16, 8, 4)] == [513, 257, 129]
    assert bytes_of_a_row(256, Boundaries((), 4, 32)) == 128 + 8
    assert bytes_of_a_row(7, Boundaries((), 4)) == 4 + 1


@pytest.mark.slow
def test_a_job_s_boundaries_are_in_its_program(tmp_path: Path) -> None:
    layers = {"model.config.num_hidden_layers": 2}
    plain, bounded = (tmp_path / name for name in ("plain", "bounded"))
    plain.mkdir()
    bounded.mkdir()
    without = make_run(plain, layers)
    made = make_run(bounded, {**layers, "model.boundaries.count": 1, "model.boundaries.bits": 4})
    assert made.nodes > without.nodes
    programs, others = made.manifest.programs, without.manifest.programs
    assert programs.inner.digest != others.inner.digest
    assert (programs.prologue, programs.epilogue, programs.outer) == (
        others.prologue,
        others.epilogue,
        others.outer,
    )
