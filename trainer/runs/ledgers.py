"""Which ledger a run's folder holds: the one place that names an implementation of it."""

from collections.abc import Callable

from trainer.folder import RunFolder
from verification.ledger import local
from verification.ledger.log import Genesis
from verification.ledger.port import Ledger
from verification.library import Library
from verification.units import Millis


def found_run(folder: RunFolder, genesis: Genesis) -> None:
    """Write the first entry of a new run's ledger; raises UserError when there is one, Refused for an unlawful run."""
    local.create(folder.ledger, genesis, local.system_clock())


def genesis_of(folder: RunFolder) -> Genesis:
    """Return what a run's first entry fixes; raises UserError."""
    return local.read_genesis(folder.ledger)


def clock_of(folder: RunFolder) -> Callable[[], Millis]:
    """Return the clock of a run's ledger, for whoever has not folded it yet."""
    return local.system_clock


def open_ledger(folder: RunFolder, library: Library) -> Ledger:
    """Fold a run's ledger; raises UserError for one that is missing, foreign or altered."""
    return local.LocalLedger(folder.ledger, library)


def verify_log(folder: RunFolder) -> int:
    """Recompute the hash chain of a run's log and return its length; raises UserError at the first broken link."""
    return local.verify_log(folder.ledger)
