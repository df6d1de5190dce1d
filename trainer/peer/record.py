"""What a peer writes down of itself: its events, by the ledger's clock."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from p2p.download import Dropped
from p2p.traffic import Flow, Refusal
from trainer.events import EventLog
from verification.errors import Unavailable, UserError
from verification.signing import checksum
from verification.units import Millis


class Record:
    """Writes the events of one peer."""

    def __init__(self, events: EventLog, now: Callable[[], Millis]) -> None:
        """`now` is the ledger's clock."""
        self._events, self._now = events, now

    def write(self, kind: str, **fields: Any) -> None:
        """Append an event of one of the kinds that `trainer.events` lists; `fields` must be JSON values."""
        self._events.write(self._now(), kind, **fields)

    def refused(self, refusal: Refusal) -> None:
        """Write what the post office refused to hear; all who are no members are the sender "strangers".

        No stranger ends this peer by what it cannot write down: a full disk does so by the next of its own events.
        """
        with suppress(UserError):
            self.write(
                "refused",
                sender=refusal.who,
                reason=refusal.reason,
                detail=refusal.detail,
                count=refusal.count,
            )

    def dropped(self, dropped: Dropped) -> None:
        """Write which source a fetch gave up; not to have a blob yet is no news."""
        if dropped.reason != Unavailable.__name__:
            self.write(
                "dropped", source=checksum(dropped.source), blob=dropped.blob.hex(), reason=dropped.reason
            )

    def traffic(self, flows: Iterable[Flow]) -> None:
        """Write how many bytes went [out, in] by kind of message, since the peer started."""
        totals: dict[str, list[int]] = {}
        for flow in flows:
            total = totals.setdefault(flow.kind, [0, 0])
            total[flow.direction == "in"] += flow.size
        self.write("traffic", bytes=totals)
