"""What the programs of a cut must be like before a peer stakes on a run that has it. Pure. (SPEC.md 4.17)"""

from collections.abc import Callable, Sequence

from trainer.rounds.norm_program import is_packed
from trainer.shards.demand import free_values, operands_of
from trainer.shards.legs import given_by, taken_by
from trainer.shards.programs import Part, Parts
from verification.errors import Malformed
from verification.layout import PROLOGUE, STATE, SUMMARY
from verification.manifest import Crossing, Cut, Programs
from verification.program import Program, Sized, first_node, outputs_of, require_work_units
from verification.units import Digest

CHEATS = "whoever made the run cheats"


def require_sound_parts(parts: Parts) -> None:
    """Raise Malformed unless a cut's programs fit together, and nothing crosses that must not.

    A value that depends on no parameter must not cross, nor one that is a product's operand without the taker's own
    `quantise`. Of programs as they are read from a manifest nothing else is known than that they are programs.
    """
    for number, part in enumerate(parts.shards):
        _require_ports(number, part, parts.crossings)
        _require_own_operands(number, part)
        _require_ordered(number, part, parts.crossings)
        _require_norm(part.epilogue)
    _require_alike(parts)
    _require_of_parameters(parts)


def require_sound_cut(cut: Cut, whole: Programs, program: Callable[[Digest], Program]) -> None:
    """Raise Malformed unless a cut's programs are what the manifest says, and fit the whole and each other.

    `program` gives those by their digests, of which an engine has loaded each.
    """
    parts = parts_in(cut, program)
    _require_like_whole(parts, program(whole.prologue.digest), program(whole.epilogue.digest))
    for part, shard in zip(parts.shards, cut.shards, strict=True):
        require_work_units(part.prologue, shard.units.prologue)
        require_work_units(part.inner, shard.units.inner)
        require_work_units(part.epilogue, shard.units.epilogue)
    require_sound_parts(parts)


def parts_in(cut: Cut, program: Callable[[Digest], Program]) -> Parts:
    """Return a cut's programs, which `program` gives by their digests."""
    shards = [
        Part(
            program(shard.prologue.digest),
            program(shard.inner.digest),
            program(shard.epilogue.digest),
            shard.parameters,
        )
        for shard in cut.shards
    ]
    return Parts(tuple(shards), cut.crossings)


def working_of(part: Part) -> int:
    """Return how many tensors a shard's working state has."""
    return len(part.prologue.outputs)


def _require_norm(epilogue: Program) -> None:
    """Raise Malformed for packed contributions whose norm does not follow from their tensors alone."""
    if is_packed(epilogue):
        from trainer.rounds.norms import Norms  # brings torch, which a peer's own process does without

        Norms(epilogue)


def _require_like_whole(parts: Parts, prologue: Program, epilogue: Program) -> None:
    """Raise Malformed unless shards read of the state, and contribute, what the whole does of their parameters."""
    start, made = _forms(prologue.inputs), _forms(outputs_of(epilogue))
    count = len(made) - len(SUMMARY)
    if sum(len(part.parameters) for part in parts.shards) != count:
        raise Malformed(f"the shards of a cut do not hold the {count} parameters of the run: {CHEATS}")
    for number, part in enumerate(parts.shards):
        roles = part.prologue.role, part.inner.role, part.epilogue.role
        if roles != ("prologue", "inner", "epilogue"):
            raise Malformed(f"shard {number}: its programs are {', '.join(roles)}: {CHEATS}")
        places = [kind * count + place for kind in range(len(STATE)) for place in part.parameters]
        if _forms(part.prologue.inputs) != [start[n] for n in places] + start[len(STATE) * count :]:
            raise Malformed(f"shard {number}: its prologue reads other things than the run's: {CHEATS}")
        if _forms(outputs_of(part.epilogue)) != [made[n] for n in part.parameters] + made[count:]:
            raise Malformed(f"shard {number}: it contributes other things than the run's epilogue: {CHEATS}")


