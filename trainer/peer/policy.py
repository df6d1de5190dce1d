"""How a peer goes about a run: what it does next, and what it takes for the result of a computation."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from trainer.peer.deeds import Deeds
from trainer.peer.voice import Voice
from verification.honest import decide
from verification.honest.actions import Action, Computed, Say
from verification.honest.view import View
from verification.ledger.log import Twice

Look = Callable[[], AbstractAsyncContextManager[View]]
"""Holds the lock on the ledger and what there is to decide on."""


class Policy(Protocol):
    """What stands between a look at the ledger and a deed. The one of this room is `Honest`."""

    def decide(self, view: View, twice: Sequence[Twice]) -> Sequence[Any]:
        """Return what the peer does now, most urgent first: `Computed` actions, and what `say` takes.

        `twice` is what the ledger keeps of contradictions. Its lock is held.
        """
        ...

    async def say(self, act: Any) -> None:
        """Say what `decide` wanted said."""
        ...

    async def compute(self, action: Computed, look: Look) -> Any:
        """Return what the peer takes for an action's result."""
        ...


class Honest:
    """Does what section 9 says: decides by `verification.honest`, says that, and computes truly. (SPEC.md 9.1)"""

    def __init__(self, deeds: Deeds, voice: Voice) -> None:
        """Act by these."""
        self._deeds, self._voice = deeds, voice

    def decide(self, view: View, twice: Sequence[Twice]) -> list[Action]:
        """Return what an honest peer does now; it reports contradictions last."""
        reports = decide.report_contradictions(view.state, view.me, twice)
        return [*decide.decide(view.state, view.me, view.results, view.now), *reports]

    async def say(self, act: Say) -> None:
        """Say it by the journal. Raises UserError as `Voice.say`."""
        await self._voice.say(act.body)

    async def compute(self, action: Computed, look: Look) -> Any:
        """Return the true result; raises what `Deeds.compute` raises."""
        return await self._deeds.compute(action)
