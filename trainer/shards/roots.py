"""What stands behind each value of a program: a view costs nothing and is made wherever it is read. Pure.

So is an integer that is cast to a larger dtype, and what constants alone make. All are in the program of every shard
that reads them, and never cross.
"""

from collections.abc import Sequence

from verification.arithmetic.numbers import FLOAT, FORMATS
from verification.operators import operator_of
from verification.program import Node, Program, Sized, first_node, values

Root = int | None
"""The number of a value that one shard makes; None where constants alone do."""


def roots_of(program: Program) -> list[Root]:
    """Return, per value, the value that it is, views or widens."""
    inputs, known = len(program.inputs), values(program)
    found: list[Root] = [number if number < inputs else None for number in range(first_node(program))]
    for number, node in enumerate(program.nodes, first_node(program)):
        sources = [found[source] for source in node.inputs]
        is_made_anew = operator_of(node.operator).is_view or _widens(node, known)
        if is_made_anew or all(source is None for source in sources):
            found.append(sources[0] if sources else None)
        else:
            found.append(number)
    return found


def read_roots(program: Program, roots: list[Root]) -> list[tuple[int, ...]]:
    """Return, per node, the values of single shards that it reads, each once."""
    found = []
    for node in program.nodes:
        sources = dict.fromkeys(roots[source] for source in node.inputs)
        found.append(tuple(source for source in sources if source is not None))
    return found


def _widens(node: Node, known: Sequence[Sized]) -> bool:
    """Return whether a node casts an integer to a larger dtype: none of its numbers makes a step end."""
    if node.operator != "cast":
        return False
    given = known[node.inputs[0]].dtype
    return given != FLOAT and FORMATS[given].size < FORMATS[node.dtype].size
