"""What a newcomer meets on its way into a run: a host on loopback, and all that may be wrong there or here."""

import errno
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from p2p import partial
from p2p.blobs import BlobStore
from p2p.identity import Identity, load
from p2p.listening import AS_LISTENED
from p2p.ticket import Ticket
from p2p.transport import ANY_LOCAL_PORT
from tests.patience import NOBODY, WHOLE
from trainer.commands.join import Settings, config_of
from trainer.commands.network import Step, try_network
from trainer.commands.rehearsal import rehearse
from trainer.commands.serve import Service, host_identity, serve_run
from trainer.events import EventLog, read_events
from trainer.folder import RunFolder
from trainer.peer import following
from trainer.peer.config import PeerConfig
from trainer.peer.following import Newcomer, begin_following, fetch_run, post_of
from trainer.peer.journal import Journal
from trainer.peer.record import Record
from trainer.runs.create import Created
from trainer.runs.ledgers import clock_of, genesis_of
from trainer.runs.library import published
from trainer.runs.serving import endpoint_of
from verification.errors import UserError
from verification.state import Stage
from verification.statements import Withdraw
from verification.units import Digest, Millis

pytestmark = pytest.mark.integration

OTHER = Identity(bytes(31) + b"\1")
SETTINGS = Settings("worker", ANY_LOCAL_PORT, AS_LISTENED, 1, None, None, "cpu", None, None, True)


@asynccontextmanager
async def hosted(tiny_run: Created, place: Path) -> AsyncIterator[Ticket]:
    """A host of a run of the test's own; yields the ticket for its first account."""
    folder = RunFolder(Path(shutil.copytree(tiny_run.folder.path, place / "host")))
    secret = load(folder.keys / "peer-0.key").secret
    listening = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            serve_run, folder, Service(host_identity(folder, None)), lambda line: listening.set()
        )
        await listening.wait()
        endpoint = endpoint_of(folder)
        assert endpoint is not None
        yield Ticket(genesis_of(folder).run, endpoint, secret)
        nursery.cancel_scope.cancel()


def newcomer(ticket: Ticket, place: Path, told: list[str] | None = None) -> PeerConfig:
    """Return what a ticket makes of a peer that joins into a folder of the test's own."""
    tell = (told if told is not None else []).append
    return config_of(SETTINGS, ticket, place / "here", None, tell)


def elsewhere(ticket: Ticket) -> Ticket:
    """Return the ticket with a port at which nobody listens."""
    return replace(ticket, endpoint=f"{NOBODY}/p2p/{ticket.endpoint.rsplit('/', 1)[1]}")


def of_another_key(ticket: Ticket) -> Ticket:
    """Return the ticket with a key that is not the host's."""
    return replace(ticket, endpoint=f"{ticket.endpoint.rsplit('/', 1)[0]}/{OTHER.peer_id}")


