"""Who plays in a simulated run: the honest decision, a disk, a machine, and how it departs from these."""

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from simulator.crews import Together, compute_together
from simulator.duel import answer
from simulator.toy import DATA, ToyEngine, ToyLibrary, norm_of, numbers, reference
from trainer.rounds.engine import Conduct, Engine, Job, honest
from trainer.rounds.training import Disputed, Rounds, Start
from trainer.shards.crew import CrewOutcome, Crews
from verification import codec, law, signing, spoilage
from verification.adversaries import Act, Behaviour, View, decide_as, result_as
from verification.availability import show_chunk
from verification.content import address_of_bytes, chunks_root
from verification.crews import neighbours
from verification.errors import BadEvidence, Unavailable
from verification.honest import decide as actors
from verification.honest.actions import (
    Computed,
    FetchContribution,
    FetchState,
    ListStates,
    OpenChunk,
    OpenClaim,
    OpenValue,
    ReadStatement,
    Results,
    RunOuter,
    RunRound,
    SplitClaim,
    TraceProgram,
    Work,
)
from verification.honest.decide import Me
from verification.layout import joined, per_parameter, summary_of
from verification.ledger.log import Twice
from verification.manifest import BundleRef, Place, Post
from verification.outer import Part, contributions_of, mixture, outer_inputs
from verification.placed import ExecutionRef
from verification.program import outputs_of
from verification.signed import make_statement, sign_statement
from verification.state import State, state_before
from verification.statements import VERIFIER, WORKER, Body, Receipt, Spoiled, Stuck
from verification.tensors import Bundle, Tensor
from verification.units import Address, Amount, Count, Digest, Millis, Round

SPEED = 10_000
"""The toy's unit of speed: an actor of speed 100 does an inner step in a millisecond."""


@dataclass
class Blobs:
    """What has been computed or sent, by content: everyone may fetch it. `garbage` is what is no bundle, by address;
    `memo` holds results of pure functions: what one honest peer computes, all do. `actors` are whom a crew's members
    find to work with, and `log` is the ledger's, from which statements are read."""

    bundles: dict[Digest, Bundle] = field(default_factory=dict)
    garbage: dict[Digest, bytes] = field(default_factory=dict)
    memo: dict[object, Any] = field(default_factory=dict)
    actors: dict[Address, "Actor"] = field(default_factory=dict)
    log: dict[tuple[Address, Round, str], bytes] = field(default_factory=dict)

    def put(self, bundle: Bundle) -> BundleRef:
        """Keep a bundle under its digest and its address."""
        ref = reference(bundle)
        self.bundles[ref.digest] = self.bundles[ref.blob] = bundle
        return ref

    def get(self, digest: Digest) -> Bundle:
        """Return a bundle; raises Unavailable for one that nobody has any more."""
        if digest not in self.bundles:
            raise Unavailable("nobody has the bundle")
        return self.bundles[digest]

    def forget(self, state: State) -> None:
        """Drop what no member has to keep, as a peer's store does: who needs it again will not find it."""
        needed = actors.needed_rounds(state)
        keep = {ref for number in needed for ref in actors.blobs_of_round(state, number)}
        for number in range(len(state.rounds)):
            if number not in needed:
                for ref in {*actors.blobs_of_round(state, Round(number))} - keep:
                    self.bundles.pop(ref.digest, None)
                    self.bundles.pop(ref.blob, None)

    def throw(self, data: bytes) -> Digest:
        """Keep bytes that are no bundle under their address."""
        self.garbage[address_of_bytes(data)] = data
        return address_of_bytes(data)

    def check(self, state: State, number: Round, worker: Address) -> bool | Spoiled | None:
        """Return whether a contribution is what its commitment says, or what shows that it is not; None without it."""
        key = ("contribution", number, worker)
        if key not in self.memo:
            commit, post = state.rounds[number].commits[worker], post_of(state, number, worker)
            blob = commit.contribution.blob
            bundle = self.bundles.get(blob)
            data = codec.encode(bundle) if bundle else self.garbage.get(blob)
            if data is None:
                return None
            outputs = outputs_of(ToyLibrary().program(state.manifest.programs_of(post).epilogue.digest))
            shown = spoilage.show_spoiled(worker, commit, outputs, len(data), chunks_root(data), data)
            if shown is None:
                assert bundle is not None
                norm = sum(norm_of(numbers(part)) for part in per_parameter(bundle.tensors))
                self.memo[key] = norm == numbers(summary_of(bundle.tensors, "norm"))[0]
            else:
                self.memo[key] = shown
        known: bool | Spoiled = self.memo[key]
        return known


