"""Planning: which nodes of a program run together in one loop, and in which order the loops run.

A group walks over rows of C elements. Its members are elementwise on those elements, reductions of a row, or
elementwise on what a row was reduced to; so a value between members is a register or a row in cache, never a pass over
memory. A node that no group takes runs as its own step, by its own kernel; products are such steps.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.programs import layouts
from trainer.programs.layouts import Access, Layout
from verification.program import VIEWS, Node, Program, elements, first_node, values

ELEMENTWISE = frozenset(
    [
        "add", "subtract", "multiply", "maximum", "minimum", "negate", "absolute", "sign", "divide", "sqrt", "round",
        "floor", "exp", "log", "tanh", "erf", "sigmoid", "sin", "cos", "rsqrt", "less", "less_equal", "equal", "not",
        "and", "or", "where", "cast", "quantise",
    ]
)  # fmt: skip
"""What a group computes element by element."""

REDUCTIONS = frozenset(["row_exponent", "sum", "mean", "amax"])
FULL, ROW, REDUCE = "full", "row", "reduce"

REACH = 64
"""Numbers of nodes between a group and one that joins it: a far one would only lengthen its inputs' lives."""
MAX_MEMBERS = 96
WIDEST_ROW = 1 << 14
"""Elements to which the rows of a group without reductions are widened."""


@dataclass(frozen=True)
class Operand:
    """A value read in the order of a node's elements; `root` names the buffer, `layout` the place in it."""

    root: int
    layout: Layout


@dataclass(frozen=True)
class Member:
    """A node in a group: `kind` is FULL, ROW or REDUCE."""

    number: int
    node: Node
    kind: str
    operands: tuple[Operand, ...]
    dtypes: tuple[str, ...]


@dataclass(eq=False)
class Step:
    """One node alone, on its own kernel."""

    number: int
    node: Node
    operands: tuple[Operand, ...]

    @property
    def first(self) -> int:
        """The lowest number of a node in it."""
        return self.number

    @property
    def last(self) -> int:
        """The highest number of a node in it."""
        return self.number

    @property
    def makes(self) -> tuple[int, ...]:
        """The buffer that it fills."""
        return (self.number,)

    @property
    def reads(self) -> tuple[int, ...]:
        """The buffers that it reads."""
        return tuple(dict.fromkeys(operand.root for operand in self.operands))


@dataclass(eq=False)
class Group:
    """Members on rows of `columns` elements; `depth` above 0 makes it one reduction over the middle of three."""

    rows: int
    columns: int
    soft: bool
    depth: int = 0
    members: dict[int, Member] = field(default_factory=dict)
    kept: tuple[int, ...] = ()

    @property
    def first(self) -> int:
        """The lowest number of a node in it."""
        return min(self.members)

    @property
    def last(self) -> int:
        """The highest number of a node in it."""
        return max(self.members)

    @property
    def makes(self) -> tuple[int, ...]:
        """The members whose values others need."""
        return self.kept

    @property
    def reads(self) -> tuple[int, ...]:
        """The buffers that it reads."""
        roots = (operand.root for member in self.members.values() for operand in member.operands)
        return tuple(dict.fromkeys(root for root in roots if root not in self.members))

    def access(self, member: Member, operand: Operand) -> Access | None:
        """Return how a member reads an operand, or None where no rows can be read."""
        return layouts.access(operand.layout, 1 if member.kind == ROW else self.columns)

    def holds(self, member: Member, columns: int | None = None) -> bool:
        """Return whether the member could read all its operands here (with rows of `columns`)."""
        columns = columns or self.columns
        rows = self.rows * self.columns // columns
        for operand in member.operands:
            found = layouts.access(operand.layout, 1 if member.kind == ROW else columns)
            if found is None:
                return False
            source = self.members.get(operand.root)
            if source is None:
                continue
            if member.kind == ROW:
                if source.kind == FULL or not found.is_full(rows, 1):
                    return False
            elif not (found.is_full(rows, columns) if source.kind == FULL else found.is_row(rows, columns)):
                return False
        return True


Work = Step | Group


@dataclass(frozen=True)
class Plan:
    """Steps in their order; `places` says for every value of the program in which buffer and how it lies."""

    steps: tuple[Work, ...]
    places: tuple[Operand, ...]


def plan(program: Program) -> Plan:
    """Return the plan of a checked program."""
    return _Planner(program).run()


