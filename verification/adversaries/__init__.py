"""How a peer may depart from the honest actor: small behaviours that compose, each one thing done differently.

A behaviour stands between `actors.decide` and the driver: it sees what the honest peer would do and returns what this
one does, and it stands between a computation and its result. Pure like `decide`; what it remembers is its own.
docs/adversaries.md says which known attack each one is, and who catches it.
"""

from verification.adversaries.anyone import (
    Dawdle,
    Equivocate,
    Late,
    Recommit,
    Vandal,
    WrongSeal,
)
from verification.adversaries.behaviour import (
    Act,
    Behaviour,
    Forge,
    Mute,
    Since,
    Throw,
    decide_as,
    result_as,
)
from verification.adversaries.partners import Hurry, Steer
from verification.adversaries.verifiers import (
    Collude,
    CopyVerdict,
    FalseAccuser,
    Invent,
    InventDuties,
    SkipDuties,
)
from verification.adversaries.workers import (
    AnswerHonestly,
    CommitFailure,
    CopyWork,
    FalseList,
    FalseTotals,
    Grind,
    Ring,
    TwoFaced,
    Whisper,
    Withhold,
    WrongBytes,
)
from verification.honest.view import View

__all__ = [
    "Act",
    "AnswerHonestly",
    "Behaviour",
    "Collude",
    "CommitFailure",
    "CopyVerdict",
    "CopyWork",
    "Dawdle",
    "Equivocate",
    "FalseAccuser",
    "FalseList",
    "FalseTotals",
    "Forge",
    "Grind",
    "Hurry",
    "Invent",
    "InventDuties",
    "Late",
    "Mute",
    "Recommit",
    "Ring",
    "Since",
    "SkipDuties",
    "Steer",
    "Throw",
    "TwoFaced",
    "Vandal",
    "View",
    "Whisper",
    "Withhold",
    "WrongBytes",
    "WrongSeal",
    "decide_as",
    "result_as",
]
