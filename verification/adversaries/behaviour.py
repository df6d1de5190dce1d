"""One thing done differently: what stands between an honest actor and its driver, and how such things compose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from verification.crews import items_of
from verification.honest import decide as actors
from verification.honest.actions import (
    Action,
    Computed,
    RunRound,
    Say,
)
from verification.honest.view import View
from verification.sampling import leaf_steps
from verification.state import State
from verification.statements import (
    Body,
)


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


def leaves_of(state: State, action: RunRound) -> int:
    """Return how many leaves a worker's round has, or items a crew's."""
    assigned = state.rounds[action.number].assignments[action.worker]
    if assigned.post is not None:
        return len(items_of(state.manifest.cuts[assigned.post.cut], assigned.steps))
    return len(leaf_steps(assigned.steps, state.manifest.work.leaf_every))
