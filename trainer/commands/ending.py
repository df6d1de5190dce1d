"""How the demo's run must have ended: it knows what it started, which no report can.

The report speaks of what the ledger shows. Here stands what must have become of the peer that was told to cheat, and
that nobody else lost anything.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from verification.adversaries.playbook import Ending, ending_of
from verification.report.schema import PeerReport, Report
from verification.report.words import amount, counted, losses

Check = tuple[bool, str]
"""Whether it is as it must be, and what to say of it."""


@dataclass(frozen=True)
class Cheat:
    """What a peer was started to play, and from which round on."""

    names: tuple[str, ...]
    first: int


def checks(report: Report, cheats: Mapping[str, Cheat], own: Container[str]) -> list[Check]:
    """Return what a run must show, beside its result, of the accounts that are one's `own`; `cheats` are those of them
    told to misbehave.

    What becomes of guests is their own affair.
    """
    honest = [peer for peer in report.peers if peer.id in own and peer.id not in cheats]
    ends = [_cheat(report, peer, cheats[peer.id]) for peer in report.peers if peer.id in cheats]
    return [
        *_model(report),
        *ends,
        _unhurt(honest),
        _agreed(honest),
    ]


def _model(report: Report) -> list[Check]:
    seen = report.evaluation
    if seen is None or seen.loss_before is None or seen.loss_after is None:
        return []
    is_better = seen.loss_after < seen.loss_before
    went = "fell" if is_better else "went"
    return [(is_better, f"held-out loss {went} from {losses(seen, 'to')}")]


def _cheat(report: Report, peer: PeerReport, cheat: Cheat) -> Check:
    """Return whether the run ended for a cheat as `playbook` says it must."""
    ending, how = ending_of(cheat.names)
    who = f"{peer.name or peer.id} ({','.join(cheat.names)})"
    lost = f"{who} lost {amount(peer.slashed)}"
    if peer.status == "excluded":
        lost += f" and was excluded in round {peer.excluded_in_round}"
    if ending is Ending.UNPAID:
        paid = [
            entry.number for entry in report.rounds for part in entry.contributions
            if part.worker == peer.id and part.included and entry.number >= cheat.first
        ]  # fmt: skip
        told = (
            f"{who} cheated and was paid for {len(paid)} rounds"
            if paid
            else f"{who} was paid for nothing: {how}"
        )
        return not paid, told
    if ending is Ending.HARMLESS:
        return True, f"{lost if peer.slashed else f'{who} harmed nobody'}: {how}"
    caught = peer.slashed > 0 and (ending is Ending.FINED or peer.status == "excluded")
    return caught, f"{lost}: {how}" if caught else f"{who} cheated and was not caught"


def _unhurt(honest: Sequence[PeerReport]) -> Check:
    hurt = [peer.name or peer.id for peer in honest if peer.slashed]
    return not hurt, f"honest peers lost stake: {', '.join(hurt)}" if hurt else "no honest peer lost stake"


def _agreed(honest: Sequence[PeerReport]) -> Check:
    ends = {peer.name or peer.id: peer.log.digest if peer.log is not None else "" for peer in honest}
    missing, values = [name for name, digest in ends.items() if not digest], set(ends.values()) - {""}
    if len(values) == 1 and not missing:
        return True, f"all {counted(len(honest), 'honest peer')} ended on state {values.pop()[:16]}"
    return (
        False,
        f"honest peers ended on {len(values)} states; none shown by: {', '.join(missing) or 'nobody'}",
    )
