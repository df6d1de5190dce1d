"""From the ledger's log to one file of evidence for each conviction. (SPEC.md 6.11)

Pure: whoever reads the log passes its statements and effects.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from verification import law, merkle
from verification.causes import Cause
from verification.disputes import program_of
from verification.effects import Effect, Slashed
from verification.errors import BadEvidence
from verification.evidence.file import Conviction, Included, Kind, Nowhere, ProgramPart, PublicRecord
from verification.manifest import Place
from verification.outer import mixture
from verification.placed import OfRun
from verification.program import Program, constant_leaves, node_leaves, program_head, roots_of
from verification.referee import is_public
from verification.signed import Said, open_statement
from verification.state import Dispute, Ruling, State
from verification.statements import Body, Commit, Contradiction, Evidence, Mismatch, Opening, Seal, Spoiled
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
    seen = set()
    for dispute in sorted(state.disputes, key=lambda dispute: (_ended(log, dispute) is None, dispute.number)):
        fault = (dispute.round, dispute.accused, dispute.place, dispute.leaf)
        if dispute.ruling is Ruling.GUILTY and fault not in seen:
            seen.add(fault)
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
    empty = (None, None, (), None, None)
    return Conviction(
        state.manifest, state.chain, kind, accused, number, Nowhere.NOWHERE, None, statements, *empty, dispute
    )


def _of_spoiled(state: State, log: Log, data: bytes, shown: Spoiled, programs: ProgramOf) -> Conviction:
    """Return the conviction by a contribution's own bytes; what shows them is its finder's statement."""
    commit = log.signed(shown.worker, shown.round, Commit.at())
    assert commit is not None
    program = programs(state.manifest.programs.epilogue.digest)
    sources = [int(output.source) for output in program.outputs]
    return Conviction(
        state.manifest, state.chain, Kind.SPOILED, shown.worker, shown.round, Place.EPILOGUE, None, (commit, data),
        _part(program, sources, sources), None, (), None, None, None,
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
    program = programs(program_of(state.manifest, dispute.place))
    node = None
    if isinstance(end, Mismatch) and dispute.game.trace is not None:
        node = dispute.game.trace.sources[end.output]
    elif isinstance(end, Evidence):
        node = dispute.game.node
    kind = {Mismatch: Kind.OUTPUT, Evidence: Kind.NODE}.get(type(end), Kind.LIST)
    uses = [] if node is None else _used(program, node, kind is Kind.NODE)
    return Conviction(
        state.manifest, state.chain, kind, dispute.accused, dispute.round, dispute.place,
        None if dispute.leaf is None else Count(dispute.leaf),
        (*claim, *(said.data for said in lists_of(state, log, dispute, node))),
        _part(program, [] if node is None else [node], uses), None if node is None else Count(node),
        end.inputs if isinstance(end, Evidence) else (), end if isinstance(end, Mismatch) else None,
        _record(state, log, dispute, program, uses), None,
    )  # fmt: skip


def _claim(log: Log, dispute: Dispute) -> tuple[bytes, ...]:
    slots = (Seal.at(),) if dispute.place is Place.OUTER else (Commit.at(), Opening.at())
    return tuple(
        data for slot in slots if (data := log.signed(dispute.accused, dispute.round, slot)) is not None
    )


def lists_of(state: State, log: Log, dispute: Dispute, node: int | None) -> list[Said[Body]]:
    """Return the accused's lists from its claim down to where the dispute ended."""
    found: list[Said[Body]] = []
    lists, game, end = state.rounds[dispute.round].lists, dispute.opened, dispute.game
    while (said := log.said.get((dispute.accused, dispute.round, game.awaited))) is not None:
        found.append(said)
        listed = lists.get((dispute.accused, game.awaited))
        if listed is None:
            break  # it was wrong in itself
        game = game.take(listed)
        if game.trace is None:
            if (game.low, game.high) == (end.low, end.high):
                break
            game = game.toward(end.high)
            continue
        leaf = _leaf(log, dispute, node)
        if leaf is None or not listed.entries:
            break
        game = game.toward(leaf)
        if game.node is not None:
            break
    return found


def _leaf(log: Log, dispute: Dispute, node: int | None) -> int | None:
    """Return the leaf of its trace that a dispute went down to; None when it went no further."""
    trace = dispute.game.trace
    if trace is None or isinstance(_ended(log, dispute), Mismatch):
        return None
    return trace.low if node is None else node - trace.first


def _used(program: Program, node: int, is_executed: bool) -> list[int]:
    """Return the values that a finding rests on: an executed node's inputs, or an output's source itself."""
    head = program_head(program)
    return list(map(int, program.nodes[node - head.first].inputs)) if is_executed else [node]


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
            (Count(n), program.constants[place], merkle.path("constant", constants, place))
            for n in used for place in [n - len(head.inputs)]
        ),
    )  # fmt: skip


def _record(
    state: State, log: Log, dispute: Dispute, program: Program, uses: list[int]
) -> PublicRecord | None:
    """Return what must be taken from the ledger: for the record index, and for an outer step."""
    worked, head = state.rounds[dispute.round], program_head(program)
    if not any(is_public(dispute.place, head, value) for value in uses):
        return None
    if dispute.place is Place.PROLOGUE:
        return PublicRecord(worked.beacon, worked.start.digest, (), Count(0))
    included, mixed = [], mixture(state, worked)
    for part in mixed.parts:
        data = log.signed(part.worker, part.number, Commit.at())
        assert data is not None
        included.append(Included(Count(part.slot), part.weight, data))
    return PublicRecord(worked.beacon, worked.start.digest, tuple(included), Count(mixed.ballast))
