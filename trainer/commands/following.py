"""What a run's ledger gains, read from its folder: nothing here adds to it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing

from trainer.commands.report import read_ledger
from trainer.folder import RunFolder
from verification.ledger.log import Entry
from verification.state import Stage, State

LOOK_SECONDS = 1.0
"""Between two looks at a ledger that others add to."""


def entries_of(folder: RunFolder, follow: bool) -> Iterator[tuple[Sequence[Entry], State]]:
    """Yield what is there, and with `follow` what comes until the run has ended, each time with the newest state.

    Raises UserError as `read_ledger` does.
    """
    with closing(read_ledger(folder)) as ledger:
        yield ledger.entries(), ledger.state
        while follow and ledger.state.stage is not Stage.ENDED:
            time.sleep(LOOK_SECONDS)
            ledger.catch_up()
            yield ledger.entries(), ledger.state
