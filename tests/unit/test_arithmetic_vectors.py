"""The frozen vectors of the arithmetic are what the law's definition says, judged by the standard library alone."""

import copy
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.arithmetic_vectors import FOLDER, Json, files, judge_file
from tests.checkout import ROOT
from trainer.lifetimes import python
from verification.operators import OPERATORS

VECTORS = dict(files())
ENDING = {
    "cast",
    "divide",
    "sqrt",
    "gather",
    "select",
    "take_along",
    "sum",
    "mean",
    "row_exponent",
    "scatter_sum",
}
"""The operators that may end a step."""

ALONE = """
import importlib, pkgutil, sys
sys.path.insert(0, {root!r})
sys.modules.update(torch=None, numpy=None)
import verification.arithmetic
for module in pkgutil.iter_modules(verification.arithmetic.__path__):
    importlib.import_module("verification.arithmetic." + module.name)
from tests import arithmetic_vectors
arithmetic_vectors.main()
loaded = {{name.partition(".")[0] for name, module in sys.modules.items() if module}}
print(*sorted(loaded - set(sys.stdlib_module_names) - {{"__main__"}}))
"""


def test_every_operator_has_vectors() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(OPERATORS)
    for name, vectors in VECTORS.items():
        numbers = [number for node in vectors["nodes"] for number in node["numbers"]]
        assert len(numbers) >= 200
        assert any(number["result"] is None for number in numbers) == (name in ENDING), name


def test_the_vectors_are_judged_without_torch_and_numpy() -> None:
    """By an interpreter that has no package but the standard library's, in another process."""
    code = ALONE.format(root=str(ROOT))
    done = subprocess.run(python("-I", "-S", "-c", code), capture_output=True, text=True, check=True)
    *counts, ours = done.stdout.splitlines()
    assert len(counts) == len(OPERATORS)
    assert ours.split() == ["tests", "verification"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_a_changed_vector_is_refused(name: str) -> None:
    """Another result, another place, another input, and one place too many."""
    changes: list[Callable[[Json], Any]] = [
        lambda number: number.update(
            result="0" if number["result"] is None else number["result"][::-1] + "0"
        ),
        lambda number: number["reads"].append([0, 0, "00"]),
        lambda number: number["reads"] and number["reads"][0].__setitem__(1, number["reads"][0][1] + 1),
        lambda number: number["totals"] and number["totals"][0].update(total="77"),
        lambda number: number["totals"] and number["totals"][0]["terms"][0].update(term="77"),
    ]
    assert judge_file(VECTORS[name]) >= 200
    for change in changes:
        vectors = copy.deepcopy(VECTORS[name])
        numbers = [number for node in vectors["nodes"] for number in node["numbers"]]
        number = next(each for each in numbers if each["result"] is not None)
        change(number)
        if json.dumps(vectors) != json.dumps(VECTORS[name]):
            with pytest.raises(AssertionError):
                judge_file(vectors)
