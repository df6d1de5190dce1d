"""Every model of the zoo learns by our arithmetic as by PyTorch's float32: same data, same start, same steps."""

import pytest

from tests import zoo

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", zoo.NAMES)
def test_training_learns_as_well_as_native_float32(name: str) -> None:
    exact, native = zoo.exact_losses(name), zoo.native_losses(name)
    print(name, exact[0], exact[-1], native[-1], max(abs(a - b) for a, b in zip(exact, native, strict=True)))
    assert exact[-1] < exact[0] - 1.0
