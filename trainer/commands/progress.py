"""What a long command is at: a line that moves on a terminal, else a line now and then, always beside the results."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from trainer.commands.console import Console

QUIET_SECONDS = 10.0
"""Where nothing can move, nothing is said more often than this."""


class Stages:
    """Tells stages of known number: call it with a word on each as it begins, inside `with`."""

    def __init__(self, console: Console, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`console` is where results go; progress goes there too if it is a terminal, else to standard error."""
        self._console = console if console.is_terminal else Console(stderr=True)
        columns = (
            SpinnerColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
        )
        self._progress = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._task = self._progress.add_task("starting", total=total)
        self._total, self._clock = total, clock
        self._begun, self._told = 0, clock()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, what: str) -> None:
        """Say that the next stage begins."""
        self._progress.update(self._task, completed=self._begun, description=what)
        self._begun += 1
        if self._progress.disable and self._clock() - self._told >= QUIET_SECONDS:
            self._told = self._clock()
            self._console.print(f"{self._begun} of {self._total}: {what}", soft_wrap=True)
