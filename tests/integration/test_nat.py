"""Peers in networks of their own, behind routers that masquerade: who reaches whom, and by which way."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from p2p.addresses import CIRCUIT
from tests.checkout import environment
from tests.patience import ANSWER
from trainer.hosts.net import Host, Router, laboratory
from trainer.hosts.system import obstacle
from trainer.lifetimes import python

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(bool(obstacle()), reason=obstacle()),
]
V4, V6 = "/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001"


@dataclass
class Peer:
    """A post office on one host."""

    host: Host
    process: subprocess.Popen[str]
    address: str = ""

    def say(self, line: str) -> str:
        """Give it a line, and return the next one that it says."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def begin(self, via: str = "") -> None:
        """Have it begin, by way of a relay too, and learn where it is."""
        self.address = self.say(via)

    def do(self, word: str, address: str, seconds: float = ANSWER) -> str:
        """Have it do something with another, and return what came of it within so many seconds."""
        return self.say(f"{word} {seconds} {address}")


def started(stack: ExitStack, number: int, host: Host, *does: str, listen: str = f"{V4} {V6}") -> Peer:
    """Start a peer's process, which loads its modules and waits; it `does` relay, mdns or upnp."""
    command = host.command(python("-m", "tests.integration.nat_peer", str(number), listen, *does))
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    stack.callback(process.communicate)
    stack.callback(process.kill)
    return Peer(host, process)


@dataclass
class Swarm:
    """A public relay, a public peer, and three behind routers: two that keep ports, one whose router draws them."""

    relay: Peer
    public: Peer
    one: Peer
    two: Peer
    random: Peer
    router: Router


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    """All of them."""
    with laboratory() as lab, ExitStack() as stack:
        relay = started(stack, 1, lab.public("relay"), "relays")
        public = started(stack, 2, lab.public("public"))
        routers = [lab.router(name, keeps_ports=name != "random") for name in ("one", "two", "random")]
        hosts = [lab.behind(router, f"behind-{router.name}") for router in routers]
        inside = [started(stack, number, host) for number, host in enumerate(hosts, 3)]
        for peer in (relay, public):
            peer.begin()
        for peer in inside:
            peer.begin(relay.address.split()[-1])
        yield Swarm(relay, public, *inside, routers[0])


def circuit(peer: Peer) -> str:
    """Return where a peer is by way of its relay."""
    return next(each for each in peer.address.split() if CIRCUIT in each)


def direct(peer: Peer) -> str:
    """Return a peer's address of its own."""
    return next(each for each in peer.address.split() if CIRCUIT not in each)


def test_a_peer_behind_a_nat_is_asked_by_the_connection_that_it_made(swarm: Swarm) -> None:
    assert swarm.public.do("bulk", direct(swarm.one), 2.0).startswith("Unavailable")
    assert swarm.one.do("bulk", swarm.public.address) == "bulk"
    assert swarm.public.do("bulk", direct(swarm.one)) == "bulk"


def test_ipv6_alone_will_do(swarm: Swarm) -> None:
    (six,) = (each for each in swarm.public.address.split() if each.startswith("/ip6/"))
    assert f"/{swarm.public.host.ipv6}/" in six
    assert swarm.two.do("bulk", six) == "bulk"
    assert swarm.public.do("bulk", direct(swarm.two)) == "bulk"


def test_a_relay_carries_statements_to_a_peer_behind_a_nat_and_no_bulk(swarm: Swarm) -> None:
    assert swarm.random.do("echo", circuit(swarm.two)) == "echo"
    assert swarm.random.do("relayed", circuit(swarm.two)) == "relayed"
    assert "carry no bulk" in swarm.random.do("bulk", circuit(swarm.two))
    assert swarm.public.do("echo", swarm.random.address) == "echo"


def test_a_hole_is_punched_through_routers_that_keep_ports(swarm: Swarm) -> None:
    assert swarm.one.do("echo", swarm.two.address) == "echo"
    assert "direct" in swarm.one.do("direct", swarm.two.address)
    assert swarm.one.do("bulk", swarm.two.address) == "bulk"
    assert swarm.two.do("bulk", circuit(swarm.one)) == "bulk"


def test_nothing_is_punched_through_a_router_that_draws_ports(swarm: Swarm) -> None:
    assert swarm.random.do("relayed", circuit(swarm.two)) == "relayed"
    assert "carry no bulk" in swarm.random.do("bulk", circuit(swarm.two))


def test_a_peer_whose_router_got_another_address_is_back_at_once(swarm: Swarm) -> None:
    swarm.router.move()
    swarm.one.do("echo", swarm.public.address, 5.0)
    assert swarm.one.do("echo", swarm.public.address) == "echo"
    assert swarm.public.do("bulk", direct(swarm.one)) == "bulk"
