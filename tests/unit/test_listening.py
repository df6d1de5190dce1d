"""Where a peer listens, and what it tells others of that."""

import pytest
from multiaddr import Multiaddr

from p2p import listening
from p2p.addresses import Scope, nearness, plain, reach_of, site_of
from p2p.identity import Identity
from p2p.listening import announced, endpoint, multiaddrs_of, real, relays_named
from p2p.transport import MAX_ADDRESSES, PeerAddress
from verification.errors import Malformed, UserError
from verification.statements import MAX_ENDPOINT

ALICE, BOB = (Identity(bytes([number]) * 32) for number in (1, 2))
NEAR, SITE, FAR = "/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/2", "/ip6/2606:4700::1111/tcp/3"


@pytest.mark.parametrize(
    "text", ["", " ", "127.0.0.1:80", "/ip4/127.0.0.1", f"{NEAR}  {SITE}", f"{NEAR} junk", "/dns4/a.b/tcp/1"]
)
def test_text_that_nobody_listens_on_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="write /ip4/ADDRESS/tcp/PORT") as caught:
        multiaddrs_of(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1", "/ip6/fe80::1/tcp/1", "/ip4/8.8.8.8/tcp/0", "/dns4/a.b/tcp/1", "x",
             f"{FAR}/p2p/{ALICE.peer_id}"]
)  # fmt: skip
def test_what_nobody_would_dial_is_not_announced(text: str) -> None:
    assert announced("") == ()
    assert announced(f"{SITE} {FAR}") == (SITE, FAR)
    with pytest.raises(UserError, match="--announce"):
        announced(f"{SITE} {text}")


def test_what_stands_for_all_addresses_is_told_as_the_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer announced 0.0.0.0, and all others dialled themselves."""
    hosts = {4: ["127.0.0.2", "10.0.0.1", "169.254.1.1"], 6: ["2606:4700::1", "fe80::1"]}
    monkeypatch.setattr(listening, "get_network_addrs", hosts.__getitem__)
    both = multiaddrs_of("/ip4/0.0.0.0/tcp/5 /ip6/::/tcp/6 /ip4/10.0.0.1/tcp/5")
    assert real(both) == ("/ip4/127.0.0.2/tcp/5", "/ip4/10.0.0.1/tcp/5", "/ip6/2606:4700::1/tcp/6")
    assert reach_of(real(both)) is Scope.WORLD
    monkeypatch.setattr(listening, "get_network_addrs", lambda version: [])
    assert real(both) == ("/ip4/127.0.0.1/tcp/5", "/ip6/::1/tcp/6", "/ip4/10.0.0.1/tcp/5")
    assert reach_of(real(both)) is Scope.SITE


def test_this_machine_is_never_told_as_no_place() -> None:
    for each in real([Multiaddr("/ip4/0.0.0.0/tcp/5"), Multiaddr("/ip6/::/tcp/5")]):
        assert announced(each) == (each,)


def test_an_endpoint_holds_as_many_addresses_as_the_ledger_takes() -> None:
    text = endpoint([NEAR, SITE, FAR], ALICE.peer_id)
    assert text == " ".join(f"{each}/p2p/{ALICE.peer_id}" for each in (FAR, SITE, NEAR))
    peer = PeerAddress.parse(text)
    assert (peer.address, [str(each) for each in peer.info().addrs]) == (ALICE.address, [FAR, SITE, NEAR])
    many = PeerAddress.parse(
        endpoint([f"/ip4/10.0.0.{n}/tcp/65000" for n in range(20)] + [FAR], ALICE.peer_id)
    )
    assert len(many.multiaddr) <= MAX_ENDPOINT
    assert many.multiaddrs[0] == f"{FAR}/p2p/{ALICE.peer_id}"
    assert len(many.multiaddrs) == 6


def test_an_endpoint_is_of_one_peer() -> None:
    one, two = (f"{NEAR}/p2p/{who.peer_id}" for who in (ALICE, BOB))
    for text in (
        f"{one} {two}",
        f"{one}  {one}",
        f" {one}",
        " ".join([one] * (MAX_ADDRESSES + 1)),
        f"{one} {NEAR}",
    ):
        with pytest.raises(Malformed):
            PeerAddress.parse(text)


def test_a_relay_is_named_by_number_and_key() -> None:
    relay = f"{FAR}/p2p/{ALICE.peer_id}"
    (named,) = relays_named([relay])
    assert named.multiaddr == relay
    reached = PeerAddress.parse(f"{relay}/p2p-circuit/p2p/{BOB.peer_id} {NEAR}/p2p/{BOB.peer_id}")
    assert (reached.address, reached.relays()) == (BOB.address, (named,))
    of_another_kind = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
    with pytest.raises(Malformed):
        PeerAddress.parse(f"{FAR}/p2p/{of_another_kind}/p2p-circuit/p2p/{BOB.peer_id}")
    for text in (FAR, "x", f"/dns4/a.b/tcp/1/p2p/{ALICE.peer_id}", reached.multiaddr):
        with pytest.raises(UserError, match="--via") as caught:
            relays_named([text])
        assert "\n" not in str(caught.value)


def test_each_address_is_dialled_or_not_by_itself() -> None:
    peer = PeerAddress.parse(endpoint([NEAR, SITE, FAR], ALICE.peer_id))
    near = peer.seen_from(Scope.SITE)
    assert near is not None
    assert near.multiaddrs == peer.multiaddrs[:2]
    assert PeerAddress.parse(f"{SITE}/p2p/{ALICE.peer_id}").seen_from(Scope.WORLD) is None
    assert near.also_at(peer) == peer
    assert near.also_at(PeerAddress.parse(peer.multiaddrs[2])).multiaddrs == (
        peer.multiaddrs[2],
        *near.multiaddrs,
    )
    assert sorted([FAR, NEAR, SITE], key=nearness) == [NEAR, SITE, FAR]


def test_a_host_of_ipv6_is_one_place_whatever_number_it_takes() -> None:
    assert site_of("2606:4700::1") == site_of("2606:4700::ffff:1") != site_of("2606:4700:0:1::1")
    assert (site_of("10.0.0.1"), site_of("::ffff:10.0.0.1")) == ("10.0.0.1", "10.0.0.1")
    assert [plain(host) for host in ("::ffff:10.0.0.1", "10.0.0.1", "::1")] == ["10.0.0.1", "10.0.0.1", "::1"]