WRONG: dict[str, tuple[Callable[[Ticket], Ticket], str]] = {
    "a host that does not answer": (elsewhere, "no ledger at that address: cannot reach 0x"),
    "a host of another key": (of_another_key, "another key than the expected one answers there"),
    "a host of another run": (
        lambda t: replace(t, run=Digest(bytes(32))),
        "no ledger at that address: run [0-9a-f]{16} is not 0{16}",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_host_that_is_not_the_tickets_is_one_line_and_leaves_nothing(
    wrong: str, tiny_run: Created, tmp_path: Path
) -> None:
    change, line = WRONG[wrong]
    with trio.fail_after(WHOLE):
        async with hosted(tiny_run, tmp_path) as ticket:
            with pytest.raises(UserError, match=line) as caught:
                await begin_following(newcomer(change(ticket), tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "here").exists()


async def test_a_clock_that_is_hours_off_and_a_port_that_is_taken(
    tiny_run: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(WHOLE):
        async with hosted(tiny_run, tmp_path) as ticket:
            config = newcomer(ticket, tmp_path)
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                listen = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
                with pytest.raises(UserError, match="is taken; choose another"):
                    await begin_following(replace(config, listen=listen))
            now = clock_of(config.folder)
            monkeypatch.setattr(following, "clock_of", lambda folder: lambda: Millis(now() + 3 * 3_600_000))
            host = "0x[0-9a-fA-F]{40}"
            with pytest.raises(UserError, match=rf"this machine's clock is [23]:.* ahead of that of {host}"):
                await begin_following(config)
    assert not (tmp_path / "here").exists()


async def test_a_folder_is_filled_though_the_disk_is_full_for_a_while_and_then_kept(
    tiny_run: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time nothing is fetched, and the same folder takes neither another run nor another account."""
    monkeypatch.setattr(following, "WAIT_SECONDS", 0.01)
    write, faults, told = os.pwrite, list[int](), list[str]()

    def full(handle: int, data: bytes, offset: int) -> int:
        if len(faults) < 3:
            faults.append(handle)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data, offset)

    monkeypatch.setattr(partial.os, "pwrite", full)
    with trio.fail_after(WHOLE):
        async with hosted(tiny_run, tmp_path) as ticket:
            config = newcomer(ticket, tmp_path, told)
            for _ in range(2):
                await begin_following(config)
                log = EventLog(config.folder.log("newcomer"), "newcomer")
                await fetch_run(config, Record(log, clock_of(config.folder)))
                log.close()
            manifest = genesis_of(config.folder).manifest
            assert set(BlobStore(config.folder.blobs).blobs()) == set(published(manifest))
            fetched = [event["blob"] for event in read_events(config.folder.log("newcomer"))]
            assert sorted(fetched) == sorted({blob.hex() for blob in published(manifest)})
            assert len(faults) == 3
            (full_disk,) = (line for line in told if line.startswith("waits for the "))
            assert full_disk.endswith("/here/blobs: No space left on device")
            assert load(config.account.key).secret == ticket.secret
            with pytest.raises(UserError, match=r"holds run .*, not 0{12}: name another folder"):
                await begin_following(newcomer(replace(ticket, run=Digest(bytes(32))), tmp_path))
            with pytest.raises(UserError, match="is the key of another account"):
                await begin_following(
                    replace(config, account=replace(config.account, identity=OTHER)),
                )


async def test_a_run_that_has_ended_and_an_account_in_use_are_told_before_anything_is_fetched(
    tiny_run: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(WHOLE):
        async with hosted(tiny_run, tmp_path) as ticket:
            config = newcomer(ticket, tmp_path)
            await begin_following(config)
            record = Record(EventLog(config.folder.log("newcomer"), "newcomer"), clock_of(config.folder))
            async with post_of(config, ticket.run) as post:
                here = Newcomer(config, record, post)
                state = (await here.look()).state
                state.members[config.account.address] = None  # type: ignore[assignment]
                with pytest.raises(UserError, match="already, from another folder or machine: go on there"):
                    here._check(state)
                state.stage = Stage.ENDED
                journal = Journal(config.account.journal, ticket.secret, state.chain, state.run)
                journal.sign(state.head, Withdraw())
                journal.close()
                here._check(state)  # its stake is still to be had
                del state.members[config.account.address]
                with pytest.raises(UserError, match=r"run .* has ended, or is about to"):
                    here._check(state)


async def test_a_dry_run_says_what_joining_takes_and_leaves_nothing(
    tiny_run: Created, tmp_path: Path
) -> None:
    told: list[str] = []
    with trio.fail_after(WHOLE):
        async with hosted(tiny_run, tmp_path) as ticket:
            config = newcomer(ticket, tmp_path, told)
            assert await trio.to_thread.run_sync(rehearse, config) == 0
            needs = [line for line in told if line[0] in "✓✕"]
            assert [line[2:].split(":")[0] for line in needs] == [
                "account",
                "memory",
                "to fetch",
                "disk",
                "time",
            ]
            small = replace(config, options=replace(config.options, memory=1), tell=told.append)
            assert await trio.to_thread.run_sync(rehearse, small) == 1
            poor = replace(config, account=replace(config.account, identity=OTHER))
            assert await trio.to_thread.run_sync(rehearse, poor) == 1
    assert sum("the account holds 0" in line for line in told if line[0] == "✕") == 1
    assert sum(line.startswith("✕ memory: a program takes up to ") for line in told) == 1
    assert os.listdir(tmp_path) == ["host"]


async def test_the_network_is_tried_step_by_step(tiny_run: Created, tmp_path: Path) -> None:
    async def tried(ticket: Ticket | None, listen: str = ANY_LOCAL_PORT) -> list[Step]:
        steps: list[Step] = []
        await try_network(ticket, listen, AS_LISTENED, steps.append)
        return steps

    def names(steps: list[Step]) -> list[str]:
        assert all(step.ok for step in steps[:-1])
        return [step.what for step in steps]

    own = ["listen", "own port", "mDNS", "UPnP"]
    with trio.fail_after(WHOLE):
        alone = await tried(None)
        assert names(alone) == own and alone[-1].ok
        (refused,) = await tried(None, "/ip4/192.0.2.1/tcp/0")
        assert not refused.ok and "cannot listen there" in refused.found
        async with hosted(tiny_run, tmp_path) as ticket:
            whole = await tried(ticket)
            assert names(whole) == [
                *own,
                "ticket",
                "dial",
                "handshake",
                "way",
                "ledger",
                "clocks",
                "bandwidth",
            ]
            assert whole[-1].ok and "MB/s" in whole[-1].found
            stolen = await tried(of_another_key(ticket))
            assert names(stolen) == [*own, "ticket", "dial", "handshake"]
            assert "another key" in stolen[-1].found and not stolen[-1].ok
            away = await tried(elsewhere(ticket))
            assert [step.what for step in away if not step.ok] == ["dial", "handshake"]
            other = await tried(replace(ticket, run=Digest(bytes(32))))
            assert names(other) == [*own, "ticket", "dial", "handshake", "ledger"] and not other[-1].ok
            nowhere = await tried(replace(ticket, endpoint="the moon"))
            assert names(nowhere) == [*own, "ticket"] and "names no host" in nowhere[-1].found
