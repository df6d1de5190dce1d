"""One dispute before the law, measured: its statements, their bytes, what the law takes for each, and its file."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simulator.duel import next_move
from verification import law, signing
from verification.claims import Claim, Range, Term, Value
from verification.evidence.collect import convictions
from verification.evidence.file import Finding, pack
from verification.evidence.retrial import verify
from verification.honest.actions import Computed, Results
from verification.library import Library
from verification.report.words import trust
from verification.signed import make_statement, open_statement, sign_statement
from verification.state import Dispute, Ruling, State, Turn
from verification.statements import Body, Evidence
from verification.units import Millis

SECRETS = {"accused": b"\x01" * 32, "challenger": b"\x02" * 32}
ACCUSED, CHALLENGER = (signing.address_of(secret) for secret in SECRETS.values())

Compute = Callable[[Computed, Results], Any]
"""What a side does for its next move."""


@dataclass
class Case:
    """A dispute that is open: what the accused has `said` for it, and how both sides compute their moves."""

    state: State
    library: Library
    said: tuple[Body, ...]
    accused: Compute
    challenger: Compute


@dataclass
class Hearing:
    """A case before the law, statement by statement."""

    case: Case
    sent: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in SECRETS})
    log: list[bytes] = field(default_factory=list)
    results: dict[str, Results] = field(default_factory=lambda: {name: Results() for name in SECRETS})
    evidence_bytes: int = 0
    law_seconds: float = 0.0

    def play(self) -> Dispute:
        """Play to the ruling."""
        case, (dispute,) = self.case, self.case.state.disputes
        self.log += [self._signed("accused", body) for body in case.said]
        while dispute.ruling is None:
            name = "accused" if dispute.turn is Turn.LIST else "challenger"
            results, compute = self.results[name], getattr(case, name)
            body = next_move(case.state, results, lambda action: compute(action, results))  # noqa: B023
            data = self._signed(name, body)
            self.sent[name].append(len(data))
            if isinstance(body, Evidence):
                self.evidence_bytes = len(data)
            self._admit(data)
        return dispute

    def _admit(self, data: bytes) -> None:
        """Have the law take a statement, and count the process's time for it alone."""
        said = open_statement(data)
        began = time.process_time()
        law.apply(self.case.state, said, Millis(1), self.case.library)
        self.law_seconds = max(self.law_seconds, time.process_time() - began)
        self.log.append(data)

    def _signed(self, name: str, body: Body) -> bytes:
        state = self.case.state
        statement = make_statement(state.chain, state.run, law.head_of(state, body.round), body)
        return sign_statement(SECRETS[name], statement)


@dataclass(frozen=True)
class Heard:
    """A dispute that has ended, what its file proves, and both in figures."""

    dispute: Dispute
    finding: Finding
    row: dict[str, Any]

    def is_about(self, node: int) -> bool:
        """Return whether law and file convict of one and the same claim about a node."""
        number, game = self.finding.number, self.dispute.game
        is_one = number is not None and (game.claim, self.dispute.right) == (number.claim, number.right)
        return self.dispute.ruling is Ruling.GUILTY and is_one and game.node == node == self.finding.node


def hear(case: Case) -> Heard:
    """Play a case to its end, and check its file of evidence."""
    hearing = Hearing(case)
    dispute = hearing.play()
    (conviction,) = convictions(case.state, hearing.log, [], case.library.program).values()
    file = pack(conviction)
    began = time.perf_counter()
    finding = verify(file)
    row = {
        "place": dispute.place.value,
        "node": dispute.game.node,
        "operator": dispute.operator,
        "near": dispute.near,
        "judged": judged(dispute.game.claim),
        "exchanges": sum(map(len, hearing.sent.values())),
        "accused_bytes": sum(hearing.sent["accused"]),
        "challenger_bytes": sum(hearing.sent["challenger"]),
        "evidence_bytes": hearing.evidence_bytes,
        "law_milliseconds": 1000 * hearing.law_seconds,
        "file_bytes": len(file),
        "verify_seconds": time.perf_counter() - began,
        "trust": trust(finding),
    }
    return Heard(dispute, finding, row)


def judged(claim: Claim | None) -> str:
    """Return in words what is left of a claim."""
    match claim:
        case Range(index, totals, low, high):
            return f"terms {low:,} to {high - 1:,} of number {index:,}, total {len(totals) + 1}"
        case Value(index):
            return f"number {index:,}"
        case Term(index):
            return f"number {index:,} fails"
    return "nothing"
