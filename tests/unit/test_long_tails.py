"""The gradient of logits: its many small numbers weigh as much as the few large ones, and keep their bits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from tests.lowered import lowered, program_of, vjp
from trainer import exact
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.tracing.builder import Builder


def halves(values: torch.Tensor, bits: int) -> list[torch.Tensor]:
    b = Builder(bits)
    value = b.port("value", "float32", values.shape)
    return LoadedProgram(b.finish("inner", [*zip(("high", "low"), b._halves(value), strict=True)])).run(
        [values]
    )


rows = st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40)


@given(rows, st.integers(-60, 0), st.sampled_from([8, 14]))
def test_two_halves_are_the_whole_and_the_first_keeps_its_bits(
    row: list[float], shift: int, bits: int
) -> None:
    values = torch.tensor([row]) * 2.0**shift
    high, low = halves(values, bits)
    assert torch.equal(high.double() + low.double(), values.double())
    exponent = exact.row_exponent(high, 1)
    integers = exact.quantise(high, exponent, 1, bits)
    back = integers.double() * torch.exp2(exponent.double() - (bits - 1))
    assert torch.equal(back, high.double())
    assert float(low.abs().max()) <= float(values.abs().max()) * 2.0 ** (3 - bits)


def tails() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of which two are likely and 499 are not, and a head whose unlikely rows point the same way."""
    rng = np.random.default_rng(5)
    head = torch.tensor(rng.normal(size=(501, 12)) * 0.02 + 0.3, dtype=torch.float32)
    head[:20] = torch.tensor(rng.normal(size=(20, 12)) * 0.02, dtype=torch.float32)
    right = torch.tensor(rng.integers(0, 20, size=30))
    logits = torch.tensor(rng.normal(size=(30, 501)) * 0.3, dtype=torch.float32)
    logits[torch.arange(30), right] += 10.0
    logits[torch.arange(30), (right + 1) % 20] += 10.0
    return logits, head, right


@pytest.mark.parametrize("rank", [2, 3])
def test_the_gradient_behind_a_head_is_not_biased(rank: int) -> None:
    """Without the second half a sixth of this gradient is wrong: what is rounded to zero all has the same sign."""
    logits, head, right = tails()
    hidden = torch.linalg.lstsq(head.double(), logits.T.double()).solution.T.float().contiguous()

    def loss(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        made = functional.linear(hidden.view(*[1] * (rank - 2), *hidden.shape), head) + offset
        return functional.cross_entropy(made.flatten(0, -2), right)

    offset = (logits - hidden @ head.T).detach()
    (made,) = lowered(vjp(loss, 1), hidden, head, torch.ones(()))
    wanted = vjp(loss, 1)(hidden.double(), head.double(), torch.ones((), dtype=torch.float64))[0]
    assert float((made.double() - wanted).norm() / wanted.norm()) < 2e-3


def test_only_the_head_s_product_takes_twice_the_work() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    right = torch.tensor([0, 2, 1, 1])

    def loss(x: torch.Tensor, w0: torch.Tensor, w1: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(functional.linear(functional.linear(x, w0).relu(), w1), right)

    inputs = (torch.randn(4, 5), model[0].weight.detach(), model[2].weight.detach(), torch.ones(()))
    program = program_of(vjp(loss, 3), inputs).program
    operators = [node.operator for node in program.nodes]
    # Two forwards, three gradients of inputs and weights beside the head's own, which is two.
    assert operators.count("product") == 2 + 3 + 2
