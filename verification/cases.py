"""How one audit is judged: a table whose first case that holds decides. Pure; `verification.judgement` follows it.

`make docs` prints the table into SPEC.md. (SPEC.md 5.9)
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from verification.state import Audit


@dataclass(frozen=True)
class Facts:
    """What is known of one audit when it is judged.

    `is_due` says whether it was the verifier's duty, as far as that is known, `is_right` whether the verdict is out in
    the open and found the difference of which the worker is convicted, `is_equal` whether opening and reveal are equal.
    `can_accuse` says whether the verifier's stake covers the bonds of its open accusations and one more.
    """

    has_link: bool
    is_due: bool
    is_convicted: bool
    is_right: bool
    has_verdict: bool
    has_finished: bool
    has_reveal: bool
    has_opening: bool
    is_equal: bool
    is_excluded: bool
    can_accuse: bool


class Deed(Enum):
    """What follows from a case."""

    PAY = "the fee is paid"
    REDRAW = "drawn again"
    OWE = "the verifier owes its reveal"
    CHARGE = "the verifier pays a bond (7.7)"
    AWAIT_OPENING = "judged when the worker opens"
    AWAIT_BOND = "judged when a bond is free"
    DISPUTE = "a dispute (6.1)"


@dataclass(frozen=True)
class AuditCase:
    """One row: `name` says for people when it `holds`; what the audit comes to, and what is done."""

    name: str
    holds: Callable[[Facts], bool]
    outcome: Audit
    deeds: tuple[Deed, ...] = ()


CASES = (
    AuditCase("the link is out and gives no duty", lambda f: f.has_link and not f.is_due, Audit.VOID),
    AuditCase(
        "round convicted, and the verdict was right", lambda f: f.is_convicted and f.is_right,
        Audit.VOID, (Deed.PAY,),
    ),
    AuditCase("round convicted", lambda f: f.is_convicted, Audit.VOID),
    AuditCase(
        "verdict given, reveal missing", lambda f: f.has_verdict and not f.has_reveal,
        Audit.LOST, (Deed.REDRAW, Deed.OWE),
    ),
    AuditCase(
        "said to be finished, verdict missing", lambda f: f.has_finished and not f.has_verdict,
        Audit.LOST, (Deed.REDRAW, Deed.CHARGE),
    ),
    AuditCase("verdict or link missing", lambda f: not (f.has_reveal and f.has_link), Audit.LOST, (Deed.REDRAW,)),
    AuditCase("the worker has not opened", lambda f: not f.has_opening, Audit.WAITING, (Deed.AWAIT_OPENING,)),
    AuditCase("equal leaves and contribution", lambda f: f.is_equal, Audit.PASSED, (Deed.PAY,)),
    AuditCase("different, the verifier excluded", lambda f: f.is_excluded, Audit.LOST, (Deed.REDRAW,)),
    AuditCase("different, no bond free", lambda f: not f.can_accuse, Audit.WAITING, (Deed.AWAIT_BOND,)),
    AuditCase("different", lambda f: True, Audit.MISMATCH, (Deed.DISPUTE,)),
)  # fmt: skip
"""The cases in order; the last one always holds, so the table is total."""


def case_of(facts: Facts) -> AuditCase:
    """Return the first case that holds. Nothing but two equal openings passes. (SPEC.md 5.9)"""
    return next(case for case in CASES if case.holds(facts))
