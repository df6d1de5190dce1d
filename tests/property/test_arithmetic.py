"""Every kernel makes what its operator's definition says, bit for bit, on any inputs."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import arithmetic
from verification.operators import OPERATORS

SMALL = 24


@pytest.mark.parametrize("operator", sorted(OPERATORS))
@settings(max_examples=150, deadline=None, derandomize=True)
@given(random=st.randoms(use_true_random=False))
def test_a_kernel_makes_what_the_definition_says(operator: str, random: Random) -> None:
    case = arithmetic.drawn(operator, random, SMALL)
    arithmetic.compare(case, arithmetic.by_kernel(case))
