"""How a peer may depart from the honest actor: small behaviours that compose, each one thing done differently.

A behaviour stands between `actors.decide` and the driver: it sees what the honest peer would do and returns what this
one does, and it stands between a computation and its result. Pure like `decide`; what it remembers is its own.
docs/adversaries.md says which known attack each one is, and who catches it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

from verification import actors, law
from verification.actors import (
    Action,
    Computed,
    FetchState,
    ListStates,
    OpenNode,
    Results,
    RunOuter,
    RunRound,
    Say,
    Self,
    Traced,
    TraceProgram,
    Work,
)
from verification.audits import blind_of
from verification.digest import tagged
from verification.manifest import BundleRef
from verification.sampling import leaf_steps, next_beacon
from verification.state import Phase, Place, Session, State, Watch
from verification.statements import (
    Answer,
    Attest,
    Body,
    Commit,
    Evidence,
    Finished,
    Join,
    Link,
    Opening,
    Reveal,
    Seal,
    Trace,
    Verdict,
    Withdraw,
    round_of,
)
from verification.units import Address, Count, Digest, Millis, Round


@dataclass(frozen=True)
class View:
    """What a peer decides on: the ledger's state, itself, its results so far, and its clock."""

    state: State
    me: Self
    results: Results
    now: Millis


@dataclass(frozen=True)
class Forge:
    """Sign `body` afresh and send it, whatever was said in its place before. No honest peer does this."""

    body: Body


@dataclass(frozen=True)
class Throw:
    """Send these very bytes to the ledger."""

    data: bytes


Act = Action | Forge | Throw


class Behaviour:
    """An honest peer; subclasses change one thing and count in `faults` how often they did.

    `recomputes` asks the driver for honest lists in disputes although the work that was committed is not.
    """

    recomputes: bool = False

    def __init__(self) -> None:
        """Start without faults."""
        self.faults = 0

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Return what the peer does where an honest one would do `wanted`."""
        return wanted

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Return what the peer takes for the result of an action; `compute` gives the true one, or None for now."""
        return compute()


def decide_as(behaviours: Sequence[Behaviour], view: View) -> list[Act]:
    """Return what a peer with these behaviours does now; each sees what the one before it left."""
    wanted: list[Act] = list(actors.decide(view.state, view.me, view.results, view.now))
    for behaviour in behaviours:
        wanted = behaviour.act(view, wanted)
    return wanted


def result_as(
    behaviours: Sequence[Behaviour], view: View, action: Computed, compute: Callable[[], Any]
) -> Any:
    """Return what a peer with these behaviours takes for an action's result."""
    for behaviour in behaviours:
        compute = partial(behaviour.result, view, action, compute)
    return compute()


class Since(Behaviour):
    """Another behaviour from a round on; honest before."""

    def __init__(self, first: int, behaviour: Behaviour) -> None:
        """Begin when round `first` has opened."""
        super().__init__()
        self._first, self._behaviour = first, behaviour
        self.recomputes = behaviour.recomputes

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Ask the behaviour once its round has come."""
        if len(view.state.rounds) <= self._first:
            return wanted
        acts = self._behaviour.act(view, wanted)
        self.faults = self._behaviour.faults
        return acts

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Likewise; what belongs to an earlier round is left as it is."""
        if len(view.state.rounds) <= self._first or getattr(action, "number", self._first) < self._first:
            return compute()
        made = self._behaviour.result(view, action, compute)
        self.faults = self._behaviour.faults
        return made


class Mute(Behaviour):
    """Never says statements of some kinds, or not those for which `when` holds."""

    def __init__(self, *kinds: type, when: Callable[[Any], bool] = lambda body: True) -> None:
        """`kinds` are statement bodies."""
        super().__init__()
        self._kinds, self._when = kinds, when

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Swallow them."""
        kept = [act for act in wanted if not self._swallows(act)]
        self.faults += len(wanted) - len(kept)
        return kept

    def _swallows(self, act: Act) -> bool:
        return isinstance(act, Say) and isinstance(act.body, self._kinds) and self._when(act.body)


class Withhold(Behaviour):
    """Opens no round from `first` on that anyone but an accomplice has a verdict about."""

    def __init__(self, first: int = 0, accomplices: frozenset[Address] = frozenset()) -> None:
        """`accomplices` are verifiers; whose verdicts are in is public, only what they say is not."""
        super().__init__()
        self._first, self._accomplices = first, accomplices

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Swallow those openings."""
        me, kept = view.me.address, []
        for act in wanted:
            if isinstance(act, Say) and isinstance(act.body, Opening) and act.body.round >= self._first:
                place = (act.body.round, me)
                asked = {
                    v for s in view.state.sessions.values() for v, *work in s.verdicts if tuple(work) == place
                }
                if asked - self._accomplices:
                    self.faults += 1
                    continue
            kept.append(act)
        return kept


