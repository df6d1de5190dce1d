"""A process that writes to a ledger: one account after another joins, one line on stdout per acknowledgement."""

import hashlib
import sys
from pathlib import Path

from simulator.toy import ToyLibrary
from verification import law
from verification.digest import ZERO
from verification.ledger.local import LocalLedger
from verification.signed import make_statement, sign_statement
from verification.statements import Join
from verification.units import Amount, Count


def main(path: str, name: str, count: int) -> None:
    """Say that the ledger is open, wait for a line on stdin, then let `count` accounts join."""
    ledger = LocalLedger(Path(path), ToyLibrary())
    state = ledger.state
    print("open", flush=True)
    sys.stdin.readline()
    for number in range(count):
        secret = hashlib.sha256(f"{name}/{number}".encode()).digest()
        body = Join("worker", Amount(10_000), Count(1), ZERO, f"/toy/{name}/{number}")
        ledger.submit(sign_statement(secret, make_statement(state.chain, state.run, law.GENESIS_HEAD, body)))
        print(f"said {number}", flush=True)
    ledger.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
