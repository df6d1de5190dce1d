"""Where mDNS is used and what of it is believed, and what a gateway may answer: without any network."""

from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import ClassVar

import ifaddr
import pytest
import trio
from multiaddr import Multiaddr
from zeroconf import ServiceInfo

from p2p import gateway, nearby
from p2p.gateway import LEASE_SECONDS, MAX_TRIES, Gateway, mapped
from p2p.identity import Identity
from p2p.nearby import SERVICE, Link, Nearby, links, name_of
from verification.digest import tagged
from verification.errors import Unavailable

RUN = tagged("test run")
ALICE, BOB = (Identity(bytes([number]) * 32).peer_id for number in (1, 2))
LAN, CLOUD = Link("eth0", (ip_interface("10.0.0.1/24"), ip_interface("fd00::1/64"))), "8.8.8.8"
PLACE, NEXT, NEXT_6 = "/ip4/10.0.0.1/tcp/4001", "/ip4/10.0.0.7/tcp/4001", "/ip6/fd00::7/tcp/4001"


def adapter(name: str, *numbers: tuple[str, int]) -> ifaddr.Adapter:
    """Return an interface as the system lists it."""
    ips = [ifaddr.IP((ip, 0, 0) if ":" in ip else ip, bits, name) for ip, bits in numbers]
    return ifaddr.Adapter(name, name, ips, index=1)


MACHINE = [
    adapter("lo", ("127.0.0.1", 8), ("::1", 128)),
    adapter("eth0", ("10.0.0.1", 24), ("fd00::1", 64), ("fe80::1", 64)),
    adapter("eth1", ("192.168.7.7", 16)),
    adapter("wan0", (CLOUD, 24)),
]


@pytest.mark.parametrize(
    ("listening", "found"),
    [
        (["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"], ()),
        ([f"/ip4/{CLOUD}/tcp/1"], ()),
        ([PLACE, "/ip6/fd00::1/tcp/2"], (LAN,)),
        (["/ip6/fd00:0:0::1/tcp/2"], (Link("eth0", LAN.hosts[1:]),)),
        (["/ip4/192.168.7.7/tcp/1", "/ip4/127.0.0.1/tcp/1"], (Link("eth1", (ip_interface("192.168.7.7/16"),)),)),
        (["/ip4/10.0.0.9/tcp/1"], ()),
    ],
)  # fmt: skip
def test_only_interfaces_with_a_private_address_that_is_listened_on_count(
    listening: list[str], found: tuple[Link, ...]
) -> None:
    assert links(listening, MACHINE) == found


def test_a_name_has_run_and_peer_and_fits_a_label() -> None:
    label = name_of(RUN, ALICE).removesuffix(f".{SERVICE}")
    assert label == f"{RUN.hex()[:8]}-{ALICE}"
    assert len(label) <= 63


class Spoken:
    """Stands for what speaks on an interface: it answers with what somebody there says."""

    said: dict[str, str] | None = None
    opened: ClassVar[list[str]] = []

    def __init__(self, interfaces: list[str]) -> None:
        self.opened.extend(interfaces)
        self.engine = self
        self.readers: list[object] = []

    def get_service_info(self, kind: str, name: str, timeout: int) -> ServiceInfo | None:
        return None if self.said is None else ServiceInfo(kind, name, port=1, properties=self.said)

    def close(self) -> None:
        self.opened.clear()


@pytest.mark.parametrize(
    ("said", "believed"),
    [
        (None, []),
        ({"0": NEXT, "1": NEXT_6}, [NEXT, NEXT_6]),
        ({"0": "/ip4/127.0.0.1/tcp/22", "1": "/ip4/10.0.1.7/tcp/4001", "2": f"/ip4/{CLOUD}/tcp/1"}, []),
        ({"0": "/dns4/a.b/tcp/1", "1": "junk", "2": "", "3": f"/ip4/10.0.0.7/tcp/1/p2p/{BOB}"}, []),
    ],
)  # fmt: skip
async def test_of_what_is_told_only_addresses_of_that_network_are_believed(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, str] | None, believed: list[str]
) -> None:
    monkeypatch.setattr(Spoken, "said", said)
    monkeypatch.setattr(nearby, "Zeroconf", Spoken)
    monkeypatch.setattr(nearby, "links", lambda listening: (LAN,))
    found = await Nearby(RUN, ALICE, lambda: [PLACE]).find(BOB)
    assert found == [Multiaddr(each) for each in believed]
    assert Spoken.opened == []


async def test_an_interface_that_does_not_bear_it_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = []

    def failing(interfaces: list[str]) -> None:
        failures.append(interfaces)
        raise OSError("no such device")

    monkeypatch.setattr(nearby, "Zeroconf", failing)
    monkeypatch.setattr(nearby, "links", lambda listening: (LAN,))
    peer = Nearby(RUN, ALICE, lambda: [PLACE])
    assert await peer.find(BOB) == []
    with trio.move_on_after(0.1):
        await peer.announce()
    assert failures == [["10.0.0.1", "fd00::1"]] * 2


