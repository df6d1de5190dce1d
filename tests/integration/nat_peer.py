"""A post office in a process of its own, which does what lines on its standard input say."""

import sys
from functools import partial

import trio

from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.listening import Outside, relays_named
from p2p.mail import Kind
from p2p.muxer import is_relayed
from p2p.transport import PeerAddress
from verification.digest import tagged
from verification.errors import Unavailable
from verification.ledger.local import system_clock

RUN = tagged("across a NAT")
KINDS = {"echo": Kind("echo", 1000, 1000), "bulk": Kind("bulk", 1000, 1000, is_bulk=True)}


async def echo(sender: bytes, body: bytes) -> bytes:
    """Give back what came."""
    return body


def ways(post: PostOffice, peer: PeerAddress) -> set[str]:
    """Return by which ways a peer is connected."""
    connections = post._host.get_network().get_connections(peer.info().peer_id)
    return {
        "relayed" if is_relayed(each.muxed_conn) else "direct" for each in connections if not each.is_closed
    }


async def obey(post: PostOffice, line: str) -> str:
    """Do one line, and return what came of it."""
    word, *rest = line.split(" ")
    if word == "where":
        return post.address.multiaddr
    seconds, peer = float(rest[0]), PeerAddress.parse(" ".join(rest[1:]))
    if word == "way":
        return str(post.way_to(peer))
    if word in KINDS:
        try:
            return (await post.request(peer, KINDS[word], word.encode(), seconds)).decode()
        except Unavailable as error:
            return f"Unavailable {error}"
    while word not in ways(post, peer):  # until it is connected so
        await post.request(peer, KINDS["echo"], b"", seconds)
    return " ".join(sorted(ways(post, peer)))


async def main(number: str, listen: str, *does: str) -> None:
    """Run until the input ends; its first line names the relays by way of which this one is reached.

    It `does` relay, mdns or upnp.
    """
    via = sys.stdin.readline().split()
    outside = Outside(
        via=relays_named(via), relays="relays" in does, mdns="mdns" in does, upnp="upnp" in does
    )
    post = PostOffice(Identity(bytes([int(number)]) * 32), RUN, system_clock, listen=listen, outside=outside)
    async with post, trio.open_nursery() as nursery:
        for kind in KINDS.values():
            post.register(kind, echo)
        assert await post.is_reserved()
        if post.gateway:
            await post.gateway.answer()
        nursery.start_soon(post.announce)
        print(post.address.multiaddr, flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            print(await obey(post, line.strip()), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(partial(main, *sys.argv[1:]))
