"""Why the law did something, as data: a cause and the facts that it names. `report.words` puts it into words."""

from dataclasses import dataclass
from enum import Enum

from verification.debts import Debt
from verification.manifest import Place
from verification.units import Round


class Cause(Enum):
    """Every reason that the law has for a conviction, a ruling, a change of standing or of stage."""

    STATES_TOO_FEW = "the list of states does not have the interval's length"
    STATES_END = "the list of states does not end in the value it replaces"
    STATES_GO_ON = "something follows a failure in the list of states"
    TRACE_FAILS_ELSE = "the trace ends in another failure than was claimed"
    TRACE_OUTPUTS = "the trace's outputs do not fold to the claimed value"
    TRACE_TOO_SHORT = "the trace does not have the program's length"
    TRACE_GOES_ON = "the trace goes on after a node that fails"
    NODES_TOO_FEW = "the list of nodes does not have the segment's length"
    NODES_FOLD = "the list of nodes does not fold to the entry it replaces"
    PART_TOO_FEW = "the list of a result's part does not have its length"
    PART_FOLDS = "the list of a result's part does not fold to the entry it replaces"
    BLOCK_SIZE = "a block does not have its length"
    BLOCK_BYTES = "a block's bytes do not hash to the entry they replace"
    BLOCK_FORM = "a block holds what is no number of its dtype"
    TOTALS_TOO_FEW = "the list of a number's totals does not have the operator's length"
    RANGES_TOO_FEW = "the list of a total's ranges does not have its length"
    RANGES_ADD_UP = "the ranges of a total do not add up to it"
    FAILS_NOWHERE = "a node is said to fail where none of its kind can"
    WRONG_OUTPUT = "an output is not what its own trace gives"
    WRONG_NUMBER = "a number is not what its operator gives"
    WRONG_RANGE = "a range of terms does not give its total"
    FAILS_NOT = "a node does not fail where it was said to"
    RIGHT_NUMBER = "what was contested of a node is right"
    FAILED_BEFORE = "both sides agree that the round had failed before"
    ACCUSED_SILENT = "the accused stayed silent"
    CHALLENGER_SILENT = "the challenger stayed silent"
    ROUND_CONVICTED = "the round is convicted already"

    SPOILED_SIZE = "a contribution of a size that none has"
    SPOILED_BYTES = "a contribution's bytes do not decode"
    SPOILED_BUNDLE = "a contribution's bytes are another bundle's"
    SPOILED_SHAPES = "a contribution has other dtypes or shapes than its program's outputs"
    SPOILED_NORM = "a contribution has another norm than was committed"

    CONTRADICTION = "said two things in one place"
    NOT_OPENED = "did not open its leaves"
    NOT_AUDITED = "said that it was finished, with a duty undone"
    SILENT = "stayed silent about a debt"
    CONVICTED = "convicted too often of wrong work"
    CONVICTED_SPOILED = "convicted too often, at last by its bytes"
    POOR = "the stake no longer covers a bond"
    OWES = "owes something"
    PAID = "gave what it owed"
    ANNOUNCED = "announced itself again"
    MISSED = "missed rounds in a row"
    IDLE = "left audits undone in sessions in a row"
    NOT_SHOWN = "never showed a chunk"

    GATHERED = "enough members joined"
    STALLED = "no round closed for too long"
    ROUNDS_DONE = "all rounds are done"
    DEPOSIT_SPENT = "the deposit cannot pay another round"
    SETTLED = "everything is settled"


@dataclass(frozen=True)
class Reason:
    """A cause with the facts that it names; the others are None.

    `count` is a number of rounds, sessions or bytes. `about` is the slot of a contradiction.
    """

    cause: Cause
    round: Round | None = None
    place: Place | None = None
    dispute: int | None = None
    node: int | None = None
    debt: Debt | None = None
    count: int | None = None
    about: str = ""
