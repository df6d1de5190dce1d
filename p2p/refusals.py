"""Refusals by the minute: nobody makes this peer write a line for each message that it refuses."""

import logging
from collections import Counter
from collections.abc import Callable

import trio

from p2p.traffic import OTHERS, Refusal
from verification.units import Address

log = logging.getLogger(__name__)
SUMMARY_SECONDS = 60.0


def everyone(sender: Address) -> bool:
    """Take every account for a member's, where no ledger says who is one."""
    return True


class Refusals:
    """Tells of the first refusal of a sender and reason at once, and of later ones as a number, once a minute.

    All who are no members are one sender, since keys cost nothing.
    """

    def __init__(self, tell: Callable[[Refusal], None], is_member: Callable[[Address], bool]) -> None:
        self._tell, self._is_member = tell, is_member
        self._told: set[tuple[Address, str]] = set()
        self._more: Counter[tuple[Address, str]] = Counter()

    def note(self, refusal: Refusal) -> None:
        """Tell of a refusal, or count it."""
        sender = refusal.sender if self._is_member(refusal.sender) else OTHERS
        key = sender, refusal.reason
        if key in self._told:
            self._more[key] += 1
            return
        self._told.add(key)
        self._say(Refusal(sender, refusal.reason, refusal.detail))

    def summarise(self) -> None:
        """Tell how many were counted since the last time."""
        for (sender, reason), count in sorted(self._more.items()):
            self._say(Refusal(sender, reason, "again", count))
        self._more.clear()

    async def run(self) -> None:
        """Summarise once a minute until cancelled, and at the end."""
        try:
            while True:
                await trio.sleep(SUMMARY_SECONDS)
                self.summarise()
        finally:
            self.summarise()

    def _say(self, refusal: Refusal) -> None:
        fields = {"sender": refusal.who, "reason": refusal.reason, "count": refusal.count}
        line = "refused %s from %s: %s (%d)"
        log.warning(line, refusal.reason, refusal.who, refusal.detail, refusal.count, extra=fields)
        self._tell(refusal)
