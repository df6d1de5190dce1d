"""`demo --hosts`: every peer of the demo on a host of its own, with a disk of its own, and no way from one to another
but the network between them.

Two workers are behind routers that let nobody in, one that keeps ports and one that draws them. The ledger's host is
killed in round 2, and comes back. In round 4 a worker's link is cut until another one, which comes then, has joined. At
the end this machine computes the whole run again, alone.
"""

import dataclasses
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from trainer.commands.demo import DemoSettings, run_demo
from trainer.commands.ending import Check
from trainer.commands.hosted import Hosted
from trainer.commands.recompute import recompute
from trainer.commands.report import read_ledger
from trainer.commands.scene import Scene, Seat, Tell, end
from trainer.events import older
from trainer.folder import RunFolder
from trainer.hosts.net import Host, Lab, laboratory
from trainer.hosts.system import obstacle
from trainer.programs.options import peer_options
from verification.errors import UserError
from verification.report.words import counted
from verification.state import State

BEHIND = {0: True, 1: False}
"""Which workers are behind a router, and whether it keeps ports."""
LATE = 2
"""The worker that joins late ..."""
LATE_ROUND = 4
"""... in which round ..."""
CUT = 0
"""... and whose link is cut until it has, so that there are rounds left for it however fast they are."""
KILLED_IN = 2
"""The round in which the ledger's host is killed ..."""
DOWN_SECONDS = 6.0
"""... and for how long it is away."""


def run_on_hosts(settings: DemoSettings) -> int:
    """Run the demo on hosts and return its exit status; raises UserError where there can be none."""
    if reason := obstacle():
        raise UserError(f"--hosts: {reason}")
    least = LATE + 1 + (settings.cheat_number is not None)
    if settings.workers < least:
        raise UserError(
            f"two workers are behind routers, one comes late, and one may cheat: take --workers {least} or more"
        )
    if settings.rounds < LATE_ROUND + 2:
        raise UserError(f"one worker joins in round {LATE_ROUND}: take --rounds {LATE_ROUND + 2} or more")
    return run_demo(dataclasses.replace(settings, late=1), partial(on_hosts, settings))


@contextmanager
def on_hosts(settings: DemoSettings, folder: RunFolder, seats: Sequence[Seat]) -> Iterator[Scene]:
    """Start the ledger's host and every peer but the late one, each on its own host; end them, and gather what they
    recorded in the run's folder."""
    with laboratory() as lab:
        scene = HostScene(lab, settings, folder, seats)
        try:
            scene.begin()
            yield scene
        finally:
            scene.end()
        scene.gather()


class HostScene(Scene):
    """The demo's peers on hosts, and the host that serves the ledger."""

    def __init__(self, lab: Lab, settings: DemoSettings, folder: RunFolder, seats: Sequence[Seat]) -> None:
        """Make the hosts; `folder` is the one of the ledger's. Raises UserError."""
        super().__init__(folder, seats)
        self._settings = settings
        self._hosted = Hosted(folder, lab.public("ledger"))
        self._hosts = [self._host(lab, number, seat.name) for number, seat in enumerate(seats)]
        self._fell: float | None = None
        self._is_serving = self._is_cut = False

    def _host(self, lab: Lab, number: int, name: str) -> Host:
        if number not in BEHIND:
            return lab.public(name)
        return lab.behind(lab.router(f"router-{number}", keeps_ports=BEHIND[number]), name)

    def begin(self) -> None:
        """Start the ledger's host, hand out tickets, and start every peer but the late one; raises UserError."""
        self._serve()
        cheat = self._settings.cheat_number
        if cheat is not None:
            self._hosted.give_key(self.seats[cheat])
        self._hosted.invite([seat for number, seat in enumerate(self.seats) if number != cheat])
        for number in range(len(self.seats)):
            if number != LATE:
                self._start(number)

    def _start(self, number: int) -> None:
        self._hosted.start(self.seats[number], self._hosts[number])

    def _serve(self) -> None:
        self._hosted.serve()
        self._is_serving = True

    def act(self, state: State, tell: Tell) -> None:
        """Kill the ledger's host and start it again, and start the late worker, each in its round."""
        now, opened = time.monotonic(), len(state.rounds) - 1
        if self._fell is None and opened >= KILLED_IN:
            self._hosted.kill()
            self._fell, self._is_serving = now, False
            tell(f"round {opened}: the ledger's host is killed")
        if self._fell is not None and not self._is_serving and now > self._fell + DOWN_SECONDS:
            self._serve()
            tell("the ledger's host is back")
        if self.seats[LATE].process is None and opened >= LATE_ROUND:
            self._hosts[CUT].cut()
            self._start(LATE)
            tell(f"round {opened}: {self.seats[CUT].name}'s link is cut, and {self.seats[LATE].name} comes")
            self._is_cut = True
        if self._is_cut and self.seats[LATE].account in state.members:
            self._hosts[CUT].mend()
            tell(f"{self.seats[LATE].name} has joined, and {self.seats[CUT].name}'s link is mended")
            self._is_cut = False

    def end(self) -> None:
        """End every process; the laboratory kills what does not listen."""
        end([seat.process for seat in self.seats if seat.process is not None])
        self._hosted.kill()

    def gather(self) -> None:
        """Copy what peers recorded to where the report is made, as only a person at this machine can."""
        self.folder.events.mkdir(exist_ok=True)
        for seat in self.seats:
            shutil.copy(seat.log, self.folder.log(seat.name))
            if older(seat.log).exists():
                shutil.copy(older(seat.log), older(self.folder.log(seat.name)))

    def checks(self, tell: Tell) -> list[Check]:
        """Return what the hosts must have shown, and whether one machine alone comes to the same states."""
        return [self._took_part(), *self._again(tell)]

    def _took_part(self) -> Check:
        """Return whether those whom nobody can call, and the late one, have entered states all the same."""
        ledger = read_ledger(self.folder)
        rounds = ledger.state.rounds
        ledger.close()
        counts = {}
        for number in (*BEHIND, LATE):
            account = self.seats[number].account
            counts[number] = sum(worked.was_included(account) for worked in rounds)
        routers = {True: "a router that keeps ports", False: "one that draws them"}
        parts = [f"{self.seats[n].name} behind {routers[keeps]} {counts[n]}" for n, keeps in BEHIND.items()]
        late = f"{self.seats[LATE].name}, which came in round {LATE_ROUND}, {counts[LATE]}"
        told = f"of {counted(len(rounds), 'round')} {', '.join(parts)} and {late} entered the model"
        return all(counts.values()), told

    def _again(self, tell: Tell) -> list[Check]:
        conduct, number = self._settings.conduct, self._settings.cheat_number
        if conduct is None:
            return []
        conducts = {} if number is None else {self.seats[number].account: conduct}
        return [recompute(self.folder, peer_options(self._settings.device), conducts, tell)]
