"""How members of a group meet to exchange totals: the ways that there are, behind one interface."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from trainer.groups.averaged import AveragedMeeting
from trainer.groups.gloo import GlooMeeting
from trainer.groups.step import Exchange


class Leaving(Exchange, Protocol):
    """An exchange that a member can leave."""

    def close(self) -> None:
        """Leave, which ends what others wait for, if not at once."""
        ...


class Meeting(Protocol):
    """Where the members of one group meet."""

    @property
    def text(self) -> str:
        """What other machines need to know to come."""
        ...

    @property
    def recovery(self) -> float:
        """Seconds after which every member knows that an exchange has failed, once one does."""
        ...

    def meet(self, generation: int, place: int, members: int) -> Leaving:
        """Return the exchange of the member at a place 0 .. `members` - 1 of a generation; raises Unavailable."""
        ...

    def close(self) -> None:
        """End it for this machine."""
        ...


@dataclass(frozen=True)
class Way:
    """`host` opens a meeting at the leader's address; `visit` comes to one, given its text, the leader's address and
    the machine's own. Both raise Unavailable."""

    host: Callable[[str], Meeting]
    visit: Callable[[str, str, str], Meeting]


WAYS: Mapping[str, Way] = {
    "gloo": Way(GlooMeeting.hosted, GlooMeeting.visited),
    "hivemind": Way(AveragedMeeting.hosted, AveragedMeeting.visited),
}
