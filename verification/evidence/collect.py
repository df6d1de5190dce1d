"""From the ledger's log to one file of evidence for each conviction. (SPEC.md 6.11)

Pure: whoever reads the log passes its statements and effects.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from verification import law, merkle
from verification.causes import Cause
from verification.claims import Judged
from verification.crews import held_at
from verification.effects import Effect, Slashed
from verification.errors import BadEvidence
from verification.evidence.file import (
    Constant,
    Conviction,
    Included,
    Kind,
    Nowhere,
    ProgramPart,
    PublicRecord,
)
from verification.executions import post_of, program_of, reader_of, result_at
from verification.game import Game
from verification.grid import open_blocks
from verification.honest.within import read_by
from verification.manifest import Place
from verification.outer import mixture
from verification.placed import OfRun
from verification.program import Program, constant_leaves, node_leaves, program_head, roots_of
from verification.referee import is_public
from verification.signed import Said, open_statement
from verification.state import Dispute, Ruling, State, state_before
from verification.statements import (
    Body,
    Commit,
    Contradiction,
    Evidence,
    Mismatch,
    OpenedInput,
    Opening,
    Point,
    Seal,
    Spoiled,
)
from verification.tensors import Tensor, row_leaves
from verification.units import Address, Count, Digest, Round

B = TypeVar("B", bound=Body)
ProgramOf = Callable[[Digest], Program]
"""Finds a program of the run; raises Unavailable."""


@dataclass(frozen=True)
class Log:
    """All statements of a run by (author, round, slot)."""

    said: Mapping[tuple[Address, Round, str], Said[Body]]

    @classmethod
    def read(cls, statements: Iterable[bytes]) -> "Log":
        """Return the log of admitted statements; raises a Violation for bytes that are none."""
        opened = map(open_statement, statements)
        return cls({(said.sender, said.body.round, said.body.slot): said for said in opened})

    def signed(self, author: Address, number: Round, slot: str) -> bytes | None:
        """Return what an author signed in a place, as bytes."""
        found = self.said.get((author, number, slot))
        return None if found is None else found.data

    def of_run(self, author: Address, slot: str) -> Said[Body] | None:
        """Return what an author said in a place that belongs to no round."""
        return self.said.get((author, OfRun.round, slot))

    def each(self, kind: type[B]) -> list[Said[B]]:
        """Return all statements of a kind, in the log's order."""
        return [cast("Said[B]", said) for said in self.said.values() if isinstance(said.body, kind)]


def convictions(
    state: State, statements: Iterable[bytes], effects: Iterable[Effect], programs: ProgramOf
) -> dict[str, Conviction]:
    """Return every conviction of a run by a name for its file; disputes go by their number in the report."""
    log = Log.read(statements)
    found: dict[str, Conviction] = {}
    for dispute in state.disputes:
        if dispute.ruling is Ruling.GUILTY and dispute.decided == dispute.number:
            found[f"dispute-{dispute.number + 1}"] = _of_dispute(state, log, dispute, programs)
    for number, said in enumerate(log.each(Contradiction), 1):
        both, first = (said.body.first, said.body.second), open_statement(said.body.first)
        found[f"contradiction-{number}"] = _plain(
            state, Kind.CONTRADICTION, first.sender, first.body.round, both
        )
    for number, shown in enumerate(log.each(Spoiled), 1):
        found[f"spoiled-{number}"] = _of_spoiled(state, log, shown.data, shown.body, programs)
    silent = [e for e in effects if isinstance(e, Slashed) and e.reason.cause is Cause.NOT_OPENED]
    for number, effect in enumerate(silent, 1):
        of_round = effect.reason.round
        assert of_round is not None
        commit = log.signed(effect.address, of_round, Commit.at())
        assert commit is not None
        found[f"silence-{number}"] = _plain(state, Kind.SILENCE, effect.address, of_round, (commit,))
    return found


