"""Who plays in a simulated run: honest actors, and each way of lying as the one thing it does differently."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from simulator.toy import DATA, START, ToyEngine, reference
from trainer.rounds import HONEST, Conduct, Job, Rounds
from verification import actors, signing
from verification.actors import (
    Computed,
    FetchContribution,
    FetchState,
    GatherInputs,
    ListStates,
    Results,
    RunOuter,
    RunRound,
    Self,
    Work,
)
from verification.digest import tagged
from verification.manifest import BundleRef
from verification.outer import outer_inputs
from verification.state import Place, State
from verification.statements import (
    VERIFIER,
    WORKER,
    Body,
    ChallengeSeal,
    Link,
    Opening,
    Point,
    Reveal,
    Verdict,
)
from verification.tensors import Bundle
from verification.units import Address, Amount, Count, Digest, Millis, Round


@dataclass
class Blobs:
    """What has been computed or sent, by content: everyone may fetch it."""

    bundles: dict[Digest, Bundle] = field(default_factory=dict)

    def put(self, bundle: Bundle) -> BundleRef:
        """Keep a bundle under its digest and its address."""
        ref = reference(bundle)
        self.bundles[ref.digest] = self.bundles[ref.blob] = bundle
        return ref


class Actor:
    """An honest peer: `compute` performs what `decide` asks for. Liars override one thing each and count it."""

    role = VERIFIER

    def __init__(self, name: str, speed: int = 100, stake: int = 0, conduct: Conduct = HONEST) -> None:
        """A peer whose key follows from its name."""
        self.name = name
        self.secret = hashlib.sha256(name.encode()).digest()
        least = 10_000 if self.role == WORKER else 5_000
        self.me = Self(
            signing.address_of(self.secret),
            self.secret,
            self.role,
            Amount(stake or least),
            speed,
            f"/toy/{name}",
            Millis(0),
        )
        self.conduct = conduct
        self.results = Results()
        self.journal: dict[tuple[int, str, Digest], bytes] = {}
        self.faults = 0
        self.is_up = True

    @property
    def address(self) -> Address:
        """Return the account."""
        return self.me.address

    def wants_to_say(self, body: Body) -> bool:
        """Return whether the peer says what an honest one would."""
        return True

    def compute(self, action: Computed, state: State, blobs: Blobs) -> Any:
        """Return the result of an action; None when it cannot be had now."""
        match action:
            case FetchState(number):
                return True if actors.state_before(state, number).digest in blobs.bundles else None
            case FetchContribution(number, worker):
                commit = state.rounds[number].commits[worker]
                bundle = blobs.bundles.get(commit.contribution.blob)
                return True if bundle is not None and reference(bundle) == commit.contribution else None
            case RunRound(number, worker):
                return self.run(state, number, worker, blobs)
            case RunOuter(number):
                return blobs.put(self._rounds(state).next_state(self._outer_inputs(state, number, blobs)))
            case ListStates(number, worker, steps):
                start = blobs.bundles[state.rounds[number].start.digest]
                conduct = self.conduct if worker == self.address else HONEST
                return self._rounds(state).digests_after(job_of(state, number, worker), start, steps, conduct)
        return self.inputs_of(action, state, blobs)

    def run(self, state: State, number: Round, worker: Address, blobs: Blobs) -> Work:
        """Compute F as oneself or as an auditor."""
        start = blobs.bundles[state.rounds[number].start.digest]
        conduct = self.conduct if worker == self.address else HONEST
        outcome = self._rounds(state).run(job_of(state, number, worker), start, conduct)
        return Work(outcome.digests, blobs.put(outcome.contribution), Count(0))

    def inputs_of(self, action: GatherInputs, state: State, blobs: Blobs) -> tuple[Bundle, ...]:
        """Return the input bundles of a disputed execution."""
        worked = state.rounds[action.number]
        start = blobs.bundles[worked.start.digest]
        if action.place is Place.OUTER:
            return start, *(
                blobs.bundles[worked.commits[worker].contribution.digest] for worker in worked.included
            )
        job = job_of(state, action.number, action.accused)
        return self._rounds(state).inputs_of(job, start, action.place, action.step)

    def _rounds(self, state: State) -> Rounds:
        return Rounds(ToyEngine(), state.manifest, DATA)

    def _outer_inputs(self, state: State, number: Round, blobs: Blobs) -> list[Any]:
        start, *parts = self.inputs_of(GatherInputs(number, self.address, Place.OUTER, 0), state, blobs)
        worked = state.rounds[number]
        entries = {
            worked.assignments[worker].slot: (worked.assignments[worker].steps, part)
            for worker, part in zip(worked.included, parts, strict=True)
        }
        return outer_inputs(state.manifest.work.slots, start, entries)


def job_of(state: State, number: Round, worker: Address) -> Job:
    """Return the job of a worker's round."""
    worked = state.rounds[number]
    return Job(number, worker, worked.beacon, worked.assignments[worker].steps)


