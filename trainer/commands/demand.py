"""`demand`: pay to see a chunk, which the ledger draws, of a contribution that members promised to serve.

Whoever doubts that a contribution is still there asks in the open: all who attested it must answer, and the first to do
so is paid. (SPEC.md 4.13)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2p.identity import load
from trainer.commands.report import read_ledger
from trainer.events import read_events
from trainer.folder import RunFolder
from verification import law
from verification.availability import holders
from verification.errors import Refused, UserError
from verification.ledger.log import Entry
from verification.ledger.port import Ledger
from verification.signed import make_statement, open_statement, sign_statement
from verification.signing import address_of, checksum
from verification.state import Demanded, Stage, State
from verification.statements import Chunk, Demand
from verification.units import Address

PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Names:
    """Peers' names by account, as their event logs give them."""

    known: dict[str, str]

    def __call__(self, address: Address) -> str:
        """Return a peer's name, or its account."""
        account = checksum(address)
        return self.known.get(account, account)

    def address(self, text: str) -> Address:
        """Return the account that a name or an account stands for; raises UserError."""
        accounts = {name: account for account, name in self.known.items()}
        digits = accounts.get(text, text).removeprefix("0x")
        try:
            return Address(bytes.fromhex(digits))
        except ValueError:
            raise UserError(
                f"no peer {text!r}: give an account, or one of {', '.join(sorted(accounts))}"
            ) from None


def run_demand(
    folder: RunFolder, key: Path, number: int | None, worker: str | None, tell: Callable[[str], None]
) -> int:
    """Demand, wait, tell what came of it, and return 0 when the chunk was shown, else 1. Raises UserError."""
    secret = load(key).secret
    logs = {path.stem: next(read_events(path), None) for path in sorted(folder.events.glob("*.jsonl"))}
    names = Names({str(event["peer"]): name for name, event in logs.items() if event is not None})
    ledger = read_ledger(folder)
    try:
        author = None if worker is None else names.address(worker)
        found = demand(ledger, secret, choose(ledger.state, number, author))
        tell(asked(ledger.state, found, names))
        shown = wait(ledger, found, lambda: time.sleep(PAUSE_SECONDS))
        tell(outcome(ledger.state, found, shown, names))
        return 0 if shown else 1
    finally:
        ledger.close()


def choose(state: State, number: int | None, worker: Address | None) -> Demand:
    """Return the newest contribution that is promised, of a round and of a worker if given; raises UserError."""
    rounds = [r for r in reversed(state.rounds) if number in (None, r.number)]
    for worked in rounds:
        for author in sorted(worked.commits):
            if worker in (None, author) and holders(state, worked.number, author):
                return Demand(worked.number, author)
    raise UserError("nobody has attested such a contribution: choose another --round or --worker, or wait")


def demand(ledger: Ledger, secret: bytes, body: Demand) -> Demanded:
    """Put the demand on the ledger, or find it there; raises UserError where the law refuses it."""
    state = ledger.state
    head = law.head_of(state, body.round)
    try:
        ledger.submit(sign_statement(secret, make_statement(state.chain, state.run, head, body)))
    except Refused as refusal:
        raise UserError(f"the ledger refuses the demand: {refusal}") from refusal
    own = (body.round, body.worker, address_of(secret))
    return next(d for d in ledger.state.demands if (d.round, d.worker, d.payer) == own)


def wait(ledger: Ledger, found: Demanded, pause: Callable[[], None]) -> tuple[Address, Chunk] | None:
    """Return who showed the chunk and the chunk, None when nobody did in time or before the run's end."""
    entries: list[Entry] = []
    while True:
        ledger.tick()
        entries += ledger.entries()
        now = ledger.state.demands[found.number]
        if now.is_met:
            said = (open_statement(entry.data) for entry in entries if entry.kind == "statement")
            return next(
                (one.sender, one.body)
                for one in said
                if isinstance(one.body, Chunk) and one.body.demand == found.number
            )
        if now.is_overdue or ledger.state.stage is Stage.ENDED:
            return None
        pause()


def asked(state: State, found: Demanded, names: Names) -> str:
    """Return what is demanded, of whom, in a line."""
    promised = ", ".join(names(holder) for holder in holders(state, found.round, found.worker))
    seconds = (found.deadline - state.now) / 1000
    return (
        f"{names(found.payer)} pays {state.manifest.money.chunk_price} to see a chunk of {names(found.worker)}'s "
        f"contribution to round {found.round}; {promised} have {max(0.0, seconds):.0f} s to show it"
    )


def outcome(state: State, found: Demanded, shown: tuple[Address, Chunk] | None, names: Names) -> str:
    """Return what came of a demand, in a line."""
    price = state.manifest.money.chunk_price
    if shown is not None:
        author, chunk = shown
        size = 0 if chunk.block is None else len(chunk.block.data)
        return (
            f"shown by {names(author)}, which got {price // 2} of the {price}: {size} bytes of one of {chunk.count} "
            f"tensors, {chunk.dtype}{list(map(int, chunk.shape))}, and they open the commitment"
        )
    if state.demands[found.number].is_overdue:
        silent = ", ".join(names(holder) for holder in holders(state, found.round, found.worker))
        return f"not shown: the {price} came back, and {silent} are suspended until one of them shows it"
    return f"the run ended before anyone showed it: the {price} came back"
