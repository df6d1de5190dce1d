"""Each attack of `bench hostile` against a real post office, by a stranger and by a member, ends as expected."""

import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from benchmarks.assault import Assault, calling, reach
from benchmarks.attacks import ANSWERED, CUT, FAST, LAST, TO_PEERS, TO_THE_HOST, Orders, Session
from p2p.blobs import BlobStore
from p2p.bounds import Bounds
from p2p.exchange import Exchange
from p2p.hints import Rumours
from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.served import HostDoor
from p2p.server import Grants
from simulator.toy import ToyLibrary
from tests.contract.ledgers import SECRET
from tests.contract.test_ledger import genesis, join, said, secret
from tests.patience import WHOLE
from trainer.folder import RunFolder
from trainer.peer.comparing import Comparison
from trainer.peer.ledger import LedgerPort
from verification.ledger.local import LocalLedger, create, system_clock
from verification.ledger.served import Host

pytestmark = pytest.mark.integration
STRANGER = b"\x55" * 32
ENDS = {
    "oversized frame": CUT,
    "frame cut short": CUT,
    "frame behind a frame": CUT,
    "noise in a frame": "Malformed",
    "another version": "UnknownVersion",
    "another run": "WrongRun",
    "unknown kind": "UnknownKind",
    "kind of many letters": "UnknownKind",
    "body too long for its kind": "Oversized",
    "said on another day": "Stale",
    "forged signature": "BadSignature",
    "captured from another": "WrongSender",
    "said twice": "Replayed",
    "noise for ledger/submit": "Malformed",
    "noise for ledger/follow": "Malformed",
    "noise for ledger/head": "Malformed",
    "noise for ledger/here": "UnknownKind",
    "noise for ledger/kept": "Unavailable",
    "noise for hint": "Malformed",
    "noise for blob/list": "Malformed",
    "noise for blob/held": "Malformed",
    "noise for blob/chunk": "Malformed",
    "unknown blob": "Unavailable",
    "chunk": ANSWERED,
    "follow from the start": ANSWERED,
    "newest head": ANSWERED,
    "statement of noise": ANSWERED,
    "statement of a MiB": ANSWERED,
    "statement said already": ANSWERED,
    "statement that the law refuses": ANSWERED,
    "hints beyond their rate": "Overloaded",
    "streams beyond their number": CUT,
}
"""How each attack ends. A ledger's refusal of a statement is an answer."""


@asynccontextmanager
async def besieged(folder: Path, wrongs: int) -> AsyncIterator[tuple[PostOffice, Orders]]:
    """A post office that answers all that hosts and peers do, and what an attacker knows of it.

    It forgives so many `wrongs` of one attacker.
    """
    create(folder / "ledger.sqlite", genesis(), system_clock())
    ledger = LocalLedger(folder / "ledger.sqlite", ToyLibrary())
    known = said(ledger, "a", join("a"))
    ledger.submit(known)
    host, store = Host(ledger, SECRET), BlobStore(folder / "blobs")
    run, state = genesis().run, ledger.state
    with contextlib.closing(ledger):
        grants = Grants(bounds=Bounds(wrongs=wrongs))
        post = PostOffice(Identity(SECRET), run, system_clock, grants=grants, is_member=host.is_member)
        async with post:
            HostDoor(post, host).open()
            Exchange(store, post).serve()
            now = system_clock()
            Rumours(
                post, tuple, lambda: now
            )  # so that it does not depend on the machine how many hints are too many
            Comparison(post, LedgerPort(RunFolder(folder), ToyLibrary()), tuple).serve()
            blobs = (store.put(b"published"),)
            targets = (post.address.multiaddr,)
            yield post, Orders(targets, run, state.chain, state.head, known, blobs, rate=1000.0)
    assert ledger.height == 1


@pytest.mark.parametrize("who", [STRANGER, secret("a")], ids=["stranger", "member"])
async def test_each_attack_ends_as_it_must(tmp_path: Path, who: bytes) -> None:
    attacks = FAST | TO_THE_HOST | TO_PEERS
    with trio.fail_after(WHOLE):
        async with AsyncExitStack() as stack:
            post, orders = await stack.enter_async_context(besieged(tmp_path, 1000))
            assault = Assault(orders)
            attacker = await stack.enter_async_context(calling(Identity(who)))
            assert await reach(attacker, post.address)
            session = Session(
                orders, Identity(who), post.address, attacker, random.Random(1), itertools.count(1 << 40)
            )
            for name, attack in attacks.items():
                assert await assault.make(name, attack, session, 60.0), f"{name} ended the connection"
            for name, attack in LAST.items():
                assert not await assault.make(name, attack, session, 60.0)
            refused = {reason for _, reason in post.refusals()}
    assert {name: dict(ends) for name, ends in assault.counts.items()} == {
        name: {end: 1} for name, end in ENDS.items()
    }
    assert refused >= {end for end in ENDS.values() if end not in (ANSWERED, CUT, "Unavailable")} | {
        "Truncated"
    }


async def test_an_assault_dials_again_when_it_is_cut_off_and_counts_all_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p.door.ASIDE_SECONDS", (0.2, 0.2))
    async with besieged(tmp_path, Bounds().wrongs) as (post, orders), trio.open_nursery() as nursery:
        assault = Assault(replace(orders, rate=100.0))
        nursery.start_soon(assault.run)
        for _ in range(1200):  # a tenth of a second each
            if assault.counts["dial"][ANSWERED] >= 4 and sum(post.refusals().values()) >= 50:
                break
            await trio.sleep_until(trio.current_time() + 0.1)
        nursery.cancel_scope.cancel()
        assert assault.counts["dial"][ANSWERED] >= 4
        assert sum(post.refusals().values()) >= 50
        assert sum(sum(ends.values()) for ends in assault.counts.values()) > 50
