"""Which process serves a folder's ledger, and where it is reached: what `run invite` reads while another one serves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from p2p.blobs import write_whole
from trainer.folder import RunFolder, Taken, alone
from trainer.runs.ledgers import served_time
from verification.units import Address


@contextmanager
def serving(folder: RunFolder, host: Address) -> Iterator[Callable[[], None]]:
    """Be the one process that serves a folder's ledger: begin its time, and yield what notes that it was served.

    Raises Taken when another process serves it, UserError for another's copy, and what SQLite raises.
    """
    folder.serving_lock.parent.mkdir(exist_ok=True)
    taken = f"{folder.path} is served by another process already: end that one, or leave out --serve"
    with alone(folder.serving_lock, taken):
        time = served_time(folder, host)
        try:
            yield time.note
        finally:
            time.close()
            folder.serving.unlink(missing_ok=True)


def tell_endpoint(folder: RunFolder, endpoint: str) -> None:
    """Write down where the ledger is reached; only while it is served. Raises OSError."""
    write_whole(folder.serving, endpoint.encode())


def endpoint_of(folder: RunFolder) -> str | None:
    """Return where a folder's ledger is reached; None while nobody serves it, whatever a kill has left there."""
    folder.serving_lock.parent.mkdir(exist_ok=True)
    try:
        with alone(folder.serving_lock):
            return None
    except Taken:
        try:
            return folder.serving.read_text(encoding="utf-8")
        except FileNotFoundError:  # it has only begun
            return None
