"""`join --dry-run`: what joining would take on this machine, from the run's programs and ledger alone."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import trio

from p2p.blobs import BlobStore
from p2p.identity import generate
from trainer.commands.speeds import median_seconds
from trainer.compute.memory import within_memory
from trainer.events import EventLog
from trainer.folder import RunFolder
from trainer.peer.checking import require_post, stake_of
from trainer.peer.config import Account, PeerConfig
from trainer.peer.following import MIB, Found, Newcomer, begin_following, post_of
from trainer.peer.record import Record
from trainer.programs.executor import zeros_of
from trainer.rounds.selfcheck import drawn
from trainer.runs.ledgers import clock_of, genesis_of
from trainer.runs.library import StoredPrograms
from trainer.shards.frugal import fitting, within
from verification.digest import ZERO
from verification.errors import Refused, UserError
from verification.honest.catching_up import KEPT_ROUNDS
from verification.library import StepFailed
from verification.manifest import Manifest, Place
from verification.membership import active
from verification.program import Program, peak_bytes
from verification.sampling import assign, time_for
from verification.sizes import contribution_size, state_size
from verification.state import Member, State, state_before
from verification.statements import WORKER
from verification.units import Amount, Digest, Round
from verification.waiting import time_allowed

MORE_STATES = 2
"""States that a peer holds beside those of the last rounds: what audits and disputes may ask for, and the next one."""


@dataclass(frozen=True)
class Need:
    """One line: what is needed, how it stands with this machine, and whether that is enough."""

    what: str
    found: str
    ok: bool = True


def rehearse(config: PeerConfig) -> int:
    """Print what joining takes; return 0 when this machine has it, else 1. No file of it stays. Raises UserError."""
    with tempfile.TemporaryDirectory(prefix="proofswarm-") as place:
        folder = RunFolder(Path(place) / "run")
        # Under a key of its own: a peer that runs already must not be taken for this one.
        account = Account(folder.keys / "nobody.key", generate())
        found = trio.run(_look, replace(config, folder=folder, account=account, tell=lambda line: None))
        needs = list(needs_of(config, folder, found))
    for need in needs:
        config.tell(f"{'✓' if need.ok else '✕'} {need.what}: {need.found}")
    return 0 if all(need.ok for need in needs) else 1


async def _look(config: PeerConfig) -> Found:
    await begin_following(config)
    events = EventLog(config.folder.log("nobody"), "nobody")
    try:
        async with post_of(config, genesis_of(config.folder).run) as post:
            return await Newcomer(config, Record(events, clock_of(config.folder)), post).look()
    finally:
        events.close()


def needs_of(config: PeerConfig, folder: RunFolder, found: Found) -> Iterator[Need]:
    """Yield what joining takes; `folder` holds the run's programs and ledger."""
    state, programs = found.state, found.programs
    _require_post(config, state.manifest)
    yield _account(config, state)
    memory = _memory(config, _own_programs(config, folder, found))
    yield memory
    published = sum(_size(folder, part.blob, part.limit) for part in found.parts)
    log, whole = folder.ledger.stat().st_size, state_size(programs)
    is_new = state_before(state, Round(len(state.rounds))) != state.manifest.start
    yield Need(
        "to fetch",
        f"{_mib(published + log + is_new * whole)} before the first round, from {len(found.sources)} peers",
    )
    work = state.manifest.work
    rounds = (KEPT_ROUNDS + MORE_STATES) * whole + KEPT_ROUNDS * work.slots * contribution_size(programs)
    disk, free = 2 * published + log + rounds, _free(config.folder.path)
    yield Need("disk", f"some {_mib(disk)}, of {_mib(free)} that are free", disk <= free)
    if memory.ok:
        yield _in_time(config, state, _step_seconds(config, folder, state.manifest))


def _require_post(config: PeerConfig, manifest: Manifest) -> None:
    try:
        require_post(manifest, config.joining.post)
    except UserError as error:
        raise UserError(f"this peer does not take the run: {error}") from error


