"""Which values of an inner program are its batches: rows of a round's tokens, before a model reads them. Pure."""

from verification.program import Program, first_node

SOURCE = "tokens"
"""The input whose rows, one for each inner step, are batches of records."""


def batches_of(program: Program) -> tuple[set[int], list[int]]:
    """Return the values that only choose records among the tokens, and those of them that other nodes read, ascending.

    Of the latter a program has one for each part of its batch whose gradient it takes by itself.
    """
    names = [port.name for port in program.inputs]
    first = first_node(program)
    source = names.index(SOURCE) if SOURCE in names else -1
    chain: set[int] = set()
    for number, node in enumerate(program.nodes, first):
        chosen = node.operator == "select" and node.inputs[0] == source
        rows = node.operator == "slice" and dict(node.attributes)["dim"] == (0,)
        if chosen or ((node.operator == "cast" or rows) and node.inputs[0] in chain):
            chain.add(number)
    readers = [node for number, node in enumerate(program.nodes, first) if number not in chain]
    return chain, sorted({int(source) for node in readers for source in node.inputs if source in chain})
