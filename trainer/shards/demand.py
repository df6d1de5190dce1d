"""What each shard of an inner program makes by itself and takes of others, when every shard has its own program. Pure.

What depends on no parameter never crosses: whoever reads it makes it. Nor do operands of products, whose range the
reader's own `quantise` guarantees: the numbers behind them cross instead. (SPEC.md 4.17)
"""

from collections.abc import Iterable, Sequence

from trainer.shards.depth import parameter_of
from trainer.shards.memory import turns_of
from trainer.shards.roots import roots_of
from trainer.shards.segments import FIRST, Layout, laps_of
from verification.operators import operator_of
from verification.program import Program, first_node

ENDS_OPERAND = ("quantise", "row_exponent")
"""What makes a product's operands; behind these any number may stand."""


def operands_of(operator: str, is_operand: bool) -> list[bool]:
    """Return of a node's first four inputs whether they are a product's operands, where its result may be one.

    The exponents by which numbers are quantised must be their own, so they are operands too.
    """
    if operator_of(operator).multiplies:
        return [True] * 4
    if operator in ENDS_OPERAND:
        return [False, operator == "quantise", False, False]
    return [is_operand] * 4


def free_ports(program: Program, begun: Iterable[bool]) -> list[bool]:
    """Return, per input of an inner program, whether it depends on no parameter, at any step.

    `begun` says so of what the prologue makes; outputs come in the order of the inputs.
    """
    free = list(begun)
    while True:
        found = free_values(program, free)
        after = [old and found[output.source] for old, output in zip(free, program.outputs, strict=False)]
        if after == free:
            return free
        free = after


def free_values(program: Program, ports: Sequence[bool]) -> list[bool]:
    """Return, per value, whether it depends on those of the inputs alone that are free."""
    found = [*ports, *(True for _ in program.constants)]
    for node in program.nodes:
        found.append(all(found[source] for source in node.inputs))
    return found


class Demand:
    """What shards need, found from what they must give: `makes` and `takes` are values' numbers, per shard."""

    def __init__(self, program: Program, layout: Layout, ports: Sequence[bool]) -> None:
        """`ports` are the program's inputs that depend on no parameter."""
        self.program, self.first = program, first_node(program)
        self.count = len(layout.shards)
        self._roots, self._free = roots_of(program), free_values(program, ports)
        self._owners = list(layout.owners)
        for number, port in enumerate(program.inputs):
            if (
                not ports[number] and parameter_of(port.name) is None
            ):  # a sum over all: it lives where it is made
                source = self._roots[program.outputs[number].source]
                self._owners[number] = 0 if source is None else layout.owners[source]
        self._forced = [set[int]() for _ in layout.shards]
        self.makes, self.takes = self._forced, self._forced
        self._seen: set[tuple[int, int, bool]] = set()

    def owner_of(self, number: int) -> int | None:
        """Return the shard that makes a value for all; None for what everyone makes that reads it."""
        return None if self._free[number] else self._owners[number]

    def find(self, besides: Sequence[Iterable[int]]) -> None:
        """Find what all shards need for the inputs that they own, and for others `besides`, per shard."""
        for _ in range(2):  # what turns out to be made as an operand need not be taken
            self.makes, self.takes = ([set[int]() for _ in range(self.count)] for _ in range(2))
            self._seen.clear()
            waiting = [(shard, number, False) for shard, more in enumerate(besides) for number in more]
            for number in range(len(self.program.inputs)):
                if (owner := self.owner_of(number)) is not None:
                    waiting.append((owner, number, False))
            while waiting:
                waiting += self._need(*waiting.pop())
            self._forced = self.makes

    def _need(self, shard: int, number: int, is_operand: bool) -> list[tuple[int, int, bool]]:
        """Note that a shard needs a value; return who needs what for that."""
        if (shard, number, is_operand) in self._seen:
            return []
        self._seen.add((shard, number, is_operand))
        if not self._is_made(shard, number, is_operand):
            owner = self.owner_of(number)
            assert owner is not None
            self.takes[shard].add(number)
            return [(owner, number, False)]
        self.makes[shard].add(number)
        if number < len(self.program.inputs):
            return [(shard, int(self.program.outputs[number].source), False)]
        if number < self.first:
            return []
        node = self.program.nodes[number - self.first]
        kinds = operands_of(node.operator, is_operand)
        kinds += [is_operand] * (len(node.inputs) - len(kinds))
        return [(shard, int(source), kind) for source, kind in zip(node.inputs, kinds, strict=False)]

    def _is_made(self, shard: int, number: int, is_operand: bool) -> bool:
        if self.owner_of(number) in (shard, None) or number in self._forced[shard]:
            return True
        return number >= self.first and (is_operand or self._roots[number] != number)


