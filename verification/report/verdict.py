"""Whether a run did what it is for, in one sentence and the facts behind it: by the ledger alone.

What peers say of themselves plays no part, nor what somebody meant to try: who was convicted by proof and who paid for
silence is on the ledger.
"""

from collections.abc import Iterable, Sequence

from verification.causes import Cause
from verification.report import schema
from verification.report.words import amount, counted
from verification.state import Stage, State

SILENCE = {Cause.ACCUSED_SILENT, Cause.CHALLENGER_SILENT, Cause.NOT_OPENED, Cause.SILENT}
"""What an honest peer that is cut off for too long may lose stake by; every other loss is proven by signed words."""

Check = tuple[bool, str, str]
"""Whether it holds, and what to say if it does and if not."""


def ground_of(cause: Cause) -> schema.Ground:
    """Return what a loss of stake stands on."""
    return "silence" if cause in SILENCE else "proof"


def judge(
    state: State, peers: Sequence[schema.PeerReport], penalties: Sequence[schema.PenaltyReport]
) -> schema.ResultReport:
    """Return the result."""
    checks = [_ended(state), _sealed(state), _settled(state)]
    lost = [_loss(peer, penalties) for peer in peers if peer.slashed]
    facts = [good if holds else bad for holds, good, bad in checks]
    return schema.ResultReport(
        all(holds for holds, _, _ in checks), _sentence(state, checks, penalties), tuple(facts), tuple(lost)
    )


def _ended(state: State) -> Check:
    return state.stage is Stage.ENDED, "the run ended and everything is settled", "the run has not ended"


def _sealed(state: State) -> Check:
    sealed = [worked for worked in state.rounds if worked.sealed is not None]
    if not sealed:
        return False, "", "no round was sealed"
    last = sealed[-1]
    signers = sum(ref == last.sealed for ref in last.seals.values())
    digest = last.sealed.digest.hex()[:16] if last.sealed is not None else ""
    others = len(last.seals) - signers
    told = f"{counted(signers, 'member')} signed the last state, {digest}"
    return True, f"{told}; {counted(others, 'member')} signed another" if others else told, ""


def _settled(state: State) -> Check:
    running = len(state.running)
    return not running, "no dispute is open", f"{counted(running, 'dispute')} still open"


def _loss(peer: schema.PeerReport, penalties: Iterable[schema.PenaltyReport]) -> str:
    """Return what one peer lost, and on what ground."""
    own = [entry for entry in penalties if entry.peer == peer.id]
    proven = [entry for entry in own if entry.ground == "proof"]
    told = f"{peer.name or peer.id} lost {amount(peer.slashed)}"
    if peer.status == "excluded":
        told += f" and was excluded in round {peer.excluded_in_round}"
    ground = "proven by what it signed" if proven else "for silence"
    return f"{told}, {ground}: {(proven or own)[0].reason}"


def _sentence(state: State, checks: Sequence[Check], penalties: Sequence[schema.PenaltyReport]) -> str:
    failed = [bad for holds, _, bad in checks if not holds]
    if failed:
        return f"The run fell short: {failed[0]}."
    proven = {entry.peer for entry in penalties if entry.ground == "proof"}
    silent = {entry.peer for entry in penalties} - proven
    grounds = ((proven, "by proof"), (silent, "by silence"))
    parts = [f"{counted(len(who), 'peer')} lost stake {how}" for who, how in grounds if who]
    trained = f"The swarm trained {counted(len(state.rounds), 'round')} to one state"
    return f"{trained}; {' and '.join(parts)}." if parts else f"{trained}, and nobody lost stake."
