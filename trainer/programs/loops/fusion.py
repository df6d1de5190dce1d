"""Planning: which nodes of a program run together in one loop, and in which order the loops run.

A group walks over rows of C elements. Its members are elementwise on those elements, reductions of a row, or
elementwise on what a row was reduced to; so a value between members is a register or a row in cache, never a pass over
memory. A node that no group takes runs as its own step, by its own kernel; products are such steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainer.programs.loops import layouts
from trainer.programs.loops.again import compute_again
from trainer.programs.loops.groups import (
    FULL,
    MAX_MEMBERS,
    REDUCE,
    ROW,
    Group,
    GroupNode,
    LoopStep,
    Operand,
    Plan,
    Step,
)
from trainer.programs.loops.layouts import Layout
from trainer.programs.loops.order import Order, by_liveness
from trainer.programs.operators import OPERATORS
from verification.operators import operator_of
from verification.program import Node, Program, elements, first_node, size_bytes, values

REACH = 64
"""Numbers of nodes between a group and one that joins it: a far one would only lengthen its inputs' lives."""
WIDEST_ROW = 1 << 14
"""Elements to which the rows of a group without reductions are widened."""


def plan(program: Program) -> Plan:
    """Return the plan of a checked program."""
    return _Planner(program).run()


@dataclass(frozen=True)
class _Fit:
    """A member as a group would hold it, on rows of `columns`."""

    member: GroupNode
    columns: int


