"""What the law decided, as frozen records: the driver acts on them and every report is made from them."""

from dataclasses import dataclass
from enum import Enum, StrEnum

from verification.causes import Cause, Reason
from verification.manifest import BundleRef, Place
from verification.state import Assignment, Audit, Ruling, Stage, Standing
from verification.units import Address, Amount, Digest, Millis, Round


@dataclass(frozen=True)
class MemberJoined:
    """`address` staked as `role` and counts from the next round."""

    address: Address
    role: str
    stake: Amount


@dataclass(frozen=True)
class RoundOpened:
    """Round `number` starts from `start`."""

    number: Round
    start: BundleRef
    assignments: tuple[tuple[Address, Assignment], ...]


@dataclass(frozen=True)
class RoundClosed:
    """The contributions of `included` count; `beacon` draws the round's audits."""

    number: Round
    included: tuple[Address, ...]
    beacon: Digest


@dataclass(frozen=True)
class RoundSealed:
    """More than half of the round's stake signed the next state."""

    number: Round
    state: BundleRef


@dataclass(frozen=True)
class EveryoneDecides:
    """The committee of round `number` did not decide in its window: the whole stake does. (SPEC.md 4.14)"""

    number: Round


@dataclass(frozen=True)
class NotPaid:
    """A worker's reward went back: the promised verifiers are gone, and nobody audited its round. (SPEC.md 7.4)"""

    address: Address
    round: Round
    amount: Amount


@dataclass(frozen=True)
class AuditEnded:
    """One audit by `verifier`, drawn in `session`, of `worker`'s round `work`."""

    session: Round
    work: Round
    worker: Address
    verifier: Address
    outcome: Audit
    drawn: str


@dataclass(frozen=True)
class DisputeOpened:
    """`challenger` contests a claim of `accused`."""

    number: int
    round: Round
    accused: Address
    challenger: Address
    place: Place
    leaf: int | None


class Move(Enum):
    """What a party of a dispute does, and of what `DisputeMoved.first` and `last` are the numbers."""

    LISTS_STATES = "lists so many state digests"
    LISTS_NODES = "lists so many digests of nodes"
    LISTS_PARTS = "lists so many digests of parts of a result"
    SHOWS_BLOCK = "shows so many bytes of a result"
    LISTS_TOTALS = "lists so many totals of a number"
    LISTS_RANGES = "lists so many parts of a total"
    NAMES_FAILURE = "names the number at which a node fails"
    CONTESTS_STATE = "contests the state after a step"
    CONTESTS_NODES = "contests nodes"
    CONTESTS_NUMBERS = "contests numbers of a result"
    CONTESTS_TERMS = "contests terms of a number"
    SHOWS_OUTPUT = "shows that an output is not what it should be"
    BRINGS_INPUTS = "brings what is read of the inputs of a node"


@dataclass(frozen=True)
class DisputeMoved:
    """One move in a dispute: `first` to `last` are numbers as `move` says; `operator` is that of a node alone."""

    number: int
    actor: Address
    move: Move
    first: int
    last: int
    operator: str = ""


@dataclass(frozen=True)
class DisputeEnded:
    """The ruling, its cause and its place; `step` is set for an inner step, `node` once it is known."""

    number: int
    round: Round
    accused: Address
    challenger: Address
    place: Place
    step: int | None
    node: int | None
    operator: str
    ruling: Ruling
    cause: Cause


@dataclass(frozen=True)
class Slashed:
    """`address` lost stake and escrow: half burned, the rest to those who were right."""

    address: Address
    stake: Amount
    escrow: Amount
    burned: Amount
    rewarded: Amount
    reason: Reason


class Payment(StrEnum):
    """What money was paid for."""

    REWARD = "reward"
    FEE = "fee"
    BOND = "bond"
    REFUND = "refund"
    STAKE = "stake"
    CHUNK = "chunk"


@dataclass(frozen=True)
class Paid:
    """Money that reached an account."""

    address: Address
    amount: Amount
    what: Payment


@dataclass(frozen=True)
class StandingChanged:
    """A member was suspended, excluded, went away or came back."""

    address: Address
    standing: Standing
    reason: Reason


@dataclass(frozen=True)
class StageChanged:
    """The run entered `stage`."""

    stage: Stage
    at: Millis
    cause: Cause


Effect = (
    MemberJoined | RoundOpened | RoundClosed | RoundSealed | EveryoneDecides | AuditEnded | DisputeOpened | NotPaid
    | DisputeMoved | DisputeEnded | Slashed | Paid | StandingChanged | StageChanged
)  # fmt: skip