class Verifier(Actor):
    """An honest verifier."""


class Worker(Actor):
    """A worker; `conduct` is its cheat."""

    role = WORKER


class FalseAccuser(Verifier):
    """Claims another digest at one leaf (or another contribution) of every round it audits."""

    leaf: int | None = 1

    def run(self, state: State, number: Round, worker: Address, blobs: Blobs) -> Work:
        """Alter the true result."""
        self.faults += 1
        work = super().run(state, number, worker, blobs)
        false = tagged("false", self.address)
        if self.leaf is None:
            return Work(work.digests, BundleRef(false, false), work.norm)
        digests = list(work.digests)
        digests[min(self.leaf, len(digests) - 1)] = false
        return Work(tuple(digests), work.contribution, work.norm)


class Lazy(Verifier):
    """Computes nothing: audits with invented digests, and cannot bring any input when it comes to a dispute."""

    def run(self, state: State, number: Round, worker: Address, blobs: Blobs) -> Work:
        """Invent the result."""
        self.faults += 1
        false = tagged("false", self.address)
        return Work((false,) * 4, BundleRef(false, false), Count(0))

    def wants_to_say(self, body: Body) -> bool:
        """Stay out of disputes."""
        return not isinstance(body, Point)

    def inputs_of(self, action: GatherInputs, state: State, blobs: Blobs) -> tuple[Bundle, ...]:
        """Have nothing that opens the agreed digest."""
        if action.place is Place.OUTER:
            return super().inputs_of(action, state, blobs)
        return (START, START) if action.place is not Place.STEP else (START,)


class Copier(Verifier):
    """Commits blindly to nothing and, once the worker has opened, reveals what it opened."""

    def wants_to_say(self, body: Body) -> bool:
        """Forget the empty result once it is committed to, and reveal nothing but a copy."""
        empty = isinstance(body, Reveal) and not body.digests
        if empty or isinstance(body, Verdict):
            self.results.done.pop(RunRound(body.work, body.worker), None)
        return not empty

    def compute(self, action: Computed, state: State, blobs: Blobs) -> Any:
        """Copy an opening as soon as there is one; the blind was made without it."""
        if not isinstance(action, RunRound):
            return super().compute(action, state, blobs)
        self.faults += 1
        opening = state.rounds[action.number].openings.get(action.worker)
        commit = state.rounds[action.number].commits[action.worker]
        return Work(opening.digests if opening else (), commit.contribution, Count(0))


class Mute(Actor):
    """Never says statements of one kind."""

    kinds: tuple[type, ...] = ()

    def wants_to_say(self, body: Body) -> bool:
        """Swallow the statement and count it."""
        if isinstance(body, self.kinds):
            self.faults += 1
            return False
        return True


class NeverOpens(Mute, Worker):
    """A worker that commits but does not open."""

    kinds = (Opening,)


class NeverReveals(Mute, Verifier):
    """A verifier that gives blind verdicts and leaves them closed."""

    kinds = (Reveal,)


class NeverLinks(Mute, Verifier):
    """A verifier that hides which duties were its own."""

    kinds = (Link,)


class WrongSealer(Mute, Verifier):
    """Signs another next state than the contributions give, in one round, and keeps still about the others' states."""

    at = 1
    kinds = (ChallengeSeal,)

    def compute(self, action: Computed, state: State, blobs: Blobs) -> Any:
        """Alter the outer step's result."""
        result = super().compute(action, state, blobs)
        if action == RunOuter(Round(self.at)):
            self.faults += 1
            return BundleRef(tagged("wrong", result.digest), result.blob)
        return result


class AccusingSealer(WrongSealer):
    """Also contests everyone who sealed the right state."""

    kinds = ()
