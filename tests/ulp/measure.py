"""`python -m tests.ulp.measure`: the largest error of every case, as docs/arithmetic.md shows them; ten minutes."""

import sys

import mpmath

from tests.ulp import composite, elementwise, points, rows, steps

COMPOSITES = composite.POINTWISE | rows.ROWS
NAMES = [*elementwise.ELEMENTWISE, *COMPOSITES, *steps.STEPS]
FULL = 100
"""Numbers per binade and sign; composites take a fifth."""


def error(name: str, density: int) -> tuple[float, int]:
    """(the largest error in the case's unit, number of points) at a density of points."""
    if name in elementwise.ELEMENTWISE:
        case, x = elementwise.ELEMENTWISE[name], elementwise.inputs(name, density)
        return points.worst_of(case.function, case.reference, x), len(x)
    with mpmath.workdps(points.DIGITS):
        few = max(2, density // 5)
        made = steps.measure(name, few) if name in steps.STEPS else composite.run(COMPOSITES[name], few)
        return points.worst(*made), len(made[0])


def main() -> None:
    """Print every case's error and points."""
    for name in NAMES:
        worst, count = error(name, FULL)
        sys.stdout.write(f"{name}: {worst:.5f} on {count:,}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
