"""Every kernel and every loop makes what the law defines, on at least a million numbers of each operator.

The definition is plain Python, one number after another: some seven minutes of one processor for all operators. Numbers
are counted as they are compared, and the counts printed (`pytest -s`).
"""

import math
import warnings
from random import Random

import pytest
import torch

from tests import arithmetic
from trainer import exact
from trainer.exact import native
from trainer.programs.interpreter import LoadedProgram, NoLoops
from trainer.programs.operators import OPERATORS
from trainer.programs.options import Loops, RunOptions
from trainer.programs.tracing.builder import Builder
from verification.arithmetic.numbers import FLOAT
from verification.program import Program

pytestmark = [pytest.mark.slow, pytest.mark.matrix, pytest.mark.timeout(1800)]

NUMBERS = 1_000_000
SIZE, FEWEST = 20_000, 48
"""Numbers of a large case and of a small one. Edges are met in small ones, whose numbers are drawn one by one."""
LARGEST, ONE, INFINITE = 3.4028234663852886e38, 0x3F800000, 0x7F800000
LOOPED = sorted(name for name, operator in OPERATORS.items() if operator.c or operator.reduces)


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_a_kernel_makes_what_the_definition_says(operator: str) -> None:
    random, count, cases, failed = Random(13), 0, 0, 0
    while count < NUMBERS:
        case = arithmetic.drawn(operator, random, FEWEST if cases % 10 else SIZE)
        made = arithmetic.by_kernel(case)
        failed += made is None
        compared = arithmetic.compare(case, made)
        count += 0 if made is None else compared
        cases += 1
    print(f"\n{operator}: {count:,} numbers of {cases:,} nodes, {failed:,} of which end the step")
    assert cases > 10


@pytest.mark.parametrize("terms", [1 << 16, 1_000_001])
@pytest.mark.parametrize("operator", arithmetic.REDUCING)
def test_a_kernel_makes_what_the_definition_says_over_long_axes(operator: str, terms: int) -> None:
    if operator == "product" and terms > 1 << 16:
        terms = 1 << 20
    case = arithmetic.deep(operator, Random(terms), terms)
    numbers = arithmetic.compare(case, arithmetic.by_kernel(case))
    print(f"\n{operator}: {numbers} numbers of {terms:,} terms")


def test_every_backend_of_products_makes_what_the_definition_says() -> None:
    random, count = Random(7), 0
    while count < NUMBERS:
        case = arithmetic.drawn("product", random, SIZE)
        (bits,) = dict(case.node.attributes)["bits"]
        left, left_exponents, right, right_exponents = case.inputs
        names = arithmetic.PRODUCTS.serving(bits, left.shape[-1])
        made = [exact.product(left, left_exponents, right, right_exponents, bits, name) for name in names]
        assert all(torch.equal(made[0], other) for other in made[1:])
        count += arithmetic.compare(case, made[0])
    print(f"\nproduct: {count:,} numbers by {', '.join(names)}")


def bounded(case: arithmetic.Case) -> Program:
    """A program of one node, and of others behind it that put 1 where its result is not finite, as outputs must be."""
    b = Builder()
    attributes = dict(case.node.attributes)
    specs = case.specs[:1] if case.node.operator == "quantise" else case.specs
    ports = [b.port(f"x{place}", spec.dtype, spec.shape) for place, spec in enumerate(specs)]
    if case.node.operator == "quantise":  # by the exponents of its own rows, which no port brings
        ports.append(b.emit("row_exponent", ports[0], dim=attributes["dim"]))
    made = b.emit(case.node.operator, *ports, dtype=case.node.dtype, shape=case.node.shape, **attributes)
    if case.node.dtype == FLOAT:
        small = b.emit("less_equal", b.emit("absolute", made), b.scalar(LARGEST))
        made = b.emit("where", small, made, b.scalar(1.0))
    return b.finish("inner", [("y", made)])


def replaced(number: int | None) -> int | None:
    """The bits of 1 for those of no finite float32."""
    return ONE if number is not None and number & INFINITE == INFINITE else number


@pytest.mark.skipif(native.compiler() is None, reason="no C compiler")
@pytest.mark.parametrize("operator", LOOPED)
def test_a_loop_makes_what_the_definition_says(operator: str) -> None:
    random, count, cases = Random(29), 0, 0
    while count < SIZE:
        case = arithmetic.drawn(operator, random, SIZE)
        if arithmetic.by_kernel(case) is None or not math.prod(case.node.shape):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error", NoLoops)
            loaded = LoadedProgram(bounded(case), RunOptions(loops=Loops.ALWAYS))
            given = case.inputs[: len(loaded.program.inputs)]
            loaded.run(given)
            (made,) = loaded.run(given)
        assert loaded.is_compiled
        expected = list(arithmetic.defined(case))
        is_float = case.node.dtype == FLOAT
        assert arithmetic.bits(made) == [replaced(number) if is_float else number for number in expected]
        count, cases = count + len(expected), cases + 1
    print(f"\n{operator}: {count:,} numbers of {cases} loops")
