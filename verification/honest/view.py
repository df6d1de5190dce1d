"""What whoever decides for a peer looks at."""

from dataclasses import dataclass

from verification.honest.actions import Results
from verification.honest.decide import Me
from verification.state import State
from verification.units import Millis


@dataclass(frozen=True)
class View:
    """What a peer decides on: the ledger's state, itself, its results so far, and its clock."""

    state: State
    me: Me
    results: Results
    now: Millis
