"""How a newcomer arrives: what it took from its command's start to its membership, and to its first commitment."""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from trainer.peer.record import Record
from verification.state import State
from verification.statements import VERIFIER, WORKER
from verification.units import Address

STAGES = ("joined", "committed")
"""Events of a peer's life in a run, in their order."""


@dataclass(frozen=True)
class Started:
    """What a peer's command has done before: when it began, by trio's clock, and the bytes that it has received since.

    `note_served` writes down that the ledger's time was served, where the peer serves it.
    """

    at: float = 0.0
    received: int = 0
    note_served: Callable[[], None] | None = None


NOTHING_BEFORE = Started()


class Arrival:
    """Writes each stage once, with the seconds since the command began and the bytes received since.

    What an earlier process of the account has reached is that one's.
    """

    def __init__(
        self,
        own: Address,
        record: Record,
        started: Started,
        received: Callable[[], int],
        tell: Callable[[str], None],
    ) -> None:
        """`received` counts the bytes that have come since then; `tell` hears what a new member waits for."""
        self._own, self._record, self._started = own, record, started
        self._received, self._tell = received, tell
        self._reached: int | None = None

    def note(self, state: State) -> None:
        """See how far the account has come."""
        reached = self._stage(state)
        if self._reached is not None:
            for stage in STAGES[self._reached : reached]:
                seconds = round(trio.current_time() - self._started.at, 3)
                self._record.write(stage, seconds=seconds, received=self._started.received + self._received())
            if not self._reached and reached:
                self._tell(awaited(state, self._own))
        self._reached = max(reached, self._reached or 0)

    def _stage(self, state: State) -> int:
        if self._own not in state.members:
            return 0
        rounds = state.rounds if self._reached is None else state.rounds[-1:]
        return 2 if any(self._own in worked.commits for worked in rounds) else 1


def awaited(state: State, own: Address) -> str:
    """Return what a new member waits for, in a line."""
    if state.rounds:
        first = state.members[own].joined + 1
        return f"waits for its first round, {first} or a later one; round {state.current.number} is going on"
    work, roles = state.manifest.work, [member.role for member in state.members.values()]
    return (
        f"waits for the run to begin: {roles.count(WORKER)} of {work.min_workers} workers and {roles.count(VERIFIER)} "
        f"of {work.min_verifiers} verifiers are there"
    )
