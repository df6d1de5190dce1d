"""What any member can do wrong: sign another state, say two things, be late, or throw bytes at the ledger."""

import dataclasses
from collections.abc import Callable
from typing import Any

from verification import law
from verification.adversaries.behaviour import Act, Behaviour, Forge, Throw
from verification.digest import tagged
from verification.honest.actions import (
    Computed,
    RunOuter,
    Say,
)
from verification.honest.view import View
from verification.manifest import BundleRef, Place
from verification.state import Phase
from verification.statements import (
    Answer,
    Attest,
    Body,
    Commit,
    Evidence,
    Join,
    Link,
    Opening,
    Reveal,
    Seal,
    Trace,
    Withdraw,
)
from verification.units import Count, Round


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
            if act.body.round == self._at:
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
    """Says everything, or what is of some kinds, at the last moment: a thirtieth of the commit window before the law's
    next deadline."""

    def __init__(self, *kinds: type) -> None:
        """`kinds` are statement bodies; none stand for all but Join and Withdraw."""
        super().__init__()
        self._kinds = kinds

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Hold statements back until shortly before the next deadline."""
        deadline = law.next_deadline(view.state)
        if deadline is None or view.now + view.state.manifest.windows.commit // 30 >= deadline:
            return wanted
        kept = [a for a in wanted if not isinstance(a, Say) or not self._holds(a.body)]
        self.faults += len(wanted) - len(kept)
        return kept

    def _holds(self, body: Body) -> bool:
        return isinstance(body, self._kinds) if self._kinds else not isinstance(body, Join | Withdraw)


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
            Reveal(number, number, view.me.address, (), (noise,), noise),
            Answer(number, Count(0), Count(4), (noise,)),
            Trace(number, Place.STEP, Count(1), None, (noise,), (noise,)),
            Evidence(Count(place % 3), ()),
            Attest(number, (view.me.address, view.me.address)),
        ]
        choice = place % len(forged)
        return [*wanted, Throw(thrown[place % len(thrown)]), Forge(forged[choice])]


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
