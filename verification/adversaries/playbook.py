"""The ways to misbehave, by the names that the command line and docs/adversaries.md use.

Each says who plays it, what it does differently, and how a run must end for it. Cheats of training are in
`trainer.rounds.cheats`: all of them must end in a conviction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from verification.adversaries import (
    AnswerHonestly,
    Behaviour,
    CopyVerdict,
    CopyWork,
    Dawdle,
    Equivocate,
    FalseAccuser,
    Invent,
    InventDuties,
    Mute,
    Recommit,
    Since,
    SkipDuties,
    TwoFaced,
    Vandal,
    Withhold,
    WrongBytes,
    WrongSeal,
)
from verification.statements import VERIFIER, WORKER, ChallengeSeal, Commit, Evidence, Link, Point, Reveal


class Ending(IntEnum):
    """What must have become of whoever misbehaved, from the mildest to the gravest."""

    HARMLESS = 0
    """Nothing, and of nobody else either."""
    UNPAID = 1
    """Nothing that it did counted."""
    FINED = 2
    """It lost stake."""
    CONVICTED = 3
    """It lost stake and was excluded."""


@dataclass(frozen=True)
class Play:
    """`make` gives the behaviours, for a peer that plays them from a round on; `how` says in words what ends them.

    Those played `in_crews` are for workers that hold a shard.
    """

    roles: tuple[str, ...]
    ending: Ending
    how: str
    make: Callable[[int], list[Behaviour]]
    in_crews: bool = False


BOTH = (WORKER, VERIFIER)
PLAYS: dict[str, Play] = {
    "answers-honestly": Play(
        (WORKER,), Ending.HARMLESS, "the list that it gave in a dispute did not fold to its own claim",
        lambda first: [AnswerHonestly()],
    ),
    "withhold-opening": Play(
        (WORKER,), Ending.CONVICTED, "it did not open its work, and silence costs as much as a lie",
        lambda first: [Withhold()],
    ),
    "never-commit": Play(
        (WORKER,), Ending.UNPAID, "it took work and delivered none, and earned nothing",
        lambda first: [Mute(Commit)],
    ),
    "wrong-bytes": Play(
        (WORKER,), Ending.CONVICTED, "the bytes that it had committed to were not that contribution, and convicted it",
        lambda first: [WrongBytes()],
    ),
    "copy-work": Play(
        (WORKER,), Ending.CONVICTED, "an audit found that it had not done the work it committed to",
        lambda first: [CopyWork()],
    ),
    "equivocate": Play(
        (WORKER,), Ending.CONVICTED, "two signed statements for one place convict it, without a dispute",
        lambda first: [Equivocate(at=first)],
    ),
    "recommit": Play(
        (WORKER,), Ending.CONVICTED, "its second commitment came after the beacon, was refused and convicts it",
        lambda first: [Recommit()],
    ),
    "dawdle": Play(
        BOTH, Ending.HARMLESS, "it waited for every deadline, and the law's windows bounded the delay",
        lambda first: [Dawdle()],
    ),
    "vandal": Play(
        BOTH, Ending.HARMLESS, "what it threw at the ledger was refused and changed nothing",
        lambda first: [Vandal()],
    ),
    "false-accuser": Play(
        (VERIFIER,), Ending.FINED, "the law found for those whom it accused, and it paid a bond for each",
        lambda first: [FalseAccuser()],
    ),
    "grief": Play(
        (VERIFIER,), Ending.FINED, "it accused and brought no evidence, and paid a bond for each",
        lambda first: [FalseAccuser(), Mute(Point, Evidence)],
    ),
    "invent-verdicts": Play(
        (VERIFIER,), Ending.FINED, "it had no inputs to show for the verdicts that it invented",
        lambda first: [Invent()],
    ),
    "copy-verdicts": Play(
        (VERIFIER,), Ending.FINED, "what it copied did not open the blind verdicts that it had given",
        lambda first: [CopyVerdict()],
    ),
    "skip-duties": Play(
        (VERIFIER,), Ending.FINED, "its links showed which audits were its own and had not been done",
        lambda first: [SkipDuties()],
    ),
    "invent-duties": Play(
        (VERIFIER,), Ending.HARMLESS, "it was paid for none of the audits that it had not drawn",
        lambda first: [InventDuties()],
    ),
    "withhold-reveal": Play(
        (VERIFIER,), Ending.FINED, "it did not reveal its verdicts, and they were taken from it and drawn again",
        lambda first: [Mute(Reveal)],
    ),
    "withhold-link": Play(
        (VERIFIER,), Ending.FINED, "it hid which audits were its own, and they were drawn again",
        lambda first: [Mute(Link)],
    ),
    "wrong-seal": Play(
        BOTH, Ending.CONVICTED, "the law found in the outer step's own numbers that it had signed another state",
        lambda first: [WrongSeal(at=first), Mute(ChallengeSeal)],
    ),
    "contest-seals": Play(
        BOTH, Ending.CONVICTED, "it signed a wrong state, contested the right one, and lost both disputes",
        lambda first: [WrongSeal(at=first)],
    ),
    "two-faced": Play(
        (WORKER,), Ending.CONVICTED, "it signed one thing to its neighbours in a crew and committed to another",
        lambda first: [TwoFaced()], in_crews=True,
    ),
    "frame-neighbour": Play(
        (WORKER,), Ending.CONVICTED, "what it said that its neighbour had given it is not what it had signed for",
        lambda first: [TwoFaced(frames=True)], in_crews=True,
    ),
}  # fmt: skip


def behaviours(names: Sequence[str], first: int) -> list[Behaviour]:
    """Return what a peer says differently that plays `names` from round `first` on; names of training say nothing."""
    plays = [PLAYS[name] for name in names if name in PLAYS]
    return [Since(first, behaviour) for play in plays for behaviour in play.make(first)]


def ending_of(names: Sequence[str]) -> tuple[Ending, str]:
    """Return how a run must end for who plays `names`, and what does it; a name not in `PLAYS` is one of training."""
    found = [PLAYS[name] for name in names if name in PLAYS]
    ending, how = max(((play.ending, play.how) for play in found), default=(Ending.HARMLESS, ""))
    if len(found) < len(names) and ending < Ending.CONVICTED:
        return Ending.CONVICTED, "an audit found it, and the dispute that followed proved it"
    return ending, how