def order_of_nodes(demand: Demand, layout: Layout, lead: int) -> list[list[int]]:
    """Return the nodes that each shard makes in the order in which it runs them: by their turn (`order_of`), and then
    by how often they wait for others, as late as those that read them."""
    levels, turns = _levels(demand), turns_of(layout, lead)
    laps = laps_of(demand.program, layout, lambda number: number in demand.takes[FIRST])

    def place(shard: int, number: int) -> tuple[tuple[int, int], int, int]:
        lap = laps[number] if shard == FIRST else 0
        turn = turns.of(shard, layout.parts[number], layout.is_forward[number], lap)
        return turn, levels[shard][number], number

    made = ([n for n in own if n >= demand.first] for own in demand.makes)
    return [sorted(own, key=lambda number: place(shard, number)) for shard, own in enumerate(made)]


def order_of_crossings(demand: Demand, orders: Sequence[Sequence[int]]) -> list[int]:
    """Return what crosses in an order in which it can be made, when shards run their nodes in these `orders`.

    So all that a shard reads before it gives something comes before that: whoever made the first one that is wrong can
    have read nothing wrong. (SPEC.md 4.17)
    """
    crossing = set[int]().union(*demand.takes)
    found = sorted(number for number in crossing if number < demand.first)
    there, places = set(found), [0] * demand.count
    while len(found) < len(crossing):
        begun = len(found)
        for shard, own in enumerate(orders):
            while places[shard] < len(own) and _is_ready(demand, shard, own[places[shard]], there):
                number = own[places[shard]]
                places[shard] += 1
                if number in crossing and demand.owner_of(number) == shard:
                    found.append(number)
                    there.add(number)
        assert len(found) > begun, "shards wait for each other"
    return found


def _is_ready(demand: Demand, shard: int, number: int, there: set[int]) -> bool:
    taken = (
        source
        for source in demand.program.nodes[number - demand.first].inputs
        if source in demand.takes[shard]
    )
    return all(source in there for source in taken)


def _levels(demand: Demand) -> list[dict[int, int]]:
    """Return, per shard, how many values one after another each of its nodes waits for."""
    program, first, shards = demand.program, demand.first, range(demand.count)
    levels: list[dict[int, int]] = [{number: 0 for number in own if number < first} for own in demand.makes]
    for shard in shards:
        levels[shard] |= {number: 1 for number in demand.takes[shard] if number < first}
    for number, node in enumerate(program.nodes, first):
        makers = [shard for shard in shards if number in demand.makes[shard]]
        for shard in makers:
            levels[shard][number] = max((levels[shard][source] for source in node.inputs), default=0)
        for shard in shards:
            if number in demand.takes[shard]:
                owner = demand.owner_of(number)
                assert owner is not None
                levels[shard][number] = 1 + levels[owner][number]
    fixed = {int(output.source) for output in program.outputs}.union(*demand.takes)
    for shard in shards:
        _put_off(demand, levels[shard], shard, fixed)
    return levels


def _put_off(demand: Demand, levels: dict[int, int], shard: int, fixed: set[int]) -> None:
    """Raise the levels of a shard's nodes, but for those that are `fixed`, to the least of those that read them."""
    latest: dict[int, int] = {}
    for number in sorted(demand.makes[shard], reverse=True):
        if number < demand.first:
            break
        if number not in fixed and number in latest:
            levels[number] = latest[number]
        for source in demand.program.nodes[number - demand.first].inputs:
            latest[source] = min(latest.get(source, levels[number]), levels[number])
