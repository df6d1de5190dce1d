"""What peers reported while they trained, and the figures of it. No processes, no clock: reports in, numbers out."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TAIL = 0.1
"""The last part of a training over whose steps a loss is averaged."""


@dataclass(frozen=True)
class Step:
    """One inner step of a peer: when it was over, how long it really ran, and its loss in nats a token."""

    at: float
    seconds: float
    loss: float


@dataclass(frozen=True)
class Sync:
    """When what a peer trained was everybody's, or that it began: its steps by then, and its link's bytes by then."""

    at: float
    steps: int
    sent: int
    received: int


@dataclass(frozen=True)
class Course:
    """How one peer trained: since when, its steps, and its syncs.

    `alone`: the median seconds of a step for which nobody was waited for. Times are on the machine's monotonic clock.
    """

    begun: Sync
    steps: tuple[Step, ...]
    synced: tuple[Sync, ...]
    alone: float

    @property
    def last(self) -> Sync:
        """The newest sync; the beginning where there is none."""
        return self.synced[-1] if self.synced else self.begun


class Report:
    """A peer's report in a file, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self._lines: list[dict[str, Any]] = []

    def lines(self) -> list[dict[str, Any]]:
        """Return its whole lines so far; none where there is no report yet."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                whole, end, _ = file.read().rpartition(b"\n")
            self._at += len(whole) + len(end)
            self._lines += [json.loads(line) for line in whole.splitlines()]
        return self._lines


def course_of(lines: Iterable[Mapping[str, Any]]) -> Course | None:
    """Return what a peer's report tells; None for one that has not begun."""
    begun, alone, steps, synced = None, 0.0, list[Step](), list[Sync]()
    for line in lines:
        match line["kind"]:
            case "ready":
                alone = line["seconds"]
            case "begun":
                begun = Sync(line["at"], 0, line["sent"], line["received"])
            case "step":
                steps.append(Step(line["at"], line["seconds"], line["loss"]))
            case "sync":
                synced.append(Sync(line["at"], line["steps"], line["sent"], line["received"]))
    return None if begun is None else Course(begun, tuple(steps), tuple(synced), alone)


@dataclass(frozen=True)
class Trained:
    """A training of all peers: `step_seconds` is what a step takes by itself, `tokens` how many one step has.

    `is_stated` says whether a step's time was stated, or is what it took; `wanted` are the steps of each peer in all,
    and `is_whole` says whether they were made.
    """

    courses: tuple[Course, ...]
    step_seconds: float
    is_stated: bool
    tokens: int
    wanted: int
    is_whole: bool

    @property
    def begun(self) -> float:
        """When the first peer began."""
        return min(course.begun.at for course in self.courses)

    @property
    def last(self) -> tuple[float, int]:
        """When the last steps that count became everybody's, after the beginning, and how many steps of all those are.

        A step counts that a peer had done by its last sync, up to those that are wanted of it.
        """
        done = sum(min(course.last.steps, self.wanted) for course in self.courses)
        ends = [
            next((sync.at for sync in course.synced if sync.steps >= self.wanted), course.last.at)
            for course in self.courses
            if course.synced
        ]
        return max(ends, default=self.begun) - self.begun, done

    @property
    def rate(self) -> float:
        """Tokens a second of all peers together."""
        seconds, done = self.last
        return done * self.tokens / seconds if seconds else 0.0

    @property
    def utilisation(self) -> float:
        """Seconds of inner steps over the wall's seconds."""
        seconds, done = self.last
        return done / len(self.courses) * self.step_seconds / seconds if seconds else 0.0

    @property
    def sent(self) -> int:
        """Bytes that all peers' links sent from each one's beginning to its last sync."""
        return sum(course.last.sent - course.begun.sent for course in self.courses)

    @property
    def received(self) -> int:
        """Bytes that they received meanwhile."""
        return sum(course.last.received - course.begun.received for course in self.courses)

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes that went over a peer's link, in either direction, for each token that this peer trained."""
        tokens = sum(course.last.steps for course in self.courses) * self.tokens
        return (self.sent + self.received) / tokens if tokens else None

    @property
    def really(self) -> float:
        """Median seconds that a step's computation really ran."""
        return alone(self.courses)

    @property
    def overrun(self) -> float:
        """The share of steps that ran longer than was stated; 0 where nothing was."""
        return over(self.courses, self.step_seconds) if self.is_stated else 0.0

    def loss_after(self, seconds: float | None = None) -> float | None:
        """Return the mean training loss of the last tenth of the steps, of those done in so many seconds if given.

        It is a tenth of what is wanted, or all where there are fewer. None where there is no step.
        """
        until = self.begun + (self.last[0] if seconds is None else seconds)
        losses = []
        for course in self.courses:
            done = [step.loss for step in course.steps[: self.wanted] if step.at <= until]
            losses += done[-max(1, round(TAIL * self.wanted)) :]
        return statistics.fmean(losses) if losses else None


def alone(courses: Sequence[Course]) -> float:
    """Return the median seconds of a step for which nobody was waited for; 0 where there is none."""
    return statistics.median(_judged(courses) or [0.0])


def over(courses: Sequence[Course], stated: float) -> float:
    """Return the share of steps whose computation by itself took longer than was stated."""
    judged = _judged(courses)
    return sum(seconds > stated for seconds in judged) / len(judged) if judged else 0.0


def _judged(courses: Sequence[Course]) -> list[float]:
    """Return the seconds of steps by themselves: what a peer measured before all, for its steps may hold messages too,
    and those of all its steps where they hold none."""
    return [
        seconds
        for course in courses
        for seconds in (
            [course.alone] if course.alone else [step.seconds for step in course.steps if step.seconds]
        )
    ]
