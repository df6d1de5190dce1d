"""What a plan consists of: members in groups that run as one loop, and steps that run alone."""

from dataclasses import dataclass, field

from trainer.programs.loops import layouts
from trainer.programs.loops.layouts import Access, Layout
from verification.program import Node

FULL, ROW, REDUCE = "full", "row", "reduce"

MAX_MEMBERS = 96
"""Nodes in a group: more would make compilers slow and spill registers."""


@dataclass(frozen=True)
class Operand:
    """A value read in the order of a node's elements; `root` names the buffer, `layout` the place in it."""

    root: int
    layout: Layout


@dataclass(frozen=True)
class GroupNode:
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
    members: dict[int, GroupNode] = field(default_factory=dict)
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

    def reshape(self, columns: int) -> None:
        """Walk the same elements in rows of `columns`."""
        self.rows, self.columns = self.rows * self.columns // columns, columns

    def access(self, member: GroupNode, operand: Operand) -> Access | None:
        """Return how a member reads an operand, or None where no rows can be read."""
        return layouts.access(operand.layout, 1 if member.kind == ROW else self.columns)

    def holds(self, member: GroupNode, columns: int | None = None) -> bool:
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


LoopStep = Step | Group


@dataclass(frozen=True)
class Plan:
    """Steps in their order; `places` says for every value of the program in which buffer and how it lies."""

    steps: tuple[LoopStep, ...]
    places: tuple[Operand, ...]
