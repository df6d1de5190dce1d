"""Workers that train, commit or open otherwise than the law asks."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeGuard

from verification.adversaries.behaviour import Act, Behaviour, leaves_of
from verification.claims import Range, Split, Sum
from verification.crews import made_by, roots_of_shared, taken_by
from verification.digest import tagged
from verification.honest.actions import (
    Computed,
    ListStates,
    RunRound,
    Say,
    SplitClaim,
    Work,
)
from verification.honest.view import View
from verification.honest.within import Own
from verification.manifest import BundleRef
from verification.sampling import next_beacon
from verification.state import State
from verification.statements import (
    Commit,
    Opening,
)
from verification.units import Address, Count, Digest, Round

Ring = dict[tuple[Round, Address], Work]
"""What colluding workers tell colluding verifiers: what they will open."""


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


class AnswerHonestly(Behaviour):
    """A cheat that, in a dispute, lists the true states one level down: all but the last, which must be its claim."""

    recomputes = True

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Put the claimed value at the end of the true list."""
        result = compute()
        if not isinstance(action, ListStates) or action.worker != view.me.address or not result:
            return result
        for dispute in view.state.open_disputes():
            if (dispute.round, dispute.accused, dispute.game.high) == (
                action.number,
                view.me.address,
                action.steps[-1],
            ):
                self.faults += 1
                return (*result[:-1], dispute.game.claimed)
        return result


class FalseTotals(Behaviour):
    """In a dispute about a number of its own, tells another last total than its terms have, and ranges that add up."""

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Shift the last of what it lists."""
        own = compute()
        if not isinstance(action, SplitClaim) or action.execution.worker != view.me.address:
            return own
        if not isinstance(action.claim, Sum | Range) or not own.totals:
            return own
        is_told = isinstance(action.claim, Range)
        shift = action.claim.claimed - sum(own.totals) if is_told else 1
        self.faults += shift != 0
        return dataclasses.replace(own, totals=(*own.totals[:-1], own.totals[-1] + shift))


class FalseList(Behaviour):
    """In a dispute about a node of its own, says something in one kind of claim that is not what it claimed."""

    def __init__(self, kind: type[Split]) -> None:
        """`kind` is of claims: a region, a block's bytes, a number's totals, a range of terms."""
        super().__init__()
        self._kind = kind

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Alter the last entry."""
        own = compute()
        if not isinstance(action, SplitClaim) or action.execution.worker != view.me.address:
            return own
        if not isinstance(action.claim, self._kind):
            return own
        self.faults += 1
        return Own(
            tuple(own.digests[:-1]) + tuple(tagged("false", last) for last in own.digests[-1:]),
            own.data[:-1] + bytes(255 - last for last in own.data[-1:]),
            own.totals[:-1] + tuple(last + 1 for last in own.totals[-1:]),
            own.fails,
        )


class CommitFailure(Behaviour):
    """Commits to a round that its machine says fails; an honest worker commits to none such. (SPEC.md 9.2)"""

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Take a failed round of its own for any other."""
        work = compute()
        if not _is_own_round(action, view) or work is None or not work.failed:
            return work
        self.faults += 1
        return dataclasses.replace(work, failed=False)


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
        digests = (state.rounds[number].start.digest,) * leaves_of(state, action)
        before = state.rounds[number - 1] if number else None
        others = sorted(before.commits.keys() - {view.me.address}) if before else []
        if before is None or not others:
            return Work(digests, state.manifest.start, Count(0))
        opening = before.openings.get(others[0])
        if opening is not None and len(opening.digests) == len(digests):
            digests = opening.digests
        copied = before.commits[others[0]]
        return Work(digests, copied.contribution, copied.norm)


class TwoFaced(Behaviour):
    """A member of a crew that signs to its neighbours what crossed, and commits to something else. (SPEC.md 4.17)"""

    def __init__(self, frames: bool = False) -> None:
        """It says that it gave something else, or `frames` its neighbour: that it took something else."""
        super().__init__()
        self._frames = frames

    def result(self, view: View, action: Computed, compute: Callable[[], Any]) -> Any:
        """Alter one digest of one's own part of a crew's round, and the roots over it."""
        work = compute()
        if not _is_own_round(action, view) or not isinstance(work, Work) or not work.shared:
            return work
        self.faults += 1
        assigned = view.state.rounds[action.number].assignments[view.me.address]
        assert assigned.post is not None
        cut, shard, steps = (
            view.state.manifest.cuts[assigned.post.cut],
            int(assigned.post.shard),
            assigned.steps,
        )
        made, taken = made_by(cut, shard, steps), taken_by(cut, shard, steps)
        known = dict(zip((*made, *taken), (*work.digests, *work.taken), strict=True))
        wrong = next(item for item in (taken if self._frames else made) if item.crossing is not None)
        known[wrong] = tagged("false", known[wrong])
        return dataclasses.replace(
            work, digests=tuple(known[item] for item in made), taken=tuple(known[item] for item in taken),
            shared=roots_of_shared(cut, shard, steps, known),
        )  # fmt: skip


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


def _is_own_round(action: Computed, view: View) -> TypeGuard[RunRound]:
    return isinstance(action, RunRound) and action.worker == view.me.address
