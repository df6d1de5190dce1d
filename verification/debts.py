"""What a suspended member owes: each debt begins when it falls due and has its own time to be paid. (SPEC.md 3.6)

A debt's kind says what silence costs (`verification.silence`) and what pays it.
"""

from dataclasses import dataclass

from verification.units import Address, Round


@dataclass(frozen=True)
class OpeningDebt:
    """A worker owes the leaves of a round that a verdict asks for. (SPEC.md 5.7)"""

    round: Round


@dataclass(frozen=True)
class RevealDebt:
    """A verifier owes the opening of its blind verdict about `worker`'s round `work`. (SPEC.md 5.8)"""

    work: Round
    worker: Address


@dataclass(frozen=True)
class LinkDebt:
    """A verifier owes its link of a session. (SPEC.md 5.2)"""

    session: Round


@dataclass(frozen=True)
class MoveDebt:
    """A party owes its next move in a dispute. (SPEC.md 6.8)"""

    dispute: int


@dataclass(frozen=True)
class ChunkDebt:
    """Whoever attested a contribution owes the chunk of it that a demand has drawn. (SPEC.md 4.13)"""

    demand: int


Debt = OpeningDebt | RevealDebt | LinkDebt | MoveDebt | ChunkDebt
