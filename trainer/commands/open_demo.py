"""`demo --serve`: a demo on this machine that others join by ticket while it goes on."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from p2p.addresses import Scope, reach_of
from p2p.listening import multiaddrs_of
from trainer.commands.demo import DemoSettings, run_demo
from trainer.commands.invite import invite
from trainer.commands.scene import Scene, Seat, Tell, in_one_folder
from trainer.folder import RunFolder
from trainer.runs.serving import endpoint_of
from verification.state import State

GUESTS = 2
"""Accounts that no peer of the demo's has; each goes into one ticket."""


def run_served(settings: DemoSettings, listen: Sequence[str]) -> int:
    """Run a demo whose peers listen there and return its exit status; raises UserError."""
    multiaddrs_of(" ".join(listen))
    return run_demo(dataclasses.replace(settings, guests=GUESTS), partial(served, settings, listen))


@contextmanager
def served(
    settings: DemoSettings, listen: Sequence[str], folder: RunFolder, seats: Sequence[Seat]
) -> Iterator[Scene]:
    """Start the peers in the run's own folder, one of which serves it: the first that is honest."""
    host = next(number for number in range(len(seats)) if number != settings.cheat_number)
    for number, seat in enumerate(seats):
        places = listen if number == host else [re.sub(r"\d+$", "0", each) for each in listen]
        serves = ["--serve", "--relay"] if number == host else []
        seat.options = [*seat.options, *serves, *(f"--listen={each}" for each in places)]
    with in_one_folder(folder, seats):
        yield OpenScene(folder, seats, is_far=reach_of(listen) is not Scope.MACHINE)


@dataclasses.dataclass
class OpenScene(Scene):
    """A demo that hands out a ticket once its own peers have joined: until then nobody's accounts are free."""

    is_far: bool
    is_open: bool = False

    def act(self, state: State, tell: Tell) -> None:
        """Hand it out when it is time."""
        have_joined = all(seat.account in state.members for seat in self.seats)
        if self.is_open or not have_joined or endpoint_of(self.folder) is None:
            return
        self.is_open = True
        (ticket,) = invite(self.folder, 1, (), True, tell)
        listen = " --listen /ip4/0.0.0.0/tcp/0" if self.is_far else ""
        tell(f"another machine joins with: proofswarm join {ticket}{listen}")
        tell(f"one more ticket: proofswarm run invite {self.folder.path}")