class _Planner:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.values = values(program)
        self.places = [
            Operand(number, layouts.contiguous(value.shape))
            for number, value in enumerate(self.values[: first_node(program)])
        ]
        self.makers: dict[int, LoopStep] = {}
        self.order = Order()
        self.tail = _tail(program)

    def run(self) -> Plan:
        for number, node in enumerate(self.program.nodes, first_node(self.program)):
            self._place(number, node)
        works = self.order.works
        results = {self.places[output.source].root for output in self.program.outputs}
        nodes = range(first_node(self.program), len(self.values))
        sizes = {number: size_bytes(self.values[number]) for number in nodes if number not in results}
        self._keep(works, results)
        compute_again(by_liveness(works, sizes), sizes)
        self._keep(works, results)
        for work in works:
            if isinstance(work, Group) and work.soft:
                _widen(work)
        return Plan(tuple(by_liveness(works, sizes)), tuple(self.places))

    def _keep(self, works: Sequence[LoopStep], results: set[int]) -> None:
        """Let each group keep those of its own values that other work reads or the program returns."""
        needed = results | {root for work in works for root in work.reads}
        for work in works:
            if isinstance(work, Group):
                work.kept = tuple(n for n in work.members if n in needed and self.makers[n] is work)

    def _place(self, number: int, node: Node) -> None:
        inputs = [self.places[source] for source in node.inputs]
        empty = any(elements(self.values[source]) == 0 for source in (*node.inputs, number))
        made = None
        if not empty:
            if operator_of(node.operator).is_view:
                made = _viewed(node, inputs[0]) or self._copied(number, node, inputs)
            elif self._is_elementwise(node):
                made = self._elementwise(number, node, inputs)
            elif OPERATORS[node.operator].reduces:
                made = self._reduction(number, node, inputs[0])
        self.places.append(made or self._alone(number, node, inputs))

    def _is_elementwise(self, node: Node) -> bool:
        # A float that becomes an integer may be out of range, which the node's own kernel refuses.
        source = self.values[node.inputs[0]].dtype
        narrowing = node.operator == "cast" and source == "float32" and node.dtype not in ("float32", "bool")
        return bool(OPERATORS[node.operator].c) and not narrowing

    def _alone(self, number: int, node: Node, inputs: Sequence[Operand]) -> Operand:
        step = Step(number, node, tuple(inputs))
        self._add(step, self._makers(step))
        self.makers[number] = step
        return Operand(number, layouts.contiguous(node.shape))

    def _add(self, work: LoopStep, sources: Sequence[LoopStep]) -> None:
        self.order.add(work)
        assert self.order.need(work, sources), "new work is needed by none"

    def _elementwise(self, number: int, node: Node, inputs: Sequence[Operand]) -> Operand:
        spread = [layouts.expand(operand.layout, node.shape) for operand in inputs]
        order = _order(node.shape, [i.layout for i in inputs], spread)
        operands = tuple(
            Operand(operand.root, layouts.permute(layout, order))
            for operand, layout in zip(inputs, spread, strict=True)
        )
        dtypes = tuple(self.values[source].dtype for source in node.inputs)
        self._join(GroupNode(number, node, FULL, operands, dtypes))
        dense = layouts.contiguous([node.shape[dim] for dim in order])
        return Operand(number, layouts.permute(dense, layouts.inverse(order)))

    def _copied(self, number: int, node: Node, inputs: Sequence[Operand]) -> Operand | None:
        if node.operator != "view":
            return None
        self._join(GroupNode(number, node, FULL, tuple(inputs), (node.dtype,)))
        return Operand(number, layouts.contiguous(node.shape))

    def _reduction(self, number: int, node: Node, source: Operand) -> Operand | None:
        attributes, shape = dict(node.attributes), source.layout.shape
        if node.operator == "amax" and self.values[node.inputs[0]].dtype != "float32":
            return None
        dims = attributes.get("dims") or attributes["dim"]
        order = layouts.walking_order(source.layout)
        places = [place for place, dim in enumerate(order) if dim in dims]
        wide = [place for place in range(len(order)) if shape[order[place]] > 1]
        between = [place for place in wide if places[0] <= place <= places[-1] and place not in places]
        if between:
            return None
        inner = math.prod(shape[order[place]] for place in wide if place > places[-1])
        depth = math.prod(shape[dim] for dim in dims)
        outer = math.prod(shape) // depth // inner
        operand = Operand(source.root, layouts.permute(source.layout, order))
        member = GroupNode(number, node, REDUCE, (operand,), (self.values[node.inputs[0]].dtype,))
        if inner == 1:
            if layouts.access(operand.layout, depth) is None:
                return None
            self._join(member, depth)
        elif not self._column(member, outer, depth, inner):
            return None
        dense = layouts.contiguous([1 if dim in dims else shape[dim] for dim in order])
        layout = layouts.permute(dense, layouts.inverse(order))
        if "keepdim" in attributes and not attributes["keepdim"][0]:
            layout = Layout(0, tuple(runs for dim, runs in enumerate(layout.dims) if dim not in dims))
        return Operand(number, layout)

    def _column(self, member: GroupNode, outer: int, depth: int, inner: int) -> bool:
        if member.node.operator == "amax" or member.dtypes != ("float32",):
            return False
        found = layouts.column_access(member.operands[0].layout, depth, inner)
        if found is None or found[0].stride != 1:
            return False
        self._start(Group(outer, inner, soft=False, depth=depth), member)
        return True

    def _join(self, member: GroupNode, columns: int | None = None) -> None:
        """Put a member into the latest group that can hold it, or into a new one; `columns` is a reduction's row."""
        makers = self._makers(member)
        groups = [work for work in makers if isinstance(work, Group) and not work.depth]
        for group in sorted(groups, key=lambda group: -group.last):
            unused = [other for other in groups if other is not group and not self.order.users(other)]
            fit = self._fit(group, member, columns)
            if fit is None or not self.order.need(group, makers):
                continue
            group.reshape(fit.columns)
            for other in unused:
                self._absorb(group, other, fit.member)
            self._enter(group, fit.member)
            group.soft = group.soft and fit.member.kind == FULL
            return
        size = math.prod(member.operands[0].layout.shape)
        width = columns or (member.operands[0].layout.shape or (1,))[-1]
        self._start(Group(size // width, width, soft=columns is None), member)

    def _start(self, group: Group, member: GroupNode) -> None:
        if not group.depth and not group.holds(member):
            group.reshape(1)
        self._add(group, self._makers(member))
        self._enter(group, member)

    def _enter(self, group: Group, member: GroupNode) -> None:
        group.members[member.number] = member
        self.makers[member.number] = group

    def _makers(self, of: GroupNode | Step) -> list[LoopStep]:
        """Return the works that make the operands."""
        found = (self.makers.get(operand.root) for operand in of.operands)
        return list(dict.fromkeys(work for work in found if work is not None))

    def _absorb(self, group: Group, other: Group, member: GroupNode) -> None:
        """Move a group without reductions, whose values nobody has used yet, into the group of its first user."""
        if not other.soft or other.rows * other.columns != group.rows * group.columns:
            return
        if len(group.members) + len(other.members) >= MAX_MEMBERS:
            return
        joint = Group(group.rows, group.columns, group.soft, members={**group.members, **other.members})
        held = all(joint.holds(moved) for moved in (*other.members.values(), member))
        if held and self.order.merge(other, into=group):
            for moved in other.members.values():
                self._enter(group, moved)

    def _fit(self, group: Group, member: GroupNode, columns: int | None) -> _Fit | None:
        """Return the member as the group could hold it, and the rows that it would then have, or None."""
        far = member.number - group.last > REACH and member.number not in self.tail
        if far or len(group.members) >= MAX_MEMBERS:
            return None
        shape = member.operands[0].layout.shape
        size = math.prod(shape)
        if size == group.rows * group.columns:
            return _fit_elements(group, member, columns)
        if size == group.rows and columns is None and not group.soft:
            row = replace(member, kind=ROW)
            return _Fit(row, group.columns) if group.holds(row) else None
        return None


def _fit_elements(group: Group, member: GroupNode, columns: int | None) -> _Fit | None:
    """Fit a member that has the group's elements: as its rows are or, where none is reduced yet, in other rows."""
    own = group.columns
    if columns is None:
        widths = [own, (member.operands[0].layout.shape or (1,))[-1]] if group.soft else [own]
    else:
        widths = [columns] if group.soft or columns == own else []
    for width in widths:
        movers = (member,) if width == own else (*group.members.values(), member)
        if all(group.holds(mover, width) for mover in movers):
            return _Fit(member, width)
    return None


def _viewed(node: Node, source: Operand) -> Operand | None:
    """Return a view's place in the buffer of its source, or None where only a copy can make it."""
    attributes, layout = dict(node.attributes), source.layout
    made: Layout | None
    match node.operator:
        case "view":
            made = layouts.view(layout, node.shape)
            if made is not None and node.shape and layouts.access(made, node.shape[-1]) is None:
                made = None
        case "expand":
            made = layouts.expand(layout, node.shape)
        case "permute":
            made = layouts.permute(layout, attributes["dims"])
        case _:
            (dim,), (start,), (stop,), (step,) = (
                attributes[name] for name in ("dim", "start", "stop", "step")
            )
            made = layouts.cut(layout, dim, start, stop, step)
    return None if made is None else Operand(source.root, made)


def _order(shape: Sequence[int], plain: Sequence[Layout], spread: Sequence[Layout]) -> tuple[int, ...]:
    """Return the order of dimensions in which an elementwise node walks: its first full operand's."""
    size = math.prod(shape)
    for layout, wide in zip(plain, spread, strict=True):
        if math.prod(layout.shape) == size:
            return layouts.walking_order(wide)
    return tuple(range(len(shape)))


def _widen(group: Group) -> None:
    """Give a group without reductions longer rows, where all its operands allow them."""
    for factor in range(min(group.rows, WIDEST_ROW // max(group.columns, 1)), 1, -1):
        columns = group.columns * factor
        if group.rows % factor == 0 and all(group.holds(m, columns) for m in group.members.values()):
            group.reshape(columns)
            return


def _tail(program: Program) -> set[int]:
    """Return the nodes from which only elementwise nodes and outputs can be reached: an optimiser's update."""
    first = first_node(program)
    tail = set(range(first, first + len(program.nodes)))
    for number in range(first + len(program.nodes) - 1, first - 1, -1):
        node = program.nodes[number - first]
        # A node passes on that it is no tail; an operator that is none says so to its inputs.
        passes = OPERATORS[node.operator].c and node.operator != "quantise"
        if number not in tail or not (passes or operator_of(node.operator).is_view):
            tail -= set(node.inputs)
    return tail