def _own_programs(config: PeerConfig, folder: RunFolder, found: Found) -> Mapping[Place, Program]:
    """Return the programs that run here: a shard's where it is one that is to be held, and the outer step."""
    manifest, post = found.state.manifest, config.joining.post
    if post is None:
        return found.programs
    library = StoredPrograms(BlobStore(folder.blobs), manifest)
    refs = (*manifest.shard(post).all(), manifest.programs.outer)
    return {place: library.program(ref.digest) for place, ref in zip(Place, refs, strict=True)}


def _memory(config: PeerConfig, programs: Mapping[Place, Program]) -> Need:
    allowed, peak = within_memory(config.options).memory, max(map(peak_bytes, programs.values()))
    assert allowed is not None
    told = f"a program takes up to {_mib(peak)}, of {_mib(allowed)} that it may take here"
    if peak <= allowed:
        return Need("memory", told)
    try:
        count = max(map(len, within(programs, allowed).values()))
    except Refused as refusal:
        return Need("memory", f"{told}, and {refusal}", False)
    return Need("memory", f"{told}, so it runs in {count} stretches, out of files")


def _account(config: PeerConfig, state: State) -> Need:
    account = config.account.address
    if account in state.members:
        return Need("account", "takes part already")
    stake, balance = _stake(config, state.manifest), state.balances.get(account, 0)
    return Need(
        "account", f"a {config.joining.role} stakes {stake}, the account holds {balance}", balance >= stake
    )


def _stake(config: PeerConfig, manifest: Manifest) -> Amount:
    joining = config.joining
    least = stake_of(manifest, joining.role, joining.post)
    return least if joining.stake is None else Amount(joining.stake)


def _size(folder: RunFolder, blob: Digest, limit: int) -> int:
    store = BlobStore(folder.blobs)
    return store.path(blob).stat().st_size if store.has(blob) else limit


def _free(path: Path) -> int:
    """Return the bytes that are free where a folder is, or would be."""
    here = path.absolute()
    return shutil.disk_usage(next(each for each in (here, *here.parents) if each.exists())).free


def _step_seconds(config: PeerConfig, folder: RunFolder, manifest: Manifest) -> float | None:
    """Return the seconds of an inner step on drawn numbers; None where the model does not bear them."""
    store, own = BlobStore(folder.blobs), manifest.programs_of(config.joining.post)
    inner, refs = own.inner.digest, own.all()
    engine = fitting({ref.digest: store.get(ref.blob) for ref in refs}, within_memory(config.options))
    torch.set_num_threads(config.threads)
    program = engine.program(inner)
    inputs = engine.own(drawn(program, [zeros_of(port) for port in program.inputs]), [])
    try:
        return median_seconds(lambda: engine.run(inner, [inputs]))
    except StepFailed:
        return None


def _in_time(config: PeerConfig, state: State, seconds: float | None) -> Need:
    """Say whether a round's whole work is done before its deadline here."""
    if seconds is None:
        return Need("time", "an inner step on drawn numbers fails, so its time shows in the run only")
    speed = max(1, int(1000 / seconds))
    steps, window = _round_of(config, state, speed)
    takes = time_for(steps, speed) / 1000
    told = f"an inner step takes {seconds:.3g} s here, a round's {steps} take {takes:.3g} of {window / 1000:.3g} s"
    return Need("time", told + " that there are", steps > 0 and takes <= window / 1000)


def _round_of(config: PeerConfig, state: State, speed: int) -> tuple[int, int]:
    """Return the inner steps of a newcomer's round once it has delivered some, and its window in milliseconds."""
    manifest, account = state.manifest, config.account.address
    if config.joining.role != WORKER:
        return manifest.work.max_steps, manifest.windows.verdict
    me = Member(
        account, WORKER, _stake(config, manifest), speed, ZERO, "", Round(0), capacity=manifest.work.max_steps
    )
    workers = [*(member for member in active(state, WORKER) if member.address != account), me]
    given = assign(manifest, ZERO, workers, len(workers))
    steps = given[account].steps if account in given else 0
    return steps, max(manifest.windows.commit, time_allowed(manifest, workers, given))


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"