class FalseAccuser(Behaviour):
    """Claims another digest at one leaf, or another contribution (`leaf` None), of every round it audits."""

    def __init__(self, leaf: int | None = 1) -> None:
        """`leaf` is taken modulo the leaves there are."""
        super().__init__()
        self._leaf = leaf

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Alter the true result."""
        work = compute()
        if not _is_others_round(view, action) or work is None:
            return work
        self.faults += 1
        false = tagged("false", view.me.address)
        if self._leaf is None:
            return dataclasses.replace(work, contribution=BundleRef(false, false))
        digests = list(work.digests)
        digests[self._leaf % len(digests)] = false
        return dataclasses.replace(work, digests=tuple(digests))


class Invent(Behaviour):
    """A lazy verifier: audits by invented digests, computes nothing, has no inputs to show in a dispute."""

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Invent an audit's result, the results of nodes, and inputs that open nothing."""
        execution = action.execution if isinstance(action, OpenNode) else action
        if isinstance(execution, TraceProgram) and execution.place is not Place.OUTER:
            if isinstance(action, OpenNode):
                return ()
            return Traced(None, (), (tagged("false", view.me.address),) * 4)
        if not _is_others_round(view, action):
            return compute()
        self.faults += 1
        false = tagged("false", view.me.address)
        return Work((false,) * _leaves(view.state, action), BundleRef(false, false), Count(0))


class CopyVerdict(Behaviour):
    """Commits blindly to nothing and, once the worker has opened, reveals what it opened."""

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Forget the empty result once it is committed to, and reveal nothing but a copy."""
        kept = []
        for act in wanted:
            body = act.body if isinstance(act, Say) else None
            if isinstance(body, Verdict | Reveal):
                empty = isinstance(body, Reveal) and not body.digests
                if empty or isinstance(body, Verdict):
                    view.results.done.pop(RunRound(body.work, body.worker), None)
                if empty:
                    continue
            kept.append(act)
        return kept

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Copy an opening as soon as there is one; the blind was made without it."""
        if not isinstance(action, RunRound):
            return compute()
        self.faults += 1
        worked = view.state.rounds[action.number]
        opening = worked.openings.get(action.worker)
        contribution = worked.commits[action.worker].contribution
        return Work(opening.digests if opening else (), contribution, Count(0))


Ring = dict[tuple[Round, Address], Work]
"""What colluding workers tell colluding verifiers: what they will open."""


class Whisper(Behaviour):
    """A worker that tells its ring what it committed to."""

    def __init__(self, ring: Ring) -> None:
        """`ring` is shared by everyone who colludes."""
        super().__init__()
        self._ring = ring

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Tell one's own work."""
        work = compute()
        if _is_own_round(action, view) and work is not None:
            self.faults += 1
            self._ring[action.number, action.worker] = work
        return work


class Collude(Behaviour):
    """A verifier that passes its ring's workers by repeating what they whispered, and audits all others honestly."""

    def __init__(self, ring: Ring) -> None:
        """`ring` is shared by everyone who colludes."""
        super().__init__()
        self._ring = ring

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Repeat an accomplice's work."""
        if not isinstance(action, RunRound) or (action.number, action.worker) not in self._ring:
            return compute()
        self.faults += 1
        return self._ring[action.number, action.worker]


class WrongSeal(Behaviour):
    """Signs another next state than the contributions give, in one round."""

    def __init__(self, at: int = 1) -> None:
        """`at` is the round."""
        super().__init__()
        self._at = at

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Alter the outer step's result."""
        result = compute()
        if action != RunOuter(Round(self._at)) or result is None:
            return result
        self.faults += 1
        return BundleRef(tagged("wrong", result.digest), result.blob)