class Actor:
    """A peer: `decide` says what it does, `compute` performs what must be computed.

    `journal` is its disk: what it has signed, by place. It is honest without behaviours and with the honest conduct.
    """

    role = VERIFIER

    def __init__(
        self,
        name: str,
        *behaviours: Behaviour,
        speed: int = 100,
        stake: int = 0,
        conduct: Conduct = honest,
        post: Post | None = None,
    ) -> None:
        """A peer whose key follows from its name. `conduct` is what it trains with, `behaviours` what else it does,
        `post` what it holds in crews."""
        self.name = name
        self.secret = hashlib.sha256(name.encode()).digest()
        least = 10_000 if self.role == WORKER else 5_000
        self.me = Me(
            signing.address_of(self.secret),
            self.secret,
            self.role,
            Amount(stake or least),
            speed * SPEED,
            f"/toy/{name}",
            post,
        )
        self.address = self.me.address
        self.behaviours = behaviours
        self.conduct = conduct
        self.engine = ToyEngine()
        """What its own work runs on; a broken one makes a cheat of it."""
        self.results = Results()
        self.journal: dict[tuple[int, str, Digest], bytes] = {}
        self.denies = False
        """Whether it signs no receipt for what its neighbours in a crew gave it."""
        self.crashes = 0
        self.is_up = True
        self.skew = 0
        """Milliseconds by which its clock is ahead of the ledger's."""

    @property
    def is_honest(self) -> bool:
        """Return whether it follows the protocol."""
        return not self.behaviours and self.conduct is honest

    @property
    def faults(self) -> int:
        """Return how often its behaviours departed from the honest one."""
        return sum(behaviour.faults for behaviour in self.behaviours)

    def decide(self, state: State, now: Millis, twice: Iterable[Twice] = ()) -> list[Act]:
        """Return what the peer does at its own time `now`; `twice` is what the ledger keeps of contradictions."""
        wanted = decide_as(self.behaviours, View(state, self.me, self.results, now))
        return [*wanted, *actors.report_contradictions(state, self.me, twice)] if self.is_honest else wanted

    def sign(self, state: State, body: Body) -> bytes:
        """Return the statement as it is written down: signed once per place, the same after a restart."""
        head = law.head_of(state, body.round)
        statement = make_statement(state.chain, state.run, head, body)
        place = (statement.round, statement.slot, head)
        if place not in self.journal:
            self.journal[place] = sign_statement(self.secret, statement)
        return self.journal[place]

    def forge(self, state: State, body: Body) -> bytes:
        """Return a statement signed afresh, past the journal."""
        head = law.head_of(state, body.round)
        return sign_statement(self.secret, make_statement(state.chain, state.run, head, body))

    def compute(self, action: Computed, state: State, blobs: Blobs, now: Millis) -> Any:
        """Return what the peer takes for the result of an action; None when it cannot be had now."""
        view = View(state, self.me, self.results, now)
        # A start that dishonest verifiers sealed need not be a state at all: BadEvidence.
        with contextlib.suppress(Unavailable, BadEvidence):
            return result_as(self.behaviours, view, action, lambda: self._compute(action, state, blobs))
        return None

    def _compute(self, action: Computed, state: State, blobs: Blobs) -> Any:
        match action:
            case FetchState(number):
                return True if state_before(state, number).digest in blobs.bundles else None
            case FetchContribution(number, worker):
                return blobs.check(state, number, worker)
            case OpenChunk(number, contribution, seed):
                return show_chunk(number, seed, blobs.get(contribution.digest))
            case RunRound(number, worker) if state.rounds[number].assignments[worker].post is not None:
                return self._run_crew(state, number, worker, blobs)
            case RunRound(number, worker):
                return self._run(state, number, worker, blobs)
            case ReadStatement(author, number, slot):
                return blobs.log.get((author, number, slot))
            case RunOuter(number):
                return self._run_outer(state, number, blobs)
            case ListStates(number, worker, steps):
                start = blobs.get(state.rounds[number].start.digest)
                job = job_of(state, number, worker)
                return _rounds(state, self._disputing(job, worker)).digests_after(job, start.tensors, steps)
            case TraceProgram() | SplitClaim() | OpenClaim() | OpenValue():
                return answer(*self._disputed(state, action.execution, blobs), action)

    def _disputed(self, state: State, execution: ExecutionRef, blobs: Blobs) -> tuple[Engine, Disputed]:
        """Return a disputed execution, and the engine that has come as far as it."""
        worked = state.rounds[execution.round]
        if execution.place is Place.OUTER:
            mixed = mixture(state, worked)
            slots = [part.slot for part in mixed.parts]
            inputs, shares = self._outer_inputs(state, execution.round, blobs), {}
            for part in mixed.parts:
                if state.rounds[part.number].assignments[part.worker].post is not None:
                    shares[part.slot] = shares_of(state, part, blobs)
            return ToyEngine(), _rounds(state).disputed_outer(inputs, slots, shares)
        start = blobs.get(worked.start.digest)
        job = job_of(state, execution.round, execution.worker)
        engine = self._disputing(job, execution.worker)
        post = worked.assignments[execution.worker].post
        if post is not None:
            crews = Crews(engine, state.manifest, DATA)
            if execution.worker == self.address:  # on what it had taken, whatever its neighbours sent
                crews = blobs.memo["crew", job].crews
            return engine, crews.disputed(job, start.tensors, post, execution.place, execution.step)
        return engine, _rounds(state, engine).disputed(job, start.tensors, execution.place, execution.step)

    def _disputing(self, job: Job, worker: Address) -> Engine:
        """Return what it computes a worker's job with that is disputed."""
        recomputes = any(behaviour.recomputes for behaviour in self.behaviours)
        return self.engine if recomputes and worker == self.address else self._training(job, worker)

    def _training(self, job: Job, worker: Address) -> Engine:
        """Return what it computes a job with, its own or another worker's."""
        return self.conduct(self.engine, job) if worker == self.address else ToyEngine()

    def _run(self, state: State, number: Round, worker: Address, blobs: Blobs) -> Work:
        """Compute F as oneself or as an auditor."""
        job = job_of(state, number, worker)
        engine = self._training(job, worker)
        is_sound = type(engine) is ToyEngine
        if is_sound and job in blobs.memo:
            known: Work = blobs.memo[job]
            return known
        outcome = _rounds(state, engine).run(job, blobs.get(state.rounds[number].start.digest).tensors)
        if outcome.contribution is None:
            assert outcome.failed is not None
            work = Work(outcome.digests, BundleRef(outcome.failed, outcome.failed), Count(0), True)
        else:
            norm = Count(spoilage.norm_of(outcome.contribution))
            work = Work(outcome.digests, blobs.put(outcome.contribution), norm)
        if is_sound:
            blobs.memo[job] = work
        return work

    def _run_crew(self, state: State, number: Round, worker: Address, blobs: Blobs) -> Work | Stuck:
        """Compute one's part of a crew's round with the others, or audit all of it; raises Unavailable."""
        worked, job = state.rounds[number], job_of(state, number, worker)
        post = worked.assignments[worker].post
        assert post is not None
        start = blobs.get(worked.start.digest).tensors
        if self.role == VERIFIER:
            return self._audit_crew(state, job, start, int(post.cut), blobs)
        mates = [blobs.actors[member] for member in worked.crews[worker]]
        gone = [mate for mate in mates if not mate.is_up]
        if gone:
            return Stuck(number, gone[0].address)
        key = ("crew", job)
        if key not in blobs.memo:
            engines = [mate.conduct(mate.engine, job) for mate in mates]
            blobs.memo[key] = compute_together(state.manifest, int(post.cut), job, start, engines)
        together: Together = blobs.memo[key]
        share, failed = together.shares[post.shard], together.outcome.failed
        if failed is not None:
            return Work(share.made, BundleRef(failed, failed), Count(0), True)
        near = [mates[other] for other in neighbours(state.manifest.cuts[post.cut], int(post.shard))]
        receipts = []
        for mate, root in zip(near, share.shared, strict=True):
            if mate.denies:
                return Stuck(number, mate.address)
            receipts.append(mate.sign(state, Receipt(number, post.shard, root)))
        contribution = together.outcome.contributions[post.shard]
        norm, ref = Count(spoilage.norm_of(contribution)), blobs.put(contribution)
        return Work(share.made, ref, norm, taken=share.taken, shared=share.shared, receipts=tuple(receipts))

    def _audit_crew(self, state: State, job: Job, start: Start, cut: int, blobs: Blobs) -> Work:
        if ("audit", job) not in blobs.memo:
            blobs.memo["audit", job] = Crews(ToyEngine(), state.manifest, DATA).audit(job, start, cut)
        found: CrewOutcome = blobs.memo["audit", job]
        items = tuple(digest for step in found.items for digest in step)
        if found.failed is not None:
            shards = len(state.manifest.cuts[cut].shards)
            mates = (found.failed,) * (shards - 1)
            return Work(items, BundleRef(found.failed, found.failed), Count(0), True, mates)
        first, *others = map(blobs.put, found.contributions)
        return Work(items, first, Count(0), mates=tuple(ref.digest for ref in others))

    def _run_outer(self, state: State, number: Round, blobs: Blobs) -> BundleRef:
        worked = state.rounds[number]
        key = ("outer", number, mixture(state, worked))
        if key not in blobs.memo:
            blobs.memo[key] = blobs.put(_rounds(state).next_state(self._outer_inputs(state, number, blobs)))
        ref: BundleRef = blobs.memo[key]
        return ref

    def _outer_inputs(self, state: State, number: Round, blobs: Blobs) -> list[Any]:
        worked = state.rounds[number]
        start, mixed = blobs.get(state_before(state, number).digest), mixture(state, worked)
        entries = {}
        for part in mixed.parts:
            entries[part.slot] = (part.weight, joined(shares_of(state, part, blobs)))
        return outer_inputs(state.manifest.work.slots, start.tensors, entries, mixed.ballast)


