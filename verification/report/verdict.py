"""Whether a run did what was asked of it, in one sentence and the facts behind it."""

from collections.abc import Mapping, Sequence
from typing import Any

from verification.report import schema
from verification.report.words import counted
from verification.state import Ruling, Stage, State

Event = Mapping[str, Any]


def judge(
    state: State,
    peers: Sequence[schema.PeerReport],
    events: Mapping[str, Sequence[Event]],
    evaluation: schema.EvaluationReport | None,
) -> schema.ResultReport:
    """Return the result. A peer that was started to cheat says so in its own events, so honest ones are known."""
    cheats = {
        str(e["peer"])
        for log in events.values()
        for e in log
        if e["kind"] == "started" and e.get("cheat") != "none"
    }
    cheats = {peer for peer in cheats if any(p.id == peer for p in peers)}
    digests = _final_digests(events, cheats)
    checks = [
        (state.stage is Stage.ENDED, "the run ended and everything is settled", "the run has not ended"),
        *_model_check(evaluation),
        *_cheat_checks(peers, cheats),
        _honest_check(peers, cheats),
        _digest_check(peers, cheats, digests),
    ]
    ok = all(holds for holds, _, _ in checks)
    facts = tuple(good if holds else bad for holds, good, bad in checks)
    return schema.ResultReport(ok, _sentence(state, checks, cheats), facts)


Check = tuple[bool, str, str]


def _model_check(evaluation: schema.EvaluationReport | None) -> list[Check]:
    if evaluation is None or evaluation.loss_before is None or evaluation.loss_after is None:
        return []
    before, after = evaluation.loss_before, evaluation.loss_after
    good = f"held-out loss fell from {before:.3f} to {after:.3f}"
    return [(after < before, good, f"held-out loss went from {before:.3f} to {after:.3f}")]


def _cheat_checks(peers: Sequence[schema.PeerReport], cheats: set[str]) -> list[Check]:
    return [
        (
            peer.slashed > 0 and peer.status == "excluded",
            f"{peer.name or peer.id} cheated and lost {peer.slashed}, excluded in round {peer.excluded_in_round}",
            f"{peer.name or peer.id} cheated and was not caught",
        )
        for peer in peers
        if peer.id in cheats
    ]


def _honest_check(peers: Sequence[schema.PeerReport], cheats: set[str]) -> Check:
    hurt = [peer.name or peer.id for peer in peers if peer.id not in cheats and peer.slashed]
    return not hurt, "no honest peer lost stake", f"honest peers lost stake: {', '.join(hurt)}"


def _digest_check(peers: Sequence[schema.PeerReport], cheats: set[str], digests: Mapping[str, str]) -> Check:
    honest = [peer for peer in peers if peer.id not in cheats]
    missing = [peer.name or peer.id for peer in honest if peer.id not in digests]
    values = {digests[peer.id] for peer in honest if peer.id in digests}
    shown = next(iter(values), "")[:16]
    good = f"all {counted(len(honest), 'honest peer')} ended on state {shown}"
    bad = f"honest peers ended on {len(values)} states; none shown by: {', '.join(missing) or 'nobody'}"
    return len(values) == 1 and not missing, good, bad


def _final_digests(events: Mapping[str, Sequence[Event]], cheats: set[str]) -> dict[str, str]:
    return {str(e["peer"]): str(e["digest"]) for log in events.values() for e in log if e["kind"] == "ended"}


def _sentence(state: State, checks: Sequence[Check], cheats: set[str]) -> str:
    failed = [bad for holds, _, bad in checks if not holds]
    if failed:
        return f"The run fell short: {failed[0]}."
    guilty = sum(dispute.ruling is Ruling.GUILTY for dispute in state.disputes)
    trained = f"The swarm trained {counted(len(state.rounds), 'round')} to one state"
    if not cheats:
        return f"{trained}, and nobody cheated."
    return f"{trained}, and caught, proved and slashed the cheat ({counted(guilty, 'conviction')})."
