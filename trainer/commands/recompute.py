"""A finished run once more, on this machine alone: one process computes every round that the ledger names.

What a round makes is a function of the manifest and the ledger's record. So whoever trained it, on whatever hosts and
over whatever links, this must end on the same states. No contribution is taken from anyone: each is computed.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from p2p.blobs import BlobStore
from trainer.commands.report import read_state
from trainer.compute.orders import Prepare
from trainer.compute.process import ComputeProcess
from trainer.folder import RunFolder
from trainer.peer.deeds import job_of, outer_step, post_of
from trainer.programs.options import RunOptions
from trainer.rounds.engine import Conduct, Engine, Job, honest
from trainer.runs.library import published
from verification import codec
from verification.errors import UserError
from verification.manifest import BundleRef
from verification.outer import mixture
from verification.signing import checksum
from verification.state import RoundState, State
from verification.units import Address, Count


class Differs(Exception):
    """Something comes out in another way than the ledger says; the message says what."""


def recompute(
    folder: RunFolder,
    options: RunOptions,
    conducts: Mapping[Address, Conduct],
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[bool, str]:
    """Return whether every state of a run comes out again, and what to say of it.

    `conducts` say how those workers trained that were told to cheat: what entered the sum is what they made. Raises
    UserError for a folder that lacks the run's ledger or published blobs.
    """
    state = read_state(folder)
    sealed = [worked for worked in state.rounds if worked.sealed is not None]
    try:
        with _process(folder, state, options, conducts) as process:
            for worked in sealed:
                tell(f"computing round {worked.number} again")
                _compute(process, state, worked, conducts)
    except Differs as error:
        return False, f"on this machine alone {error}"
    ended = sealed[-1].sealed if sealed else state.manifest.start
    assert ended is not None  # the last of those that are
    return True, (
        f"computed again on this machine alone, {len(sealed)} rounds end on the same state {ended.digest.hex()[:16]}"
    )


@contextmanager
def _process(
    folder: RunFolder, state: State, options: RunOptions, conducts: Mapping[Address, Conduct]
) -> Iterator[ComputeProcess]:
    """Load a run over a store that holds what was published, and nothing of any peer."""
    source = BlobStore(folder.blobs)

    def conduct(engine: Engine, job: Job) -> Engine:
        return conducts.get(job.worker, honest)(engine, job)

    with tempfile.TemporaryDirectory(prefix=".again-", dir=folder.path) as draft:
        store = BlobStore(Path(draft))
        for blob in published(state.manifest):
            if not source.has(blob) or store.put_file(source.path(blob)) != blob:
                raise UserError(f"{folder.blobs} lacks blob {blob.hex()}: copy the run's blobs/ again")
        yield ComputeProcess(Prepare(codec.encode(state.manifest), draft, Count(1), options), conduct)


def _compute(
    process: ComputeProcess, state: State, worked: RoundState, conducts: Mapping[Address, Conduct]
) -> None:
    """Compute all that a round includes, and its outer step; raises Differs.

    What a crew's members made together is computed as one whole worker would.
    """
    crews: dict[Address, BundleRef] = {}
    for worker, commit in worked.commits.items():  # a cheat may build on what it made before, included or not
        is_member = post_of(state, worked.number, worker) is not None
        if is_member and worked.included.count(worker) == 0:
            continue
        done = process.run_job(job_of(state, worked.number, worker, worker in conducts))
        if is_member:
            crews[worker] = done.contribution
        elif worked.was_included(worker) and done.contribution != commit.contribution:
            raise Differs(f"what {checksum(worker)} made in round {worked.number} comes out differently")
    order = outer_step(state, worked.number)
    parts = mixture(state, worked).parts
    slots = (
        replace(slot, contribution=crews[part.worker], mates=()) if part.worker in crews else slot
        for slot, part in zip(order.slots, parts, strict=True)
    )
    made = process.run_outer(replace(order, slots=tuple(slots)))
    if made != worked.sealed:
        raise Differs(f"round {worked.number} ends on state {made.digest.hex()[:16]}")
