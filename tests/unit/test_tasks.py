"""The losses that a run can name: what they hide, scale and refuse."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests import zoo
from tests.lowered import lowered
from trainer.exact import uniform_bits
from trainer.runs.tasks import (
    MASKED_SHARE,
    TASKS,
    Marks,
    causal_lm_loss,
    hidden_places,
    image_loss,
    masked_lm_loss,
)
from verification.errors import UserError

MASK = 256
RECORDS = (uniform_bits(b"tasks", "records", 400 * 50) & 0xFF).view(400, 50)


def test_a_share_of_each_place_is_hidden_and_places_are_independent() -> None:
    hidden = hidden_places(RECORDS).double()
    # 20,000 draws, and 400 for one place: four standard deviations.
    assert abs(hidden.mean() - MASKED_SHARE) < 4 * (0.15 * 0.85 / 20_000) ** 0.5
    assert (hidden.mean(0) - MASKED_SHARE).abs().max() < 4 * (0.15 * 0.85 / 400) ** 0.5
    for step in (1, 2, 7):
        both = (hidden[:, step:] * hidden[:, :-step]).mean()
        assert abs(both - MASKED_SHARE**2) < 4 * (MASKED_SHARE**2 / hidden[:, step:].numel()) ** 0.5


def test_the_mask_follows_from_the_record_alone_and_from_every_byte_of_it() -> None:
    hidden = hidden_places(RECORDS)
    assert torch.equal(hidden_places(RECORDS[7:9]), hidden[7:9])
    for place in (0, 25, 49):
        changed = RECORDS.clone()
        changed[:, place] ^= 1
        assert (hidden_places(changed) != hidden).double().mean() > 0.2


def test_a_program_hides_the_same_places() -> None:
    """Wrapping int64 arithmetic as operators."""
    (found,) = lowered(lambda tokens: (hidden_places(tokens),), RECORDS)
    assert torch.equal(found, hidden_places(RECORDS))


class _Constant(nn.Module):
    """A masked language model that always says the same, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.linspace(-1, 1, MASK + 1)

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> "_Constant":
        self.asked = input_ids
        said = _Constant()
        said.logits = self.logits.expand(*input_ids.shape, -1)
        return said


def test_the_masked_loss_is_the_mean_over_hidden_places() -> None:
    model, tokens = _Constant(), RECORDS[:8]
    loss, hidden = masked_lm_loss(model, tokens, MASK), hidden_places(tokens)
    assert torch.equal(model.asked, torch.where(hidden, MASK, tokens))
    count = int(hidden.sum())
    expected = functional.cross_entropy(model.logits.expand(count, -1), tokens[hidden])
    torch.testing.assert_close(loss, expected)


def test_a_batch_that_hides_nothing_costs_nothing() -> None:
    tokens = RECORDS[:, :2][~hidden_places(RECORDS[:, :2]).any(1)][:4]
    assert masked_lm_loss(_Constant(), tokens, MASK).item() == 0.0


def test_images_are_scaled_and_shaped_and_labels_are_last() -> None:
    seen: list[torch.Tensor] = []

    class Classifier(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(pixels)
            return torch.tensor([[0.0, 5.0]])

    record = torch.tensor([[0, 255, 51, 102, 153, 204, 1]])
    loss = image_loss((1, 2, 3))(Classifier(), record)
    torch.testing.assert_close(seen[0], torch.tensor([[[[-1.0, 1.0, -0.6], [-0.2, 0.2, 0.6]]]]))
    assert loss.item() == pytest.approx(0.0067, abs=1e-4)


def test_the_mask_needs_a_token_of_its_own() -> None:
    config = zoo.model("bert").config
    config.vocab_size = 256
    with pytest.raises(UserError, match="vocab_size 257"):
        TASKS["masked-lm"].loss(config, Marks(mask=MASK))
    with pytest.raises(UserError, match=r"give data\.tokenizer one that has it"):
        TASKS["masked-lm"].loss(config, Marks())


def test_a_filler_after_a_filler_does_not_count() -> None:
    """A record of four tokens and three fillers: the first filler, which ends the text, counts."""
    model, record = _Constant(), torch.tensor([[5, 9, 7, 0, 0, 0, 0]])
    expected = functional.cross_entropy(model.logits.expand(3, -1), record[0, 1:4])
    torch.testing.assert_close(causal_lm_loss(model, record, filler=0), expected)
    assert causal_lm_loss(model, torch.zeros(1, 5, dtype=torch.int64), filler=0).item() == 0.0
