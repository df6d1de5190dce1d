"""A conviction tried again from its file alone: from the accused's claim down its own lists to what is wrong.

The same rules as `verification.disputes`, over signed statements instead of a ledger. (SPEC.md 6.11)
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from verification import claims, referee, spoilage
from verification.audits import require_opened
from verification.causes import Cause, Reason
from verification.claims import Judged
from verification.contradiction import contradict
from verification.crews import held_at
from verification.digest import ZERO
from verification.disputes import claim_of_round
from verification.errors import BadEvidence
from verification.evidence.file import (
    MAX_RESULT,
    Conviction,
    Finding,
    Included,
    Judgement,
    Kind,
    Nowhere,
    Trust,
    finding_of,
    unpack,
)
from verification.evidence.parts import Parts
from verification.executions import contributed, program_of, taken_in
from verification.game import Body as GameBody
from verification.game import Game
from verification.layout import Home
from verification.manifest import Manifest, Place, Post
from verification.membership import has_post
from verification.narrowing import Tracing
from verification.placed import OfResult
from verification.program import Node, ProgramHead
from verification.referee import Contributed, Execution, Reader
from verification.sampling import leaf_steps, record_index, round_number
from verification.signed import Said, open_statement
from verification.statements import (
    Answer,
    Body,
    Commit,
    Mismatch,
    NodeList,
    Opening,
    Seal,
    Spoiled,
    Trace,
)
from verification.units import Count, Digest

B = TypeVar("B")
MAX_NODES = 1 << 20
"""Nodes of the largest program whose failures are told apart from states."""


def verify(data: bytes) -> Finding:
    """Return what a file proves; raises a Violation when it proves nothing.

    (SPEC.md 6.11)
    """
    conviction = unpack(data)
    _check_place(conviction)
    if conviction.kind is Kind.SPOILED:
        return _spoiled(conviction)
    spoken = [_spoken(conviction, data) for data in conviction.statements]
    if not spoken:
        raise BadEvidence("the file holds no statement of the accused")
    if conviction.kind is Kind.CONTRADICTION:
        return _contradiction(conviction, spoken)
    bodies = [said.body for said in spoken]
    heads = {said.statement.head for said in spoken}
    if len(heads) != 1 or {body.round for body in bodies} != {conviction.round}:
        raise BadEvidence("the statements do not belong to one round")
    if conviction.kind is Kind.SILENCE:
        return _silence(conviction, bodies, heads.pop())
    return _Walk(conviction, bodies, heads.pop()).finding()


def _check_place(conviction: Conviction) -> None:
    """Raise BadEvidence unless the file names an execution exactly where its kind is about one."""
    is_about_words = conviction.kind in (Kind.CONTRADICTION, Kind.SILENCE)
    if is_about_words != isinstance(conviction.place, Nowhere):
        raise BadEvidence("the file names no place that its kind of conviction can be about")
    if conviction.dispute is not None and conviction.kind is not Kind.SILENCE:
        raise BadEvidence("the file names a list that is owed, and is not about silence")


def _spoiled(conviction: Conviction) -> Finding:
    """A commitment and the bytes at its address; whoever showed these, they prove themselves. (SPEC.md 4.15)"""
    if len(conviction.statements) != 2 or conviction.program is None:
        raise BadEvidence("a spoiled contribution needs its commitment, its bytes and its program")
    commit, part = _spoken(conviction, conviction.statements[0]).body, conviction.program
    shown = open_statement(conviction.statements[1]).body
    if not isinstance(commit, Commit) or not isinstance(shown, Spoiled):
        raise BadEvidence("the statements are not a commitment and what its address holds")
    places = {(commit.round, conviction.accused), (shown.round, shown.worker)}
    if places != {(conviction.round, conviction.accused)} or conviction.place is not Place.EPILOGUE:
        raise BadEvidence("the bytes belong to another commitment")
    epilogue = program_of(conviction.manifest, Place.EPILOGUE, _post_of(conviction.manifest, commit))
    parts = Parts(part, epilogue)
    cause = spoilage.fault(commit, [parts.value(int(output.source)) for output in part.head.outputs], shown)
    return finding_of(conviction, spoilage.reason_for(shown, cause))


def _spoken(conviction: Conviction, data: bytes) -> Said[Body]:
    said = open_statement(data)
    if said.sender != conviction.accused or said.run != (conviction.chain, conviction.run):
        raise BadEvidence("a statement is another peer's or another run's")
    return said


def _contradiction(conviction: Conviction, spoken: Sequence[Said[Body]]) -> Finding:
    if len(spoken) != 2:
        raise BadEvidence("a contradiction has two statements")
    first, second = spoken
    if not contradict(conviction.manifest, first, second):
        raise BadEvidence("the statements do not differ in one place")
    if first.body.round != conviction.round:
        raise BadEvidence("the file names another round than its statements")
    return finding_of(conviction, Reason(Cause.CONTRADICTION, first.body.round, about=first.body.slot))


def _silence(conviction: Conviction, bodies: Sequence[Body], head: Digest) -> Finding:
    """Nothing in a file shows that nothing came: it only shows that the accused took part in that round."""
    if not isinstance(bodies[0], Commit | Seal):
        raise BadEvidence("nobody owes anything about a round without a commitment to it, or a seal")
    reason = Reason(Cause.SILENT, conviction.round, debt=conviction.owed)
    return finding_of(conviction, reason, trust=(Trust.CLOCK, Trust.HEAD), head=head)


def _post_of(manifest: Manifest, commit: Commit) -> Post | None:
    """Return the post of a commitment; raises BadEvidence for one that the run has not."""
    if commit.post is not None and not has_post(manifest, commit.post):
        raise BadEvidence("the run has no such shard")
    return commit.post


class _Walk:
    """The dispute once more, without a ledger: from the accused's claim down its own lists to what is wrong."""

    def __init__(self, conviction: Conviction, bodies: Sequence[Body], head: Digest) -> None:
        """`bodies` are what the accused said, `head` the ledger's that it signed over."""
        assert isinstance(conviction.place, Place)
        self._case, self._head, self._place = conviction, head, conviction.place
        self._lists, self._points = deque(bodies), deque(map(int, conviction.points))
        self._start = ZERO
        self._steps = 0
        self._post: Post | None = None
        self._taken: tuple[Digest, ...] = ()
        self._trust: list[Trust] = []
        self._game = self._claim()
        self._parts = self._brought()

    def finding(self) -> Finding:
        """Return what is wrong; raises BadEvidence when nothing is."""
        fault = self._fold()
        case, trace = self._case, self._game.trace
        if fault:
            if case.kind is not Kind.LIST:
                raise BadEvidence("a list of the accused does not fold, but the file is about something else")
            if (self._game.node is None) != (case.node is None):
                raise BadEvidence(
                    "the file names a node that its lists do not come to, or none where they do"
                )
            return self._found(fault)
        if trace is None or self._parts is None or case.kind is Kind.LIST:
            raise BadEvidence("the statements of the accused are in order")
        head = self._parts.head
        if case.kind is Kind.OUTPUT and case.mismatch is not None:
            return self._judge_output(head, trace, case.mismatch)
        if case.kind is Kind.NODE and case.node is not None:
            return self._judge_node(head, trace, int(case.node))
        raise BadEvidence("the file does not say what is wrong")

    def _judge_output(self, head: ProgramHead, trace: Tracing, shown: Mismatch) -> Finding:
        if not shown.output < len(trace.outputs):
            raise BadEvidence("the trace has no such output")
        source = trace.sources[shown.output]
        self._require_node(source)
        computed = referee.judge_output(self._execution(head, [source]), head, trace, self._constant, shown)
        return self._found(Cause.WRONG_OUTPUT, trace.outputs[shown.output], computed)

    def _judge_node(self, head: ProgramHead, trace: Tracing, number: int) -> Finding:
        game = self._game
        if game.node != number or game.result is None:
            raise BadEvidence("the lists of the accused do not end at the node")
        if (cause := game.fault()) is not None:
            return self._found(cause, game.claimed)
        claim = game.claim
        if not isinstance(claim, Judged) or game.awaited:
            raise BadEvidence("the lists of the accused do not end at what can be judged")
        node = self._require_node(number)
        execution = self._execution(head, [int(source) for source in node.inputs])
        read = Reader(
            execution, head, trace, node, game.result, self._constant, self._case.inputs
        )  # fmt: skip
        right = referee.judge(claim, game.result, read)
        if right == claim.claimed:
            raise BadEvidence("what was contested of the node is right")
        judgement = Judgement(game.result, claim, right)
        return self._found(claims.WRONG[type(claim)], number=judgement)

    def _claim(self) -> Game:
        """Read the claim from a commitment and its opening, or from a seal."""
        case = self._case
        if self._place is Place.OUTER:
            return Game(self._place, 0, 0, None, self._next(Seal).state.digest)
        commit, opening = self._next(Commit), self._next(Opening)
        every, self._post = case.manifest.work.leaf_every, _post_of(case.manifest, commit)
        held = held_at(case.manifest, self._post)
        self._start = commit.start
        self._steps = (len(opening.digests) - 1) * every // (1 + (0 if held is None else held.gives))
        require_opened(case.manifest, case.run, commit, opening, self._steps)
        leaves = len(leaf_steps(self._steps, every))
        leaf = {Place.PROLOGUE: 0, Place.EPILOGUE: None}.get(self._place, case.leaf)
        if self._place is Place.STEP and (leaf is None or not 1 <= leaf < leaves):
            raise BadEvidence("the opening has no such leaf")
        game = claim_of_round(
            case.manifest, commit, opening, self._steps, None if leaf is None else int(leaf)
        )
        if self._post is not None and self._place is Place.STEP:
            self._taken = taken_in(case.manifest, self._post, self._steps, opening, game.step)
        return game

    def _next(self, kind: type[B]) -> B:
        body = self._lists.popleft() if self._lists else None
        if not isinstance(body, kind):
            raise BadEvidence(f"the statements lack a {kind.__name__}")
        return body

    def _fold(self) -> Cause | None:
        """Follow the lists; return what is wrong with the last one, None when nothing is."""
        while self._lists:
            body = self._lists.popleft()
            if self._game.has_list:
                self._narrow(body)
            if not isinstance(body, GameBody) or body.slot != self._game.awaited:
                raise BadEvidence("a statement is about another part than the lists before it lead to")
            posted = self._game.check(body, *self._program(isinstance(body, Answer)))
            if isinstance(posted, Cause):
                if self._lists:
                    raise BadEvidence("a list that does not fold is followed by others")
                return posted
            self._game = self._game.take(posted)
        game, node = self._game, self._case.node
        if game.entries is not None and game.trace is None:
            raise BadEvidence("the lists of states lead nowhere")
        if game.trace is not None and self._case.kind is Kind.NODE and node is not None:
            self._narrow(None)
        if self._points:
            raise BadEvidence("the file contests more than there are lists")
        return None

    def _narrow(self, body: Body | None) -> None:
        """Follow what was contested of the last list; `body` is what the accused said next, None at the end."""
        if self._game.node is not None:
            if not self._points:
                raise BadEvidence("the file does not say what was contested of a list")
            self._game = self._game.point(self._points.popleft())
            return
        self._game = self._game.toward(self._target(body))
        if self._game.node is not None:
            node = self._require_node(self._game.node)
            assert self._parts is not None
            inputs = [self._parts.value(int(source)) for source in node.inputs]
            result = referee.result_of(self._parts.head, self._game.node, node, inputs)
            self._game = self._game.arrive(result)

    def _target(self, body: Body | None) -> int:
        """Return the step or the leaf that the next list is about."""
        trace = self._game.trace
        if trace is None and isinstance(body, Answer | Trace):
            return int(body.high if isinstance(body, Answer) else body.step)
        if trace is not None and isinstance(body, NodeList):
            return int(body.low)
        if trace is not None and (body is None or isinstance(body, OfResult)) and self._case.node is not None:
            return int(self._case.node) - trace.first
        raise BadEvidence("the lists of states lead nowhere")

    def _brought(self) -> Parts | None:
        part = self._case.program
        return None if part is None else Parts(part, self._digest)

    @property
    def _digest(self) -> Digest:
        """The program of the place, of a crew's member that of its shard."""
        return program_of(self._case.manifest, self._place, self._post)

    def _program(self, is_listed_whole: bool) -> tuple[Digest, ProgramHead]:
        """Return digest and head of the place's program; a list of states is checked against all of its failures."""
        parts = self._parts
        if parts is None or (is_listed_whole and parts.head.nodes > MAX_NODES):
            raise BadEvidence("the file lacks the program, or it is too large to check")
        return self._digest, parts.head

    def _require_node(self, number: int) -> Node:
        """Return a node of the program, checked by its path. Ports and constants need none."""
        assert self._parts is not None
        if self._case.node != number:
            raise BadEvidence("the file names another node than its statements")
        if number < self._parts.head.first:
            return Node("", (), (), "bool", ())
        return self._parts.node(number)

    def _constant(self, number: int) -> Digest:
        assert self._parts is not None
        return self._parts.constant(number).digest

    def _execution(self, head: ProgramHead, uses: Sequence[int]) -> Execution:
        """Return what fixes the values used; what comes from the ledger's record is noted as taken on trust."""
        case, manifest, record = self._case, self._case.manifest, self._case.record
        whole = None if self._place is Place.OUTER else held_at(manifest, self._post)
        fixed = Execution(
            self._place, self._digest, self._start, self._game.agreed, manifest.data.root,
            {Home.ROUND: round_number(case.round)}, held=whole, taken=self._taken,
        )  # fmt: skip
        is_needed = any(referee.is_public(self._place, head, source, whole) for source in uses)
        if is_needed != (record is not None):
            raise BadEvidence(
                "the file lacks the ledger's record of the round, or has one that nothing rests on"
            )
        if record is None:
            return fixed
        if self._place is Place.PROLOGUE:
            work = manifest.work
            if self._steps > work.max_steps or 8 * work.max_steps * work.batch > MAX_RESULT:
                raise BadEvidence("the record index is too large to check")
            if self._post is None and record.lead != case.accused:
                raise BadEvidence("a whole worker's records are drawn under its own address")
            self._trust.append(Trust.BEACON)
            index = record_index(manifest, record.beacon, record.lead, self._steps)
            return replace(fixed, given={**fixed.given, Home.INDEX: index})
        self._trust.append(Trust.RECORD)
        slots = {int(entry.slot): self._contributed(entry) for entry in record.included}
        return replace(fixed, start=record.start, working=None, slots=slots, ballast=int(record.ballast))

    def _contributed(self, entry: Included) -> Contributed:
        """Return what stands in a slot: the contributions that a worker, or all of a crew, committed to."""
        commits = [self._committed(entry, data) for data in entry.commitments]
        posts = [_post_of(self._case.manifest, commit) for commit in commits]
        first = posts[0] if posts else None
        shards = 1 if first is None else len(self._case.manifest.cuts[first.cut].shards)
        crew = [None] if first is None else [Post(first.cut, Count(shard)) for shard in range(shards)]
        if posts != crew:
            raise BadEvidence("a slot holds a worker's contribution, or those of a crew by their shards")
        digests = tuple(commit.contribution.digest for commit in commits)
        return contributed(self._case.manifest, entry.weight, digests, first)

    def _committed(self, entry: Included, data: bytes) -> Commit:
        said = open_statement(data)
        statement, body = said.statement, said.body
        is_here = (statement.round, statement.head) == (self._case.round, self._head)
        is_taken_back = entry.weight < 0 and statement.round < self._case.round
        if said.run != (self._case.chain, self._case.run) or not isinstance(body, Commit):
            raise BadEvidence("what should be an included commitment is none of this run")
        if not (is_here if entry.weight >= 0 else is_taken_back):
            raise BadEvidence("an included commitment belongs to another round")
        return body

    def _found(
        self,
        cause: Cause,
        claimed: Digest | None = None,
        computed: Digest | None = None,
        number: Judgement | None = None,
    ) -> Finding:
        step = self._game.step or None
        reason = Reason(cause, self._case.round, self._place)
        return finding_of(
            self._case, reason, step, (claimed, computed), tuple(self._trust), self._head, number
        )
