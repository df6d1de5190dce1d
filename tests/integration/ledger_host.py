"""A process that serves a ledger file on a free port of 127.0.0.1, and says at which address."""

import sys
from pathlib import Path

import trio

from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.served import HostDoor
from simulator.toy import ToyLibrary
from tests.contract.ledgers import SECRET
from verification.ledger.local import LocalLedger, system_clock
from verification.ledger.served import Host


async def serve(path: str) -> None:
    """Serve until killed."""
    ledger = LocalLedger(Path(path), ToyLibrary())
    async with PostOffice(Identity(SECRET), ledger.state.run, system_clock) as post:
        HostDoor(post, Host(ledger, SECRET)).open()
        print(post.address.multiaddr, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(serve, sys.argv[1])
