"""Writes the vectors of the arithmetic: `python -m tests.make_arithmetic_vectors`. Needed when an operator changes.

Files hold what the law's definition says of nodes that `tests.arithmetic` draws, after each was compared with its
kernel; an operator's are the same on every machine.
"""

import json
import math
from random import Random

from tests import arithmetic
from tests.arithmetic_vectors import FOLDER, FORMAT, Json, told
from verification.operators import OPERATORS, definition_of

NUMBERS, PER_NODE, SIZE = 240, 6, 12


def vectors_of(operator: str) -> Json:
    """Return the vectors of an operator: of every node a few numbers, and of some that one ends the step."""
    random, nodes, count = Random(operator), [], 0
    while count < NUMBERS:
        case = arithmetic.drawn(operator, random, SIZE)
        arithmetic.compare(case, arithmetic.by_kernel(case))
        site, total = case.site, math.prod(case.node.shape)
        definition = definition_of(operator, site)
        chosen = sorted(random.sample(range(total), min(total, PER_NODE)))
        if chosen:
            numbers = [told(definition, site, index, case.read) for index in chosen]
            nodes.append(
                {
                    "attributes": {name: list(values) for name, values in site.attributes.items()},
                    "inputs": [{"dtype": spec.dtype, "shape": list(spec.shape)} for spec in site.inputs],
                    "result": {"dtype": site.result.dtype, "shape": list(site.result.shape)},
                    "numbers": numbers,
                }
            )
        count += len(chosen)
    return {"format": FORMAT, "operator": operator, "nodes": nodes}


def written(vectors: Json) -> str:
    """Return a file's text: one number on a line."""
    parts = []
    for node in vectors["nodes"]:
        head = {name: value for name, value in node.items() if name != "numbers"}
        numbers = ",\n".join(json.dumps(number, separators=(",", ":")) for number in node["numbers"])
        parts.append(f'{json.dumps(head, separators=(",", ":"))[:-1]},"numbers":[\n{numbers}]}}')
    nodes = ",\n".join(parts)
    return f'{{"format":"{vectors["format"]}","operator":"{vectors["operator"]}","nodes":[\n{nodes}]}}\n'


def main() -> None:
    """Write one file for each operator."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for operator in sorted(OPERATORS):
        (FOLDER / f"{operator}.json").write_text(written(vectors_of(operator)), "utf-8")


if __name__ == "__main__":
    main()
