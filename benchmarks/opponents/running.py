"""Running an opponent on hosts until all is trained or the time is over."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.opponents.course import Course, Report, Trained, alone, course_of
from benchmarks.opponents.task import Shared, Task
from trainer.compute.children import ALLOCATOR
from trainer.hosts.net import Host

CHECKOUT = Path(__file__).parents[2]
LOOK_SECONDS = 0.1
STARTING_SECONDS = 1800.0
"""Longest wait until every peer may begin: some fetch a run over a slow link first."""
Tell = Callable[[str], None]


class Running(Protocol):
    """An opponent whose peers are on hosts."""

    def start(self) -> None:
        """Start the peers; raises UserError."""
        ...

    def failure(self) -> str:
        """Return what ended a peer before its time, in one line; nothing if nothing did."""
        ...

    def lines(self, rank: int) -> list[dict[str, Any]]:
        """Return a peer's report so far (see `course.course_of`)."""
        ...

    def is_over(self) -> bool:
        """Return whether all that was to be trained has been, and is everybody's."""
        ...

    def stop(self) -> None:
        """Let the peers end, and learn what can be learnt only then."""
        ...


class Theirs:
    """An opponent that is a module of `benchmarks.opponents`, one process a peer, in an environment of its own."""

    def __init__(
        self, module: str, python: str, task: Task, hosts: Sequence[Host], beside: Sequence[str] = ()
    ) -> None:
        """`python` is the environment's. `beside` is what runs on the last host: its command, if there is one."""
        self._module, self._python, self._task, self._hosts = module, python, task, hosts
        self._beside, self._shared = beside, Shared(Path(task.folder))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._reports = [Report(self._shared.report(rank)) for rank in range(task.peers)]

    def _output(self, name: str) -> Path:
        return self._shared.folder / f"{name}.log"

    def _start(self, name: str, host: Host, command: Sequence[str]) -> None:
        environment = {**ALLOCATOR, **os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
        self._processes[name] = host.start(command, self._output(name), environment=environment)

    def start(self) -> None:
        """Start what runs beside the peers, and them."""
        path = self._shared.folder / "task.json"
        self._task.write(path)
        if self._beside:
            self._start("server", self._hosts[-1], self._beside)
        for rank in range(self._task.peers):
            command = [self._python, "-P", "-m", f"benchmarks.opponents.{self._module}", str(path), str(rank)]
            self._start(f"peer-{rank}", self._hosts[rank], command)

    def failure(self) -> str:
        """Return a peer's own report of what went wrong, or that a process has ended."""
        for rank in range(self._task.peers):
            for line in self.lines(rank):
                if line["kind"] == "failed":
                    return f"peer {rank}: {line['reason']}"
        for name, process in self._processes.items():
            if process.poll() is not None:
                words = self._output(name).read_text(errors="replace").strip().splitlines() or [
                    "it printed nothing"
                ]
                return f"{name} ended before its time: {words[-1][:300]}"
        return ""

    def lines(self, rank: int) -> list[dict[str, Any]]:
        """Return what a peer has reported."""
        return self._reports[rank].lines()

    def is_over(self) -> bool:
        """Return whether every peer says so. Let all begin once all are ready."""
        kinds = [{line["kind"] for line in self.lines(rank)} for rank in range(self._task.peers)]
        if all("ready" in kind for kind in kinds):
            self._shared.go.touch()
        return all("ended" in kind for kind in kinds)

    def stop(self) -> None:
        """Tell the peers that nobody needs them."""
        self._shared.stop.touch()


class Watcher:
    """Watches one opponent: when it began, and what it has trained."""

    def __init__(self, running: Running, task: Task, tell: Tell) -> None:
        self._running, self._task, self._tell = running, task, tell

    def watch(self, limit: float, tokens: int) -> tuple[bool, str, Trained | None]:
        """Run until all is trained, something fails or `limit` seconds of training are over; a step has so many tokens.

        Return whether all is trained, what failed, and the figures, None where not every peer began.
        """
        self._running.start()
        started, began = time.monotonic(), 0.0
        while True:
            is_over, failure = self._running.is_over(), self._running.failure()
            courses = self._courses()
            if not began and len(courses) == self._task.peers:
                began = time.monotonic()
            if began:
                self._tell(self._progress(courses))
            if is_over or failure or (began and time.monotonic() > began + limit):
                break
            if not began and time.monotonic() > started + STARTING_SECONDS:
                failure = f"the peers did not begin within {STARTING_SECONDS:.0f} s"
                break
            time.sleep(LOOK_SECONDS)
        self._running.stop()
        return is_over, "" if is_over else failure, self._trained(is_over, tokens)

    def _trained(self, is_whole: bool, tokens: int) -> Trained | None:
        courses, task = self._courses(), self._task
        if len(courses) < task.peers:
            return None
        stated = task.step_seconds
        return Trained(tuple(courses), stated or alone(courses), stated > 0, tokens, task.steps, is_whole)

    def _courses(self) -> list[Course]:
        found = (course_of(self._running.lines(rank)) for rank in range(self._task.peers))
        return [course for course in found if course is not None]

    def _progress(self, courses: Sequence[Course]) -> str:
        done = sum(len(course.steps) for course in courses)
        synced = min(course.last.steps for course in courses)
        return f"{done} of {self._task.peers * self._task.steps} steps, {synced} of each synced"