@dataclass
class Router:
    """Stands for miniupnpc and a router: some of its ports are taken, and it may give them for good alone."""

    number: str = "93.184.216.34"
    is_there: bool = True
    only_for_good: bool = False
    lanaddr: str = ""
    taken: set[int] = field(default_factory=set)
    asked: list[tuple[int, int]] = field(default_factory=list)
    given: dict[int, tuple[str, int]] = field(default_factory=dict)

    def seen_from(self, multicastif: str, minissdpdsocket: str, discoverdelay: int) -> "Router":
        self.lanaddr = multicastif
        return self

    def discover(self) -> int:
        if not self.is_there:
            raise Exception("Success")
        return 1

    def selectigd(self) -> str:
        return "http://10.0.0.254/"

    def externalipaddress(self) -> str:
        return self.number

    def addportmapping(
        self, port: int, kind: str, host: str, own: int, name: str, remote: str, lease: int
    ) -> bool:
        self.asked.append((port, lease))
        if port in self.taken:
            raise Exception("ConflictInMappingEntry")
        if lease and self.only_for_good:
            raise Exception("OnlyPermanentLeasesSupported")
        self.given[port] = host, own
        return True

    def deleteportmapping(self, port: int, kind: str) -> bool:
        del self.given[port]
        return True


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Router:
    """A router of the test's own."""
    made = Router()
    monkeypatch.setattr(gateway.miniupnpc, "UPnP", made.seen_from)
    return made


def test_a_taken_port_gives_way_to_the_next(router: Router) -> None:
    router.taken = {4001, 4002}
    assert mapped([PLACE]).multiaddr == f"/ip4/{router.number}/tcp/4003"
    assert router.given == {4003: ("10.0.0.1", 4001)}
    router.taken = set(range(65536))
    router.asked.clear()
    with pytest.raises(Unavailable, match="gives no port: ConflictInMappingEntry"):
        mapped([PLACE])
    assert len(router.asked) == 2 * MAX_TRIES


def test_a_router_that_gives_ports_for_good_alone_is_taken_at_its_word(router: Router) -> None:
    router.only_for_good = True
    assert mapped([PLACE]).outside == (router.number, 4001)
    assert router.asked == [(4001, LEASE_SECONDS), (4001, 0)]


@pytest.mark.parametrize(
    ("listening", "changes", "line"),
    [
        (
            ["/ip4/127.0.0.1/tcp/1", "/ip6/fd00::1/tcp/1", f"/ip4/{CLOUD}/tcp/1"],
            {},
            "no private address of IPv4 is",
        ),
        ([PLACE], {"is_there": False}, "^no gateway answers on the network of 10.0.0.1: forward a port"),
        ([PLACE], {"number": "127.0.0.1"}, "where nobody is reached"),
        ([PLACE], {"number": "0.0.0.0"}, "where nobody is reached"),
        ([PLACE], {"number": "junk"}, "where nobody is reached"),
    ],
)
def test_why_there_is_no_port_is_one_line(
    router: Router, listening: list[str], changes: dict[str, object], line: str
) -> None:
    for name, value in changes.items():
        setattr(router, name, value)
    with pytest.raises(Unavailable, match=line) as caught:
        mapped(listening)
    assert "\n" not in str(caught.value) and "Success" not in str(caught.value)
    assert router.given == {}


async def test_a_port_is_renewed_and_given_back(
    router: Router, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05
    keeper = Gateway(lambda: [PLACE])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.keep)
        assert await keeper.answer() == f"the gateway leads /ip4/{router.number}/tcp/4001 here"
        assert keeper.addresses == (f"/ip4/{router.number}/tcp/4001",)
        await trio.sleep_until(trio.current_time() + 2.6 * LEASE_SECONDS / 2)
        nursery.cancel_scope.cancel()
    assert router.asked == [(4001, LEASE_SECONDS)] * 3
    assert router.given == {}


async def test_a_private_number_of_the_gateways_is_said(router: Router) -> None:
    router.number = "10.9.9.9"
    keeper = Gateway(lambda: [PLACE])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.keep)
        assert "another router is in front of it" in await keeper.answer()
        nursery.cancel_scope.cancel()


def test_only_what_the_gateway_says_is_told_as_its_word() -> None:
    with (
        pytest.raises(Unavailable, match="no port: taken: forward one"),
        gateway._told_by_gateway("no port", "forward one"),
    ):
        raise Exception("taken")
    with pytest.raises(KeyError), gateway._told_by_gateway("no port"):
        raise KeyError("a fault of ours")