class AnswerHonestly(Behaviour):
    """A cheat that, in a dispute, lists the true states one level down: all but the last, which must be its claim."""

    recomputes = True

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Put the claimed value at the end of the true list."""
        result = compute()
        if not isinstance(action, ListStates) or action.worker != view.me.address or not result:
            return result
        for dispute in view.state.open_disputes():
            if (dispute.round, dispute.accused, dispute.high) == (
                action.number,
                view.me.address,
                action.steps[-1],
            ):
                self.faults += 1
                return (*result[:-1], dispute.claimed)
        return result


class WrongBytes(Behaviour):
    """Commits to the right contribution by digest, over bytes that are something else: the round's first state."""

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Spoil one's own work."""
        work = compute()
        if not _is_own_round(action, view) or work is None:
            return work
        self.faults += 1
        return self.spoil(view, work)

    def spoil(self, view: View, work: Work) -> Work:
        """Return what the commitment is made of instead."""
        wrong = BundleRef(work.contribution.digest, view.state.rounds[-1].start.blob)
        return dataclasses.replace(work, contribution=wrong)


class CopyWork(Behaviour):
    """A worker that computes nothing: it commits to what another committed to (and opened) in the round before."""

    def __init__(self, first: int = 0) -> None:
        """Copy from round `first` on."""
        super().__init__()
        self._first = first

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Copy where there is something to copy, else commit to the start state."""
        if not _is_own_round(action, view) or action.number < self._first:
            return compute()
        self.faults += 1
        state, number = view.state, action.number
        digests = (state.rounds[number].start.digest,) * _leaves(state, action)
        before = state.rounds[number - 1] if number else None
        others = sorted(before.commits.keys() - {view.me.address}) if before else []
        if before is None or not others:
            return Work(digests, state.manifest.start, Count(0))
        opening = before.openings.get(others[0])
        if opening is not None and len(opening.digests) == len(digests):
            digests = opening.digests
        copied = before.commits[others[0]]
        return Work(digests, copied.contribution, copied.norm)


class Equivocate(Behaviour):
    """Says two different things in one place: one statement of a kind to some, another to others."""

    def __init__(self, kind: type = Commit, at: int = 1) -> None:
        """Round `at` is the one in which it happens."""
        super().__init__()
        self._kind, self._at = kind, at

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Sign a second body beside the first, once."""
        for act in wanted:
            if self.faults or not isinstance(act, Say) or not isinstance(act.body, self._kind):
                continue
            if round_of(act.body) == self._at:
                self.faults += 1
                return [*wanted, Forge(_other(act.body))]
        return wanted


class Recommit(Behaviour):
    """Commits, waits for the beacon that draws the audits, then commits to something else."""

    def __init__(self) -> None:
        """Start without a commitment."""
        super().__init__()
        self._said: Commit | None = None

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Remember the first commitment and forge the second, once."""
        for act in wanted:
            if isinstance(act, Say) and isinstance(act.body, Commit):
                self._said = act.body
        said, closed = self._said, (Phase.SEAL, Phase.SEALED)
        if said is None or self.faults or view.state.rounds[said.round].phase not in closed:
            return wanted
        self.faults += 1
        return [*wanted, Forge(_other(said))]


class Dawdle(Behaviour):
    """Says everything at the last moment: a thirtieth of the commit window before the law's next deadline."""

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Hold statements back until shortly before the next deadline."""
        deadline = law.next_deadline(view.state)
        if deadline is None or view.now + view.state.manifest.windows.commit // 30 >= deadline:
            return wanted
        kept = [a for a in wanted if not isinstance(a, Say) or isinstance(a.body, Join | Withdraw)]
        self.faults += len(wanted) - len(kept)
        return kept


class Late(Behaviour):
    """Says statements of one kind `delay` milliseconds after it should, as one who backdates or waits for more."""

    def __init__(self, kind: type, delay: int) -> None:
        """`kind` is a statement's body."""
        super().__init__()
        self._kind, self._delay = kind, delay
        self._held: dict[Body, int] = {}

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Hold the statement back, then send it whether or not it is still wanted."""
        kept: list[Act] = []
        for act in wanted:
            if isinstance(act, Say) and isinstance(act.body, self._kind):
                self._held.setdefault(act.body, view.now + self._delay)
            else:
                kept.append(act)
        for body, due in list(self._held.items()):
            if view.now >= due:
                del self._held[body]
                self.faults += 1
                kept.append(Forge(body))
        return kept


class SkipDuties(Behaviour):
    """A verifier that says it is finished without auditing anything."""

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Say Finished at once; compute and commit to nothing."""
        sessions = _open_sessions(view)
        if not sessions:
            return wanted
        kept = [a for a in wanted if not isinstance(a, RunRound) and not _says(a, Verdict)]
        self.faults += len(wanted) - len(kept)
        extra = [Say(Finished(session.number)) for session in sessions]
        return [*kept, *(act for act in extra if act not in kept)]


