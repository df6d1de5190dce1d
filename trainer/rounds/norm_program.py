"""The part of an epilogue that makes its contribution's norm. Pure, and without PyTorch. (SPEC.md 2.7, 4.5)"""

from dataclasses import replace

from verification.errors import Malformed
from verification.layout import SUMMARY, per_parameter
from verification.program import Node, Output, Port, Program, first_node, values
from verification.units import Count


def is_packed(epilogue: Program) -> bool:
    """Return whether a contribution has packed integers, so that its norm takes a program of its own."""
    known = values(epilogue)
    return any(known[output.source].dtype == "uint8" for output in per_parameter(epilogue.outputs))


def norm_program(epilogue: Program) -> Program:
    """Return the part of an epilogue that makes the norm of its contribution's tensors; raises Malformed for none."""
    known, first, constants = values(epilogue), first_node(epilogue), len(epilogue.inputs)
    given = per_parameter(epilogue.outputs)
    norm = dict(zip(SUMMARY, epilogue.outputs[-len(SUMMARY) :], strict=True))["norm"]
    number = {int(output.source): place for place, output in enumerate(given)}
    if len(number) < len(given):
        raise Malformed("the epilogue gives one tensor for two parameters: whoever made the run cheats")
    used, waiting = set[int](), [int(norm.source)]
    while waiting:
        value = waiting.pop()
        if value in number or value in used:
            continue
        if value < constants:
            raise Malformed(
                "the epilogue's norm does not follow from the contribution: whoever made the run cheats"
            )
        used.add(value)
        waiting += map(int, epilogue.nodes[value - first].inputs) if value >= first else []
    number |= {value: len(given) + place for place, value in enumerate(sorted(used))}

    def numbered(node: Node) -> Node:
        return replace(node, inputs=tuple(Count(number[int(source)]) for source in node.inputs))

    return replace(
        epilogue,
        role="norm",
        inputs=tuple(Port(o.name, known[o.source].dtype, known[o.source].shape) for o in given),
        constants=tuple(epilogue.constants[value - constants] for value in sorted(used) if value < first),
        nodes=tuple(numbered(epilogue.nodes[value - first]) for value in sorted(used) if value >= first),
        outputs=(Output("norm", Count(number[int(norm.source)])),),
    )
