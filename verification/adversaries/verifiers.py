"""Verifiers that audit otherwise than the law asks, or not at all."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from verification.adversaries.behaviour import Act, Behaviour, leaves_of
from verification.adversaries.workers import Ring
from verification.audits import blind_of
from verification.digest import tagged
from verification.honest.actions import (
    Computed,
    FetchState,
    OpenClaim,
    RunRound,
    Say,
    SplitClaim,
    Traced,
    TraceProgram,
    Work,
)
from verification.honest.view import View
from verification.honest.within import Own
from verification.manifest import BundleRef, Place
from verification.rounds import works
from verification.state import Session, Watch
from verification.statements import (
    Finished,
    Reveal,
    Verdict,
)
from verification.units import Count


class FalseAccuser(Behaviour):
    """Claims another digest at one leaf, or another contribution (`leaf` None), of every round it audits."""

    def __init__(self, leaf: int | None = 1) -> None:
        """`leaf` is taken modulo the leaves there are."""
        super().__init__()
        self._leaf = leaf

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Alter the true result."""
        work = compute()
        if not _is_others_round(action, view) or work is None:
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
        if (
            isinstance(action, OpenClaim | SplitClaim | TraceProgram)
            and action.execution.place is not Place.OUTER
        ):
            if isinstance(action, OpenClaim):
                return ()
            if isinstance(action, SplitClaim):
                return Own()
            return Traced(None, (), (tagged("false", view.me.address),) * 4)
        if not _is_others_round(action, view):
            return compute()
        self.faults += 1
        false = tagged("false", view.me.address)
        mates = (false,) * (len(view.state.rounds[action.number].crews[action.worker]) - 1)
        return Work((false,) * leaves_of(view.state, action), BundleRef(false, false), Count(0), mates=mates)


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
        worked = view.state.rounds[action.number]
        commit, opening = worked.commits.get(action.worker), worked.openings.get(action.worker)
        if commit is None:  # not in yet, for one who sees an old state of the ledger
            return compute()
        self.faults += 1
        return Work(opening.digests if opening else (), commit.contribution, Count(0))


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
        for worker in works(view.state, view.state.rounds[number]):
            if (me.address, number, worker) in session.verdicts:
                continue
            work = view.results.work(number, worker)
            if work is None:
                here = FetchState(number) in view.results.done
                found.append(RunRound(number, worker) if here else FetchState(number))
                continue
            salt = me.blind_salt(view.state.run, number, number, worker)
            reveal = Reveal(number, number, worker, work.digests, work.contributions, salt)
            blind = blind_of(view.state.run, me.address, number, reveal)
            found.append(Say(Verdict(number, number, worker, blind)))
        return found


def _is_others_round(action: Computed, view: View) -> TypeGuard[RunRound]:
    return isinstance(action, RunRound) and action.worker != view.me.address


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
