"""`doctor --network`: step by step, whether this machine can be reached, and whether it reaches a run's host."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import trio
from rich.text import Text

from p2p.addresses import Place, Scope, place_of, reach_of
from p2p.envelope import DRIFT
from p2p.errors import Skewed
from p2p.host import PostOffice
from p2p.identity import generate
from p2p.listening import Outside
from p2p.lists import check_page
from p2p.mail import Kind
from p2p.messages import BlobPage, BlobQuery, ChunkBytes, ChunkQuery
from p2p.questions import CHUNK, LIST
from p2p.served import HostLine
from p2p.ticket import Ticket
from p2p.transport import PeerAddress
from trainer.commands.console import Console
from trainer.commands.results import write_json
from trainer.peer.following import way_told
from trainer.runs.ledgers import machine_clock
from verification import codec
from verification.content import chunk_digest
from verification.digest import ZERO
from verification.errors import Unavailable, UserError, Violation
from verification.ledger.log import Record, genesis_of
from verification.ledger.remote import Remote
from verification.signing import checksum
from verification.units import Address, Count, Digest

ECHO = Kind("doctor/echo", 64, 64)
DIAL_SECONDS = 10.0
MEASURE_SECONDS, MEASURE_CHUNKS, WINDOW = 5.0, 64, 4
"""How long, of how many chunks of 256 KiB and so many at a time the rate is measured, at most."""


@dataclass(frozen=True)
class Step:
    """One step: what was tried, whether it went, what was found, and what to do where it did not go."""

    what: str
    ok: bool
    found: str
    mend: str = ""


Tell = Callable[[Step], None]


def examine_network(
    ticket: Ticket | None, listen: str, outside: Outside, json_file: Path | None = None
) -> int:
    """Print every step as it ends, write all as JSON if asked; return 0 when all went, else 1. Raises UserError."""
    console, steps = Console(), list[Step]()

    def tell(step: Step) -> None:
        steps.append(step)
        sign = ("✓", "green") if step.ok else ("✕", "red")
        mend = f"; {step.mend}" if step.mend else ""
        console.print(Text.assemble(sign, f" {step.what}: {step.found}{mend}"), soft_wrap=True)

    trio.run(try_network, ticket, listen, outside, tell)
    if json_file is not None:
        write_json(json_file, [asdict(step) for step in steps])
    return 0 if all(step.ok for step in steps) else 1


async def try_network(ticket: Ticket | None, listen: str, outside: Outside, tell: Tell) -> None:
    """Tell of each step on this machine, and of those towards a ticket's host, until one fails that the rest need."""
    run = ZERO if ticket is None else ticket.run
    try:
        # Under a key of its own: a peer that runs already must not be taken for this one.
        async with PostOffice(generate(), run, machine_clock(), listen=listen, outside=outside) as post:
            tell(_listening(post))
            tell(await _loopback(post, run))
            tell(await _on_local_networks(post))
            tell(await _at_the_gateway(post))
            if ticket is not None:
                await _towards(post, ticket, tell)
    except UserError as error:
        tell(Step("listen", False, str(error), "see --listen"))


def _listening(post: PostOffice) -> Step:
    addresses = post.address.multiaddr.split()
    found = "others are told " + ", ".join(addresses)
    if reach_of(addresses) is Scope.MACHINE:
        found += ", which only this machine can reach: see --listen"
    return Step("listen", True, found)


async def _loopback(post: PostOffice, run: Digest) -> Step:
    """Dial this machine's own listener, and have a request answered."""

    async def echo(sender: Address, body: bytes) -> bytes:
        return body

    post.register(ECHO, echo)
    async with PostOffice(generate(), run, machine_clock()) as other:
        try:
            await other.request(post.address, ECHO, b"here", DIAL_SECONDS)
        except (Unavailable, Violation) as error:
            return Step("own port", False, str(error), "something on this machine keeps it closed: open it")
    return Step("own port", True, "a request from this machine was answered")


