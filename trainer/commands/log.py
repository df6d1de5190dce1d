"""`run log`: a run's figures round by round, from any folder that has its ledger, while it goes on or later."""

from collections.abc import Callable, Sequence

from trainer.commands.following import entries_of
from trainer.folder import RunFolder
from trainer.logs.run_log import Evaluation, RunLog, event_logs
from trainer.runs.ledgers import genesis_of
from verification.errors import UserError
from verification.manifest import BundleRef


def log_run(
    folder: RunFolder, names: Sequence[str], follow: bool, every: int | None, tell: Callable[[str], None]
) -> None:
    """Add to destinations what they lack of a run, and with `follow` what comes, until it ends.

    `every` evaluates the state after every so many rounds. Raises UserError for a destination that cannot be, when none
    is left, and where the folder cannot evaluate.
    """
    log = RunLog(folder, event_logs(folder), tell, None if every is None else evaluation(folder, every, tell))
    log.open(names, genesis_of(folder).run)
    try:
        for entries, _ in entries_of(folder, follow):
            log.take(entries)
            if not log.destinations:
                raise UserError(
                    "nothing can be logged any more: mend it, and the same command adds what is missing"
                )
    finally:
        log.close()


def evaluation(folder: RunFolder, every: int, tell: Callable[[str], None]) -> Evaluation:
    """Return what judges a run's states that some peer keeps here; raises UserError where the folder lacks model or
    records."""
    from trainer.commands.evaluate import HeldOut  # brings torch, which a log does without
    from trainer.runs.states import Missing, stored_bundle

    judge = HeldOut(folder)

    def loss(ref: BundleRef) -> float | None:
        try:
            return judge.loss(stored_bundle([folder.blobs, *folder.stores()], ref))
        except Missing as missing:
            tell(f"not evaluated: {missing}")
            return None

    return Evaluation(every, loss)