def require_borne_out(
    conviction: Conviction,
    state: State,
    statements: Iterable[bytes],
    effects: Iterable[Effect],
    programs: ProgramOf,
) -> None:
    """Raise BadEvidence unless a run's log bears out what a file takes on trust: a silence, or a record. (SPEC.md 6.11)

    Everything else in the file must have been tried again already.
    """
    if conviction.run != state.run:
        raise BadEvidence("the ledger is another run's")
    heads = {open_statement(data).statement.head for data in conviction.statements}
    if heads != {law.head_of(state, conviction.round)}:
        raise BadEvidence("the accused signed over another ledger's head")
    found = convictions(state, statements, effects, programs).values()
    if not any(_trusted(other) == _trusted(conviction) for other in found):
        raise BadEvidence("the ledger's log does not bear out what the file says of it")


def _trusted(conviction: Conviction) -> tuple[object, ...]:
    """Return what a file says of the ledger, and of whom."""
    case = conviction
    return case.kind, case.accused, case.round, case.place, case.record, case.dispute


def _plain(
    state: State,
    kind: Kind,
    accused: Address,
    number: Round,
    statements: tuple[bytes, ...],
    dispute: Count | None = None,
) -> Conviction:
    empty = ((), None, None, (), None, None)
    return Conviction(
        state.manifest, state.chain, kind, accused, number, Nowhere.NOWHERE, None, statements, *empty, dispute
    )


def _of_spoiled(state: State, log: Log, data: bytes, shown: Spoiled, programs: ProgramOf) -> Conviction:
    """Return the conviction by a contribution's own bytes; what shows them is its finder's statement."""
    commit = log.signed(shown.worker, shown.round, Commit.at())
    assert commit is not None
    post = state.rounds[shown.round].assignments[shown.worker].post
    program = programs(state.manifest.programs_of(post).epilogue.digest)
    sources = [int(output.source) for output in program.outputs]
    return Conviction(
        state.manifest, state.chain, Kind.SPOILED, shown.worker, shown.round, Place.EPILOGUE, None, (commit, data),
        (), _part(program, sources, sources), None, (), None, None, None,
    )  # fmt: skip


def _ended(log: Log, dispute: Dispute) -> Mismatch | Evidence | None:
    """Return the statement with which the challenger ended a dispute, if it was its own."""
    for kind in (Mismatch, Evidence):
        said = log.of_run(dispute.challenger, kind.at(dispute.number))
        if said is not None and isinstance(said.body, Mismatch | Evidence):
            return said.body
    return None


def _of_dispute(state: State, log: Log, dispute: Dispute, programs: ProgramOf) -> Conviction:
    end = _ended(log, dispute)
    claim = _claim(log, dispute)
    if dispute.cause is Cause.ACCUSED_SILENT:
        number = Count(dispute.number)
        return _plain(state, Kind.SILENCE, dispute.accused, dispute.round, claim, number)
    program = programs(program_of(state.manifest, dispute.place, post_of(state, dispute)))
    way = way_of(state, log, dispute, program)
    kind = {Mismatch: Kind.OUTPUT, Evidence: Kind.NODE}.get(type(end), way.kind)
    node, reads = way.game.node, list[int]()
    if isinstance(end, Mismatch) and way.game.trace is not None:
        node = way.game.trace.sources[end.output]
        reads = [node]
    elif node is not None:
        reads = list(map(int, program.nodes[node - program_head(program).first].inputs))
    inputs = end.inputs if isinstance(end, Evidence) else ()
    return Conviction(
        state.manifest, state.chain, kind, dispute.accused, dispute.round, dispute.place,
        None if dispute.leaf is None else Count(dispute.leaf),
        (*claim, *(said.data for said in way.lists)), way.points,
        _part(program, [] if node is None else [node, *reads], reads), None if node is None else Count(node),
        (*inputs, *_constants_read(state, dispute, program, inputs)), end if isinstance(end, Mismatch) else None,
        _record(state, log, dispute, program, reads if kind is not Kind.LIST else []), None,
    )  # fmt: skip