async def _on_local_networks(post: PostOffice) -> Step:
    """Be announced by mDNS for a moment, and hear it."""
    links = post.nearby.links() if post.nearby else ()
    if post.nearby is None or not links:
        why = (
            "switched off" if post.nearby is None else "no private address of a local network is listened on"
        )
        return Step("mDNS", True, f"not used: {why}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post.nearby.announce)
        is_heard = bool(await post.nearby.find(post.address.info().peer_id))
        nursery.cancel_scope.cancel()
    where = ", ".join(link.device for link in links)
    if is_heard:
        return Step("mDNS", True, f"what is announced on {where} is heard there")
    mend = "open UDP port 5353 in this machine's firewall, or leave it with --no-mdns"
    return Step("mDNS", False, f"what is announced on {where} is not heard", mend)


async def _at_the_gateway(post: PostOffice) -> Step:
    if post.gateway is None:
        return Step("UPnP", True, "not used: --upnp asks the gateway for a port")
    found = await post.gateway.answer()
    return Step("UPnP", bool(post.gateway.addresses), found)


async def _towards(post: PostOffice, ticket: Ticket, tell: Tell) -> None:
    try:
        host = ticket.host
    except UserError as error:
        return tell(Step("ticket", False, str(error)))
    tell(
        Step(
            "ticket", True, f"run {ticket.run.hex()[:12]}, host {checksum(host.address)} at {host.multiaddr}"
        )
    )
    tell(await _dialled(post, host))
    remote = Remote(HostLine(post, host).ask, host.address, ticket.run)
    try:
        first = await trio.to_thread.run_sync(remote.founding)
    except (Unavailable, Violation) as error:
        for step in _failed(error, host.address in post.connected()):
            tell(step)
        return
    tell(Step("handshake", True, "the host has the ticket's key"))
    tell(Step("way", True, way_told(post.way_to(host))))
    tell(Step("ledger", True, "the host serves the ticket's run"))
    tell(Step("clocks", True, f"they differ by less than the {DRIFT // 1000} s that they may"))
    tell(await _rate(post, host, first))


async def _dialled(post: PostOffice, host: PeerAddress) -> Step:
    """Open a connection to each address, with nothing but TCP; one that answers is enough, and mDNS may tell it."""
    found, reached = list[str](), 0
    for address in host.multiaddr.split():
        place = place_of(address)
        answer = "reached by a relay" if place is None else await _opened(place)
        reached += place is None or answer.startswith("answers")
        found.append(f"{address.split('/p2p/')[0]} {answer}")
    if not reached and post.nearby is not None:
        for each in map(str, await post.nearby.find(host.info().peer_id)):
            place = place_of(each)
            answer = "is nowhere" if place is None else await _opened(place)
            reached += answer.startswith("answers")
            found.append(f"{each} (mDNS) {answer}")
    mend = "" if reached else "is the host running, and are both sides' firewalls and routers open for it?"
    return Step("dial", reached > 0, ", ".join(found), mend)


async def _opened(place: Place) -> str:
    began = trio.current_time()
    try:
        with trio.fail_after(DIAL_SECONDS):
            stream = await trio.open_tcp_stream(*place)
        await stream.aclose()
    except trio.TooSlowError:
        return f"does not answer within {DIAL_SECONDS:.0f} s"
    except OSError as error:
        return f"cannot be reached ({_reason(error)})"
    return f"answers after {1000 * (trio.current_time() - began):.0f} ms"


def _reason(error: BaseException) -> str:
    """Return why a connection failed: trio says that all attempts did, and each one's reason behind it."""
    cause = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return getattr(cause, "strerror", None) or str(cause)


def _failed(error: Exception, is_connected: bool) -> Iterator[Step]:
    """Yield the steps up to the one at which a question to the host ended."""
    if not is_connected:
        yield Step(
            "handshake",
            False,
            str(error),
            "ask who invited you for a new ticket if the host's key is another",
        )
        return
    yield Step("handshake", True, "the host has the ticket's key")
    if isinstance(error, Skewed):
        yield Step("clocks", False, str(error))
    else:
        yield Step("ledger", False, str(error), "ask who invited you whether the run is still served there")


async def _rate(post: PostOffice, host: PeerAddress, first: Record) -> Step:
    """Take chunks of the run's start state for a few seconds."""
    blob = genesis_of(first).manifest.start.blob
    try:
        listed = await post.request(host, LIST, codec.encode(BlobQuery(blob, Count(0))), DIAL_SECONDS)
        page = check_page(blob, 0, codec.decode(BlobPage, listed, LIST.reply_limit))
        began, size = trio.current_time(), await _taken(post, host, blob, page)
    except (Unavailable, Violation) as error:
        return Step("bandwidth", False, str(error), "try again later: the host may be busy")
    seconds = trio.current_time() - began
    if not size:
        return Step(
            "bandwidth", False, f"no chunk came within {seconds:.0f} s", "the link is too slow for this run"
        )
    return Step(
        "bandwidth",
        True,
        f"{size} bytes of the start state in {seconds:.2f} s: {size / seconds / 1e6:.2f} MB/s",
    )


async def _taken(post: PostOffice, host: PeerAddress, blob: Digest, page: BlobPage) -> int:
    """Return the bytes that came of a blob's first chunks while there was time."""
    indices, sizes = iter(range(min(len(page.chunks), MEASURE_CHUNKS))), list[int]()

    async def take() -> None:
        for index in indices:
            query = codec.encode(ChunkQuery(blob, Count(index)))
            with suppress(Unavailable, Violation):
                data = codec.decode(ChunkBytes, await post.request(host, CHUNK, query, MEASURE_SECONDS)).data
                sizes.append(len(data) * (chunk_digest(data) == page.chunks[index]))

    with trio.move_on_after(MEASURE_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(WINDOW):
                nursery.start_soon(take)
    return sum(sizes)