class InventDuties(Behaviour):
    """A verifier that audits every worker, drawn or not, to be paid more or to wear workers out."""

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Give a verdict about everyone before saying Finished."""
        acts = list(wanted)
        for session in _open_sessions(view):
            pending = list(self._verdicts(view, session))
            self.faults += sum(act not in acts for act in pending)
            if pending:
                acts = [a for a in acts if a != Say(Finished(session.number))]
            acts += [act for act in pending if act not in acts]
        return acts

    def _verdicts(self, view: View, session: Session) -> Sequence[Act]:
        number, me = session.number, view.me
        if number >= len(view.state.rounds):
            return []
        found: list[Act] = []
        for worker in view.state.rounds[number].commits:
            if (me.address, number, worker) in session.verdicts:
                continue
            work = view.results.work(number, worker)
            if work is None:
                here = FetchState(number) in view.results.done
                found.append(RunRound(number, worker) if here else FetchState(number))
                continue
            salt = me.blind_salt(number, number, worker)
            reveal = Reveal(number, number, worker, work.digests, work.contribution.digest, salt)
            blind = blind_of(view.state.run, me.address, number, reveal)
            found.append(Say(Verdict(number, number, worker, blind)))
        return found


class Grind(Behaviour):
    """Withholds its commitment when the beacon without it suits it and the beacon with it does not."""

    def __init__(self, suits: Callable[[State, Digest], bool]) -> None:
        """`suits` judges a beacon."""
        super().__init__()
        self._suits = suits
        self.chances = 0

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Wait to be the last to commit, then choose."""
        kept: list[Act] = []
        for act in wanted:
            if not (isinstance(act, Say) and isinstance(act.body, Commit)):
                kept.append(act)
                continue
            current = view.state.current
            if set(current.assignments) - set(current.commits) > {view.me.address}:
                continue
            others = [
                tagged("commit", worker, commit.contribution.digest)
                for worker, commit in current.commits.items()
            ]
            mine = tagged("commit", view.me.address, act.body.contribution.digest)
            suited = [
                self._suits(view.state, next_beacon(view.state.beacon, view.state.fresh_links, commits))
                for commits in ([*others, mine], others)
            ]
            if suited == [False, True]:
                self.faults += 1
            else:
                kept.append(act)
        return kept


class Vandal(Behaviour):
    """Throws bytes at the ledger that no peer may be harmed by: garbage, bombs, and signed nonsense."""

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Add one piece of each kind at every look."""
        self.faults += 1
        number, place = Round(max(0, len(view.state.rounds) - 1)), self.faults
        noise = tagged("noise", place.to_bytes(4, "big"))
        thrown = [b"", noise, b"\x91" * 2_000, b"\xdb\xff\xff\xff\xff", b"\xc7\xff" + noise]
        forged: list[Body] = [
            Opening(number, (noise,), (noise,)),
            Link(number, noise),
            Reveal(number, number, view.me.address, (), noise, noise),
            Answer(number, Count(0), Count(4), (noise,)),
            Trace(number, Place.STEP.value, Count(1), None, (noise,), (noise,)),
            Evidence(Count(place % 3), ()),
            Attest(number, (view.me.address, view.me.address)),
        ]
        choice = place % len(forged)
        return [*wanted, Throw(thrown[place % len(thrown)]), Forge(forged[choice])]


def _is_own_round(action: Computed, view: View) -> TypeGuard[RunRound]:
    return isinstance(action, RunRound) and action.worker == view.me.address


def _is_others_round(view: View, action: Computed) -> bool:
    return isinstance(action, RunRound) and action.worker != view.me.address


def _leaves(state: State, action: Computed) -> int:
    assert isinstance(action, RunRound)
    steps = state.rounds[action.number].assignments[action.worker].steps
    return len(leaf_steps(steps, state.manifest.work.leaf_every))


def _says(act: Act, kind: type) -> bool:
    return isinstance(act, Say) and isinstance(act.body, kind)


def _open_sessions(view: View) -> list[Session]:
    """Return the sessions that still wait for this verifier's verdicts."""
    return [
        session
        for session in view.state.sessions.values()
        if session.watch is Watch.VERDICT
        and view.me.address in session.verifiers
        and view.me.address not in session.finished
    ]


def _other(body: Body) -> Body:
    """Return another body for the same place."""
    match body:
        case Commit():
            return dataclasses.replace(body, leaves=tagged("other", body.leaves))
        case Attest():
            return dataclasses.replace(body, held=body.held[1:])
        case Seal():
            return dataclasses.replace(body, state=BundleRef(tagged("other"), body.state.blob))
    raise ValueError(f"nothing else to say than this {type(body).__name__}")