def _constants_read(
    state: State, dispute: Dispute, program: Program, brought: Sequence[OpenedInput]
) -> tuple[OpenedInput, ...]:
    """Return the blocks of constants that the judged claim read: the law has constants, a file's reader has not."""
    claim, result = dispute.game.claim, dispute.game.result
    if not isinstance(claim, Judged) or result is None or dispute.game.awaited:
        return ()
    reader, head = reader_of(state, dispute, program, brought), program_head(program)
    sources = [int(source) for source in program.nodes[(dispute.game.node or 0) - head.first].inputs]
    reads = ((sources[place], row, block) for place, row, block in read_by(claim, result, reader))
    constants = [read for read in dict.fromkeys(reads) if len(head.inputs) <= read[0] < head.first]
    return tuple(
        OpenedInput(
            Count(number), (),
            open_blocks(
                program.constants[number - len(head.inputs)], [(r, b) for n, r, b in constants if n == number]
            ),
        )
        for number in dict.fromkeys(number for number, _, _ in constants)
    )  # fmt: skip


def _claim(log: Log, dispute: Dispute) -> tuple[bytes, ...]:
    slots = (Seal.at(),) if dispute.place is Place.OUTER else (Commit.at(), Opening.at())
    return tuple(
        data for slot in slots if (data := log.signed(dispute.accused, dispute.round, slot)) is not None
    )


@dataclass(frozen=True)
class Way:
    """How a dispute came down: the accused's lists, what was contested of those within a node, and where it ended."""

    lists: tuple[Said[Body], ...]
    points: tuple[Count, ...]
    game: Game
    kind: Kind


def way_of(state: State, log: Log, dispute: Dispute, program: Program) -> Way:
    """Return the way of a dispute, played again from its opening."""
    lists, points, game, kind = list[Said[Body]](), list[Count](), dispute.opened, Kind.NODE
    posted = state.rounds[dispute.round].lists
    while (said := log.said.get((dispute.accused, dispute.round, game.awaited))) is not None:
        lists.append(said)
        in_order = posted.get((dispute.accused, game.awaited))
        point = log.of_run(dispute.challenger, Point.at(dispute.number, len(lists) - 1))
        if in_order is None:
            kind = Kind.LIST
            break
        if point is None:
            game = game.take(in_order)
            break
        assert isinstance(point.body, Point)
        if game.node is not None:
            points.append(point.body.index)
        game = game.take(in_order).point(int(point.body.index))
        if game.node is not None and game.result is None:
            game = game.arrive(result_at(program, game.node))
    return Way(tuple(lists), tuple(points), game, kind)


def _part(program: Program, shown: Sequence[int], uses: Sequence[int]) -> ProgramPart:
    """Return the part of a program that holds some nodes, and those constants that are among the values `uses`."""
    head, (constants_root, nodes_root) = program_head(program), roots_of(program)
    nodes, constants = node_leaves(program), constant_leaves(program)
    used = [value for value in dict.fromkeys(uses) if len(head.inputs) <= value < head.first]
    return ProgramPart(
        head, constants_root, nodes_root,
        tuple(
            (Count(n), program.nodes[n - head.first], merkle.path("node", nodes, n - head.first))
            for n in dict.fromkeys(shown) if n >= head.first
        ),
        tuple(
            (Count(n), _head_of(program.constants[place]), merkle.path("constant", constants, place))
            for n in used for place in [n - len(head.inputs)]
        ),
    )  # fmt: skip


def _head_of(constant: Tensor) -> Constant:
    root = merkle.root("row", row_leaves(constant)) if constant.data else None
    return Constant(constant.dtype, constant.shape, root)


def _record(
    state: State, log: Log, dispute: Dispute, program: Program, uses: list[int]
) -> PublicRecord | None:
    """Return what must be taken from the ledger: for the record index, and for an outer step."""
    worked, head = state.rounds[dispute.round], program_head(program)
    held = held_at(state.manifest, post_of(state, dispute))
    if not any(is_public(dispute.place, head, value, held) for value in uses):
        return None
    if dispute.place is Place.PROLOGUE:
        return PublicRecord(worked.beacon, worked.lead(dispute.accused), worked.start.digest, (), Count(0))
    included, mixed = [], mixture(state, worked)
    for part in mixed.parts:
        crew = state.rounds[part.number].crews[part.worker]
        commitments = tuple(log.signed(each, part.number, Commit.at()) or b"" for each in crew)
        included.append(Included(Count(part.slot), part.weight, commitments))
    start = state_before(state, dispute.round).digest
    return PublicRecord(worked.beacon, dispute.accused, start, tuple(included), Count(mixed.ballast))