class Verifier(Actor):
    """A verifier."""


class Worker(Actor):
    """A worker."""

    role = WORKER


def _rounds(state: State, engine: Engine | None = None) -> Rounds:
    return Rounds(engine or ToyEngine(), state.manifest, DATA)


def job_of(state: State, number: Round, worker: Address) -> Job:
    """Return the job of a worker's round."""
    worked = state.rounds[number]
    return Job(number, worked.lead(worker), worked.beacon, worked.assignments[worker].steps)


def post_of(state: State, number: Round, worker: Address) -> Post | None:
    """Return the post in which a worker has an assignment."""
    return state.rounds[number].assignments[worker].post


def shares_of(state: State, part: Part, blobs: Blobs) -> list[tuple[Sequence[int], Sequence[Tensor]]]:
    """Return what stands in a slot: of each contribution the places of its parameters, and its tensors."""
    bundles = [blobs.get(ref.digest).tensors for ref in contributions_of(state, part)]
    post = state.rounds[part.number].assignments[part.worker].post
    if post is None:
        return [(range(len(per_parameter(bundles[0]))), bundles[0])]
    shards = state.manifest.cuts[post.cut].shards
    return [(shard.parameters, bundle) for shard, bundle in zip(shards, bundles, strict=True)]


def steps_of(state: State, action: Computed) -> int:
    """Return the inner steps that an action costs; fetching and the outer step count as none."""
    match action:
        case RunRound(number, worker):
            return state.rounds[number].assignments[worker].steps
        case ListStates(_, _, steps):
            return steps[-1]
        case TraceProgram(execution) | SplitClaim(execution) | OpenClaim(execution) | OpenValue(execution):
            if execution.place is Place.EPILOGUE:
                return state.rounds[execution.round].assignments[execution.worker].steps
            return execution.step
    return 0
