"""A host and a follower in two processes that share no folder; the host is killed and comes back elsewhere."""

import shutil
import signal
import socket
import sqlite3
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from p2p.errors import Declined, WrongKey, WrongRun
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.messages import Here
from p2p.served import HERE, Allowance, HostDoor, HostLine
from p2p.transport import ANY_LOCAL_PORT, PeerAddress
from simulator.toy import ToyLibrary
from tests.checkout import environment
from tests.contract.ledgers import SECRET
from tests.contract.test_ledger import genesis, join, said, secret
from tests.patience import ANSWER, WHOLE
from trainer.commands.serve import Service, serve_run
from trainer.commands.verify import check_files
from trainer.folder import RunFolder
from trainer.lifetimes import python
from trainer.peer.comparing import Comparison
from trainer.peer.ledger import LedgerPort
from trainer.runs.ledgers import begin_copy
from verification.codec import encode
from verification.errors import Unavailable, UserError
from verification.ledger.local import LocalLedger, create, host_of, system_clock, verify_log
from verification.ledger.remote import Remote
from verification.ledger.served import AskHead, Host
from verification.signing import address_of
from verification.units import Digest, Millis

pytestmark = pytest.mark.integration
COUNT = 6


class Child:
    """A process of this suite, with its lines."""

    def __init__(self, stack: ExitStack, module: str, *arguments: str) -> None:
        """Start it; it is killed with the stack at the latest."""
        self.process = subprocess.Popen(
            python("-m", f"tests.integration.{module}", *arguments),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        stack.callback(self.kill)

    def line(self) -> str:
        """Return its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def tell(self, order: str) -> None:
        """Give it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()

    def lines_until(self, start: str) -> list[str]:
        """Return its lines up to the first that starts so."""
        lines = [self.line()]
        while not lines[-1].startswith(start):
            assert self.process.poll() is None, lines
            lines.append(self.line())
        return lines

    def kill(self) -> None:
        """Kill it as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends every process."""
    with ExitStack() as stack:
        yield stack


def port_of(multiaddr: str) -> int:
    """Return the port of /ip4/127.0.0.1/tcp/PORT/p2p/ID."""
    return int(multiaddr.split("/")[4])


def taken(stack: ExitStack, port: int) -> None:
    """Hold a port, so that nobody else is given it."""
    holder = stack.enter_context(socket.socket())
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", port))
    holder.listen(1)


@pytest.mark.parametrize("moment", [1, 3])
def test_a_killed_host_loses_nothing_acknowledged_and_comes_back_on_another_port(
    stack: ExitStack, tmp_path: Path, moment: int
) -> None:
    served, copied = tmp_path / "here" / "ledger.sqlite", tmp_path / "there" / "copy.sqlite"
    served.parent.mkdir()
    copied.parent.mkdir()
    create(served, genesis(), system_clock())
    host = Child(stack, "ledger_host", str(served))
    address = host.line()
    follower = Child(stack, "ledger_follower", str(copied), address, genesis().run.hex())
    assert follower.line() == "open"
    follower.tell(f"say a {COUNT}")
    lines = follower.lines_until(f"said {moment}")
    host.kill()
    lines += follower.lines_until("height")
    acknowledged = [line for line in lines if line.startswith("said")]
    kills = [line for line in lines if line.startswith("told the ledger's host does not answer")]
    taken(stack, port_of(address))
    again = Child(stack, "ledger_host", str(served))
    elsewhere = again.line()
    assert port_of(elsewhere) != port_of(address)
    follower.tell(f"at {elsewhere}")
    lines = follower.lines_until("height")
    assert len(kills) + sum(line.startswith("told the ledger's host does not") for line in lines) <= 1
    assert int(lines[-1].split()[1]) >= len(acknowledged) > moment
    follower.tell(f"say a {COUNT}")
    assert follower.lines_until("height")[-1] == f"height {COUNT}"
    for child in (follower, again):
        child.kill()
    assert verify_log(served) == verify_log(copied) == COUNT + 1
    ledger = LocalLedger(served, ToyLibrary())
    assert set(ledger.state.members) == {address_of(secret(f"a{number}")) for number in range(COUNT)}
    assert host_of(copied) is not None
    ledger.close()


PARTY = [Identity(bytes(31) + bytes([number])) for number in (7, 8)]
STRANGER = Identity(bytes(31) + b"\x0a")
ELSEWHERE = "/ip4/127.0.0.2/tcp/0"


@asynccontextmanager
async def hosted(
    folder: Path, listen: str = ANY_LOCAL_PORT, **options: Any
) -> AsyncIterator[tuple[PostOffice, HostDoor]]:
    """Serve the ledger in a folder, in this process."""
    ledger = LocalLedger(folder / "ledger.sqlite", ToyLibrary())
    async with PostOffice(PARTY[0], genesis().run, system_clock, listen=listen) as post:
        door = HostDoor(post, Host(ledger, PARTY[0].secret), **options)
        door.open()
        yield post, door
    ledger.close()


@asynccontextmanager
async def asking(address: PeerAddress, **options: Any) -> AsyncIterator[tuple[HostLine, Remote]]:
    """Run a follower's post office, with a line to the host that is expected behind an address."""
    async with PostOffice(PARTY[1], genesis().run, system_clock) as post:
        line = HostLine(post, address, **options)
        line.listen()
        yield line, Remote(line.ask, address.address, genesis().run)


async def test_a_host_tells_where_it_is_after_a_restart(tmp_path: Path) -> None:
    create(tmp_path / "ledger.sqlite", genesis(), system_clock())
    heard: list[str] = []
    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack:
            async with hosted(tmp_path) as (first, _):
                before = first.address
                line, remote = await stack.enter_async_context(
                    asking(before, on_news=lambda: heard.append(line.host.multiaddr))
                )
                await trio.to_thread.run_sync(remote.head, None)
            with pytest.raises(Unavailable):
                await trio.to_thread.run_sync(remote.head, None)
            async with hosted(tmp_path, listen=ELSEWHERE) as (second, door):
                assert second.address != before
                nobody = PeerAddress.parse(f"{before.multiaddr.split('/p2p/')[0]}/p2p/{STRANGER.peer_id}")
                await door.tell_where([nobody, line._post.address])
                assert line.host == second.address
                assert heard == [second.address.multiaddr]
                _, head = await trio.to_thread.run_sync(remote.head, None)
                assert head.seq == 0


async def test_a_host_that_moved_meanwhile_is_found_by_asking_members(tmp_path: Path) -> None:
    create(tmp_path / "ledger.sqlite", genesis(), system_clock())
    news: list[str] = []
    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack:
            async with hosted(tmp_path) as (first, _):
                before = first.address
            second, _ = await stack.enter_async_context(hosted(tmp_path, listen=ELSEWHERE))
            told = {}
            for name, where in (("knows", second.address), ("is behind", before), ("lies", None)):
                post = PostOffice(Identity(name.encode().ljust(32, b"1")), genesis().run, system_clock)
                await stack.enter_async_context(post)
                HostLine(post, where or post.address).listen()
                told[name] = post.address
            line, remote = await stack.enter_async_context(
                asking(before, on_news=lambda: news.append(line.host.multiaddr), members=lambda: asked)
            )
            asked = [told["lies"], told["is behind"]]
            with pytest.raises(Unavailable):
                await trio.to_thread.run_sync(remote.head, None)
            assert (line.host, news) == (before, [])
            asked.append(told["knows"])
            _, head = await trio.to_thread.run_sync(remote.head, None)
            assert head.seq == 0
            assert line.host.multiaddrs == (second.address.multiaddr, before.multiaddr)
            assert news == [line.host.multiaddr]


async def test_nobody_else_says_where_the_host_is(tmp_path: Path) -> None:
    create(tmp_path / "ledger.sqlite", genesis(), system_clock())
    with trio.fail_after(WHOLE):
        async with hosted(tmp_path) as (post, _), asking(post.address) as (line, _):
            async with PostOffice(STRANGER, genesis().run, system_clock) as other:
                for told in (other.address, post.address):
                    body = encode(Here(told.multiaddr))
                    with pytest.raises(Declined, match="WrongSender"):
                        await other.request(line._post.address, HERE, body, ANSWER)
            assert line.host == post.address


async def test_a_host_with_another_key_is_refused_in_one_line(tmp_path: Path) -> None:
    create(tmp_path / "ledger.sqlite", genesis(), system_clock())
    with trio.fail_after(WHOLE):
        async with hosted(tmp_path) as (post, _):
            expected = PARTY[1].peer_id
            address = PeerAddress.parse(f"{post.address.multiaddr.split('/p2p/')[0]}/p2p/{expected}")
            async with PostOffice(STRANGER, genesis().run, system_clock) as mine:
                line = HostLine(mine, address)
                with pytest.raises(
                    WrongKey, match="another key than the expected one answers there"
                ) as caught:
                    await trio.to_thread.run_sync(line.ask, "head", encode(AskHead(None)))
    assert "\n" not in str(caught.value)


async def test_a_stranger_gets_a_few_questions_and_a_member_many(tmp_path: Path) -> None:
    create(tmp_path / "ledger.sqlite", genesis(), system_clock())
    refusals: Counter[str] = Counter()

    async def ask(remote: Remote) -> None:
        try:
            await trio.to_thread.run_sync(remote.follow, 0, 0)
        except Unavailable as error:
            refusals[str(getattr(error, "reason", error))] += 1

    with trio.fail_after(WHOLE):
        options = {"allowance": Allowance(burst=1, bytes_per_second=0)}
        async with hosted(tmp_path, **options) as (post, _), asking(post.address) as (_, remote):
            await ask(remote)
            assert refusals == {}
            for _ in range(3):
                await ask(remote)
    assert refusals == {"Busy": 3}


async def test_clocks_that_are_hours_apart_are_named(tmp_path: Path) -> None:
    create(tmp_path / "ledger.sqlite", genesis(), system_clock())
    late = PostOffice(STRANGER, genesis().run, lambda: Millis(system_clock() - 7_200_000))
    with trio.fail_after(WHOLE):
        async with hosted(tmp_path) as (post, _), late:
            line = HostLine(late, post.address)
            with pytest.raises(Unavailable, match=r"this machine's clock is [12]:\d\d:\d\d .* behind"):
                await trio.to_thread.run_sync(line.ask, "head", encode(AskHead(None)))
            assert late.refusals() == {(post.identity.address, "Stale"): 1}
            assert post.refusals() == {(STRANGER.address, "Stale"): 1}


async def test_a_host_of_another_run_says_so(tmp_path: Path) -> None:
    create(tmp_path / "ledger.sqlite", genesis(), system_clock())
    with trio.fail_after(WHOLE):
        async with (
            hosted(tmp_path) as (post, _),
            PostOffice(STRANGER, Digest(bytes(32)), system_clock) as other,
        ):
            with pytest.raises(WrongRun):
                await trio.to_thread.run_sync(
                    HostLine(other, post.address).ask, "head", encode(AskHead(None))
                )


@asynccontextmanager
async def member(folder: Path, name: str, host: Host) -> AsyncIterator[tuple[PostOffice, LedgerPort]]:
    """Run a member's post office, and its ledger that follows a host of this process."""
    run = RunFolder(folder / name)
    begin_copy(run, host.answer, host.address, genesis().run)
    port = LedgerPort(run, ToyLibrary())
    await port.follow(host.answer, lambda line: None)
    identity = Identity(secret(name))
    async with PostOffice(identity, genesis().run, system_clock) as post:
        async with port.state():
            data = said(port._ledger, name, replace(join(name), endpoint=post.address.multiaddr))
        await port.submit(data)
        yield post, port


async def test_members_find_a_host_that_told_them_two_logs(tmp_path: Path) -> None:
    create(tmp_path / "one.sqlite", genesis(), system_clock())
    shutil.copy(tmp_path / "one.sqlite", tmp_path / "two.sqlite")
    one, two = (Host(LocalLedger(tmp_path / f"{n}.sqlite", ToyLibrary()), SECRET) for n in ("one", "two"))
    with trio.fail_after(WHOLE):
        async with (
            member(tmp_path, "a", one) as (post, port),
            member(tmp_path, "b", two) as (other, elsewhere),
        ):
            comparison = Comparison(post, port, lambda: (other.address,))
            await comparison.ask_next()
            assert other.refusals() == {(post.identity.address, "UnknownKind"): 1}
            Comparison(other, elsewhere, lambda: ()).serve()
            with pytest.raises(UserError, match="proves it to 'proofswarm verify'"):
                await comparison.ask_next()
    assert check_files([tmp_path / "a"]) == 0


async def test_members_that_were_told_one_log_go_on(tmp_path: Path) -> None:
    create(tmp_path / "one.sqlite", genesis(), system_clock())
    host = Host(LocalLedger(tmp_path / "one.sqlite", ToyLibrary()), SECRET)
    with trio.fail_after(WHOLE):
        async with (
            member(tmp_path, "a", host) as (post, port),
            member(tmp_path, "b", host) as (other, elsewhere),
        ):
            Comparison(other, elsewhere, lambda: ()).serve()
            for _ in range(3):
                await Comparison(post, port, lambda: (other.address,)).ask_next()
            assert post.refusals() == other.refusals() == {}
            await Comparison(post, port, lambda: ()).ask_next()


def dump(path: Path) -> list[str]:
    """Return all that a ledger file holds."""
    with closing(sqlite3.connect(path)) as source:
        return list(source.iterdump())


@pytest.mark.parametrize("lost", [True, False])
async def test_a_host_that_lost_entries_hears_so_from_members_before_it_signs_others_in_their_place(
    tmp_path: Path, lost: bool
) -> None:
    folder, told = RunFolder(tmp_path / "host"), list[str]()
    folder.path.mkdir()
    create(folder.ledger, genesis(), system_clock())
    ledger = LocalLedger(folder.ledger, ToyLibrary())
    with trio.fail_after(WHOLE):
        async with member(tmp_path, "a", Host(ledger, SECRET)) as (post, port):
            backup = folder.ledger.with_suffix(".backup")
            with (
                closing(sqlite3.connect(folder.ledger)) as source,
                closing(sqlite3.connect(backup)) as target,
            ):
                source.backup(target)
            ledger.submit(said(ledger, "b", join("b")))
            await port.refresh()
            ledger.close()
            if lost:
                backup.rename(folder.ledger)
            Comparison(post, port, lambda: ()).serve()
            before = dump(folder.ledger)
            async with trio.open_nursery() as nursery:

                def tell(line: str) -> None:
                    told.append(line)
                    nursery.cancel_scope.cancel()

                with pytest.raises(UserError, match="a member keeps its entry 2") if lost else nullcontext():
                    await serve_run(folder, Service(Identity(SECRET)), tell)
    assert bool(told) is not lost
    assert (dump(folder.ledger) == before) is lost