def _require_ports(number: int, part: Part, crossings: Sequence[Crossing]) -> None:
    """Raise Malformed unless a shard's three programs have the inputs and outputs that they must have."""
    count, parameters = working_of(part), len(part.parameters)
    start = len(STATE) * parameters
    working = _forms(outputs_of(part.prologue))
    inner, epilogue = part.inner, part.epilogue
    wanted = {
        "inputs of the prologue": (len(part.prologue.inputs), start + len(PROLOGUE)),
        "inputs of the inner program": (len(inner.inputs), count + len(taken_by(number, crossings))),
        "outputs of the inner program": (len(inner.outputs), count + len(given_by(number, crossings))),
        "inputs of the epilogue": (len(epilogue.inputs), start + count),
        "outputs of the epilogue": (len(epilogue.outputs), parameters + len(SUMMARY)),
    }
    for name, (found, right) in wanted.items():
        if found != right:
            raise Malformed(f"shard {number}: {found} {name}, not {right}: {CHEATS}")
    for name, ports in (
        ("the inner program reads", inner.inputs[:count]),
        ("the inner program makes", outputs_of(inner)[:count]),
        ("the epilogue reads", epilogue.inputs[start:]),
    ):
        if _forms(ports) != working:
            raise Malformed(f"shard {number}: {name} another working state than the prologue makes: {CHEATS}")
    if any(count <= output.source < len(inner.inputs) for output in inner.outputs):
        raise Malformed(f"shard {number}: it hands on as its own what it takes of others: {CHEATS}")
    if _forms(part.prologue.inputs[:start]) != _forms(epilogue.inputs[:start]):
        raise Malformed(f"shard {number}: the epilogue reads another start than the prologue: {CHEATS}")


def _require_alike(parts: Parts) -> None:
    """Raise Malformed unless what crosses has one dtype and shape where it is made and where it is read."""
    working = [working_of(part) for part in parts.shards]
    pairs = list(zip(parts.shards, working, strict=True))
    made = [iter(_forms(outputs_of(part.inner)[count:])) for part, count in pairs]
    read = [iter(_forms(part.inner.inputs[count:])) for part, count in pairs]
    for place, crossing in enumerate(parts.crossings):
        given = next(made[crossing.maker])
        for taker in crossing.takers:
            if (taken := next(read[taker])) != given:
                raise Malformed(
                    f"crossing {place} is {given} where it is made, {taken} in shard {taker}: {CHEATS}"
                )


def _require_own_operands(number: int, part: Part) -> None:
    """Raise Malformed for a product of which an operand is another's: its range is what `quantise` guarantees."""
    inner, first = part.inner, first_node(part.inner)
    is_operand = [False] * (first + len(inner.nodes))
    for place in range(len(is_operand) - 1, first - 1, -1):
        node = inner.nodes[place - first]
        kinds = operands_of(node.operator, is_operand[place])
        kinds += [is_operand[place]] * (len(node.inputs) - len(kinds))
        for source, kind in zip(node.inputs, kinds, strict=False):
            is_operand[source] |= kind
    for port in range(working_of(part), len(inner.inputs)):
        if is_operand[port]:
            raise Malformed(
                f"shard {number}: input {port} is another's and reaches a product without quantise: {CHEATS}"
            )


def _require_ordered(number: int, part: Part, crossings: Sequence[Crossing]) -> None:
    """Raise Malformed unless all that a shard reads of others, before it gives something, crosses before that: else two
    members could shield each other. (SPEC.md 4.17)"""
    inner, working = part.inner, working_of(part)
    taken, given = taken_by(number, crossings), given_by(number, crossings)
    last, reads = -1, list[int]()
    for node in inner.nodes:
        ports = (source - working for source in node.inputs if working <= source < len(inner.inputs))
        last = max([last, *(taken[port] for port in ports)])
        reads.append(last)
    for place, output in zip(given, inner.outputs[working:], strict=True):
        at = output.source - first_node(inner)
        if at >= 0 and reads[at] >= place:
            raise Malformed(f"shard {number} reads crossing {reads[at]} before it gives {place}: {CHEATS}")


def _require_of_parameters(parts: Parts) -> None:
    """Raise Malformed for a crossing that depends on no parameter: every shard must make such a value itself."""
    free = [_begun_free(part) for part in parts.shards]
    crossing = [True] * len(parts.crossings)
    while True:
        after, made = list[list[bool]](), list(crossing)
        for shard, part in enumerate(parts.shards):
            taken = [crossing[place] for place in taken_by(shard, parts.crossings)]
            found = free_values(part.inner, [*free[shard], *taken])
            outputs = [found[output.source] for output in part.inner.outputs]
            count = working_of(part)
            after.append([old and new for old, new in zip(free[shard], outputs[:count], strict=True)])
            for place, is_free in zip(given_by(shard, parts.crossings), outputs[count:], strict=True):
                made[place] = is_free
        if (after, made) == (free, crossing):
            break
        free, crossing = after, made
    if any(crossing):
        raise Malformed(f"crossing {crossing.index(True)} depends on no parameter: {CHEATS}")


def _begun_free(part: Part) -> list[bool]:
    """Return, per tensor of a shard's working state, whether what the prologue makes depends on no parameter."""
    start = len(STATE) * len(part.parameters)
    found = free_values(part.prologue, [place >= start for place in range(len(part.prologue.inputs))])
    return [found[output.source] for output in part.prologue.outputs]


def _forms(given: Sequence[Sized]) -> list[tuple[str, tuple[int, ...]]]:
    return [(each.dtype, tuple(each.shape)) for each in given]
