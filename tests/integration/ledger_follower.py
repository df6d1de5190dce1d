"""A process that follows a served ledger into a file of its own; one line on stdout for each thing that happens.

It reads orders: `at ADDRESS` names the host's address, `say NAME COUNT` lets accounts join up to a number and goes on
behind those that were acknowledged, `look` folds what is new.
"""

import sys
from pathlib import Path

import trio

from p2p.host import PostOffice
from p2p.identity import Identity
from p2p.served import HostLine
from p2p.transport import PeerAddress
from simulator.toy import ToyLibrary
from tests.contract.ledgers import EVERYTHING
from tests.contract.test_ledger import join, said
from verification.errors import Unavailable
from verification.ledger.follower import Follower
from verification.ledger.local import SqliteCopy, create_copy, steady_clock, system_clock
from verification.ledger.remote import Remote
from verification.units import Digest


def tell(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def follow(line: HostLine, run: Digest, path: Path) -> None:
    """Take orders until there are no more."""
    remote = Remote(line.ask, line.host.address, run)
    if not path.exists():
        create_copy(path, remote.founding(), remote.host)
    ledger = Follower(SqliteCopy(path), ToyLibrary(), steady_clock, remote, lambda text: tell(f"told {text}"))
    tell("open")
    done = 0
    for order in sys.stdin:
        match order.split():
            case ["at", address]:
                line.host = PeerAddress.parse(address)
                ledger.contact.again()
            case ["say", name, count]:
                done = say(ledger, name, done, int(count))
        ledger.catch_up()
        tell(f"height {len(ledger.records(-1, EVERYTHING)) - 1}")
    ledger.close()


def say(ledger: Follower, name: str, done: int, count: int) -> int:
    """Let accounts join; return how many have."""
    for number in range(done, count):
        try:
            ledger.submit(said(ledger, f"{name}{number}", join(f"{name}{number}")))
        except Unavailable:
            tell(f"away {number}")
            return number
        tell(f"said {number}")
    return count


async def main(path: str, address: str, run: str) -> None:
    """Open a post office and follow."""
    identity, digest = Identity(bytes(31) + b"\x09"), Digest(bytes.fromhex(run))
    async with PostOffice(identity, digest, system_clock) as post:
        line = HostLine(post, PeerAddress.parse(address))
        await trio.to_thread.run_sync(follow, line, digest, Path(path))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
