"""Endpoints on the ledger are whatever their members wrote there."""

from p2p.addresses import Scope
from p2p.identity import Identity
from simulator.memory import Clock, MemoryLedger
from simulator.toy import minimal
from trainer.peer.contacts import Contacts
from verification.digest import ZERO
from verification.ledger.log import Genesis
from verification.state import Member, State
from verification.statements import WORKER
from verification.units import Address, Amount, Millis, Round

ALICE, BOB, MALLORY = (Identity(bytes([number]) * 32) for number in (1, 2, 3))


def endpoint(identity: Identity, port: int = 4001) -> str:
    """Return where a peer says that it listens."""
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.peer_id}"


def members(endpoints: dict[Identity, str]) -> State:
    """Return a state with these members."""
    genesis = Genesis(minimal(), "toy", ZERO, Address(bytes(20)), (), Amount(10**9))
    state = MemoryLedger.found(genesis, Clock(Millis(0))).state
    for identity, text in endpoints.items():
        state.members[identity.address] = Member(identity.address, WORKER, Amount(1), 1, ZERO, text, Round(0))
    return state


def test_everyone_else_is_known_by_the_newest_endpoint_and_the_likely_come_first() -> None:
    contacts = Contacts(ALICE.address, Scope.MACHINE)
    contacts.note(members({ALICE: endpoint(ALICE), BOB: endpoint(BOB), MALLORY: endpoint(MALLORY)}))
    assert [peer.address for peer in contacts.all()] == [BOB.address, MALLORY.address]
    assert [peer.address for peer in contacts.first({MALLORY.address})] == [MALLORY.address, BOB.address]
    named = contacts.named([MALLORY.address, ALICE.address, BOB.address, MALLORY.address])
    assert [peer.address for peer in named] == [MALLORY.address, BOB.address]
    contacts.note(members({BOB: endpoint(BOB, 4002), MALLORY: endpoint(MALLORY)}))
    assert contacts.first({BOB.address})[0].multiaddr == endpoint(BOB, 4002)


def test_text_that_is_no_address_or_anothers_is_left_out_and_what_was_known_stays() -> None:
    contacts = Contacts(ALICE.address, Scope.MACHINE)
    contacts.note(members({BOB: "the moon", MALLORY: endpoint(BOB)}))
    assert contacts.all() == ()
    contacts.note(members({BOB: endpoint(BOB)}))
    contacts.note(members({BOB: "gone", MALLORY: endpoint(BOB)}))
    assert [peer.multiaddr for peer in contacts.all()] == [endpoint(BOB)]


def test_nobody_makes_a_peer_on_the_internet_dial_its_own_machine_or_site() -> None:
    """An endpoint was any host and port, which all members dialled for every blob."""
    near = f"/ip4/10.1.2.3/tcp/22/p2p/{BOB.peer_id}"
    far = f"/ip4/93.184.216.34/tcp/4001/p2p/{MALLORY.peer_id}"
    for reach, called in (
        (Scope.WORLD, [MALLORY.address]),
        (Scope.SITE, [BOB.address, MALLORY.address]),
    ):
        contacts = Contacts(ALICE.address, reach)
        contacts.note(members({BOB: near, MALLORY: far}))
        assert [peer.address for peer in contacts.all()] == called
    contacts.note(members({BOB: endpoint(BOB), MALLORY: f"/dns4/example.org/tcp/1/p2p/{MALLORY.peer_id}"}))
    assert [peer.multiaddr for peer in contacts.all()] == [near, far]