class _Planner:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.values = values(program)
        self.places = [
            Operand(number, layouts.contiguous(value.shape))
            for number, value in enumerate(self.values[: first_node(program)])
        ]
        self.makers: dict[int, Work] = {}
        self.work: list[Work] = []
        self.users: dict[int, set[int]] = {}
        self.tail = _tail(program)

    def run(self) -> Plan:
        for number, node in enumerate(self.program.nodes, first_node(self.program)):
            self._place(number, node)
        needed = {root for work in self.work for root in work.reads}
        needed |= {self.places[output.source].root for output in self.program.outputs}
        for work in self.work:
            if isinstance(work, Group):
                work.kept = tuple(number for number in work.members if number in needed)
                if work.soft:
                    _widen(work)
        return Plan(tuple(_ordered(self.work, self.makers, self.tail)), tuple(self.places))

    def _place(self, number: int, node: Node) -> None:
        inputs = [self.places[source] for source in node.inputs]
        empty = any(elements(self.values[source]) == 0 for source in (*node.inputs, number))
        made = None
        if not empty:
            if node.operator in VIEWS:
                made = _viewed(node, inputs[0]) or self._copied(number, node, inputs)
            elif self._is_elementwise(node):
                made = self._elementwise(number, node, inputs)
            elif node.operator in REDUCTIONS:
                made = self._reduction(number, node, inputs[0])
        self.places.append(made or self._alone(number, node, inputs))

    def _is_elementwise(self, node: Node) -> bool:
        # A float that becomes an integer may be out of range, which the node's own kernel refuses.
        source = self.values[node.inputs[0]].dtype
        narrowing = node.operator == "cast" and source == "float32" and node.dtype not in ("float32", "bool")
        return node.operator in ELEMENTWISE and not narrowing

    def _alone(self, number: int, node: Node, inputs: Sequence[Operand]) -> Operand:
        self._add(Step(number, node, tuple(inputs)))
        return Operand(number, layouts.contiguous(node.shape))

    def _add(self, work: Work) -> None:
        self.work.append(work)
        for number in work.makes:
            self.makers[number] = work
        for root in work.reads:
            self.users.setdefault(root, set()).add(id(work))

    def _elementwise(self, number: int, node: Node, inputs: Sequence[Operand]) -> Operand:
        spread = [layouts.expand(operand.layout, node.shape) for operand in inputs]
        order = _order(node.shape, [i.layout for i in inputs], spread)
        operands = tuple(
            Operand(operand.root, layouts.permute(layout, order))
            for operand, layout in zip(inputs, spread, strict=True)
        )
        dtypes = tuple(self.values[source].dtype for source in node.inputs)
        self._join(Member(number, node, FULL, operands, dtypes))
        dense = layouts.contiguous([node.shape[dim] for dim in order])
        return Operand(number, layouts.permute(dense, layouts.inverse(order)))

    def _copied(self, number: int, node: Node, inputs: Sequence[Operand]) -> Operand | None:
        if node.operator != "view":
            return None
        self._join(Member(number, node, FULL, tuple(inputs), (node.dtype,)))
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
        member = Member(number, node, REDUCE, (operand,), (self.values[node.inputs[0]].dtype,))
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

    def _column(self, member: Member, outer: int, depth: int, inner: int) -> bool:
        if member.node.operator == "amax" or member.dtypes != ("float32",):
            return False
        found = layouts.column_access(member.operands[0].layout, depth, inner)
        if found is None or found[0].stride != 1:
            return False
        self._start(Group(outer, inner, soft=False, depth=depth), member)
        return True

    def _join(self, member: Member, columns: int | None = None) -> None:
        """Put a member into the latest group that can hold it, or into a new one; `columns` is a reduction's row."""
        size = math.prod(member.operands[0].layout.shape)
        near = {self.makers.get(operand.root): None for operand in member.operands}
        groups = [work for work in near if isinstance(work, Group) and not work.depth]
        for group in sorted(groups, key=lambda group: -group.last):
            if (found := self._fitted(group, member, size, columns)) is not None:
                for other in groups:
                    self._absorb(group, other, found)
                self._enter(group, found)
                group.soft = group.soft and found.kind == FULL
                return
        width = columns or (member.operands[0].layout.shape or (1,))[-1]
        self._start(Group(size // width, width, soft=columns is None), member)

    def _start(self, group: Group, member: Member) -> None:
        if not group.depth and not group.holds(member):
            group.rows, group.columns = group.rows * group.columns, 1
        self.work.append(group)
        self._enter(group, member)

    def _enter(self, group: Group, member: Member) -> None:
        group.members[member.number] = member
        self.makers[member.number] = group
        for operand in member.operands:
            self.users.setdefault(operand.root, set()).add(id(group))

    def _absorb(self, group: Group, other: Group, member: Member) -> None:
        """Move a group without reductions, whose values nobody has used yet, into the group of its first user."""
        if other is group or not other.soft or other.rows * other.columns != group.rows * group.columns:
            return
        if any(self.users.get(number, set()) - {id(other)} for number in other.members):
            return
        if any(self._circular(group, moved) for moved in other.members.values()):
            return
        if len(group.members) + len(other.members) >= MAX_MEMBERS:
            return
        joint = Group(group.rows, group.columns, group.soft, members={**group.members, **other.members})
        if all(joint.holds(moved) for moved in (*other.members.values(), member)):
            for moved in other.members.values():
                self._enter(group, moved)
            self.work.remove(other)

    def _fitted(self, group: Group, member: Member, size: int, columns: int | None) -> Member | None:
        far = member.number - group.last > REACH and member.number not in self.tail
        if far or len(group.members) >= MAX_MEMBERS:
            return None
        total = group.rows * group.columns
        width = group.columns
        if size == total and (columns is None or columns == width):
            found = member if group.holds(member) else None
            if found is None and columns is None and group.soft:
                width = (member.operands[0].layout.shape or (1,))[-1]
                found = member if self._refit(group, member, width) else None
        elif size == total and columns is not None and group.soft:
            found = member if self._refit(group, member, columns) else None
        elif size == group.rows and columns is None and not group.soft:
            row = Member(member.number, member.node, ROW, member.operands, member.dtypes)
            found = row if group.holds(row) else None
        else:
            found = None
        return found if found is not None and not self._circular(group, member) else None

    def _refit(self, group: Group, member: Member, columns: int) -> bool:
        members = (*group.members.values(), member)
        if self._circular(group, member):
            return False
        if all(group.holds(other, columns) for other in members):
            group.rows, group.columns = group.rows * group.columns // columns, columns
            return True
        return False

    def _circular(self, group: Group, member: Member) -> bool:
        """Return whether an operand from elsewhere needs the group first."""
        waiting = [self.makers.get(operand.root) for operand in member.operands]
        seen: set[int] = set()
        while waiting:
            work = waiting.pop()
            if work is None or work is group or id(work) in seen:
                continue
            seen.add(id(work))
            sources = [self.makers.get(root) for root in work.reads]
            if group in sources:
                return True
            waiting += sources
        return False


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
            group.rows, group.columns = group.rows // factor, columns
            return


def _tail(program: Program) -> set[int]:
    """Return the nodes from which only elementwise nodes and outputs can be reached: an optimiser's update."""
    first = first_node(program)
    tail = set(range(first, first + len(program.nodes)))
    for number in range(first + len(program.nodes) - 1, first - 1, -1):
        node = program.nodes[number - first]
        # A node passes on that it is no tail; an operator that is none says so to its inputs.
        if number not in tail or not (node.operator in ELEMENTWISE - {"quantise"} or node.operator in VIEWS):
            tail -= set(node.inputs)
    return tail


def _ordered(work: Sequence[Work], makers: dict[int, Work], tail: set[int]) -> list[Work]:
    """Return the work in an order in which all inputs come first: the program's, but updates as soon as they can."""
    sources = {
        id(item): {id(makers[root]) for root in item.reads if root in makers} - {id(item)} for item in work
    }
    users: dict[int, list[Work]] = {id(item): [] for item in work}
    for item in work:
        for source in sources[id(item)]:
            users[source].append(item)

    def key(item: Work) -> tuple[int, int, int]:
        soon = isinstance(item, Group) and all(number in tail for number in item.members)
        return (0 if soon else 1, item.last, item.first)

    places = {id(item): place for place, item in enumerate(work)}
    ready = [(key(item), places[id(item)]) for item in work if not sources[id(item)]]
    heapq.heapify(ready)
    ordered = []
    while ready:
        item = work[heapq.heappop(ready)[1]]
        ordered.append(item)
        for user in users[id(item)]:
            sources[id(user)].discard(id(item))
            if not sources[id(user)]:
                heapq.heappush(ready, (key(user), places[id(user)]))
    assert len(ordered) == len(work), "groups depend on each other"
    return ordered
