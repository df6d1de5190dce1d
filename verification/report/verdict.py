"""Whether a run did what was asked of it, in one sentence and the facts behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verification.adversaries.playbook import Ending, ending_of
from verification.report import schema
from verification.report.words import amount, counted
from verification.signing import checksum
from verification.state import Stage, State

Event = Mapping[str, Any]


def judge(
    state: State,
    peers: Sequence[schema.PeerReport],
    events: Mapping[str, Sequence[Event]],
    evaluation: schema.EvaluationReport | None,
) -> schema.ResultReport:
    """Return the result. A peer that was started to cheat says so in its own events, so honest ones are known."""
    cheats = {
        str(e["peer"]): Cheat(str(e["cheat"]), int(e.get("cheat_from", 0)))
        for log in events.values()
        for e in log
        if e["kind"] == "started" and e.get("cheat") != "none"
    }
    cheats = {p.id: cheats[p.id] for p in peers if p.id in cheats}
    digests = _final_digests(events, cheats)
    ends = [_cheat_check(state, peer, cheats[peer.id]) for peer in peers if peer.id in cheats]
    checks = [
        (state.stage is Stage.ENDED, "the run ended and everything is settled", "the run has not ended"),
        *_model_check(evaluation),
        *ends,
        _honest_check(peers, cheats),
        _digest_check(peers, cheats, digests),
    ]
    ok = all(holds for holds, _, _ in checks)
    facts = tuple(good if holds else bad for holds, good, bad in checks)
    told = tuple(good if holds else bad for holds, good, bad in ends)
    return schema.ResultReport(ok, _sentence(state, checks, peers, cheats), facts, told)


@dataclass(frozen=True)
class Cheat:
    """What a peer played, its names joined by commas, and from which round on."""

    names: str
    first: int


Check = tuple[bool, str, str]


def _model_check(evaluation: schema.EvaluationReport | None) -> list[Check]:
    if evaluation is None or evaluation.loss_before is None or evaluation.loss_after is None:
        return []
    before, after = evaluation.loss_before, evaluation.loss_after
    good = f"held-out loss fell from {before:.3f} to {after:.3f}"
    return [(after < before, good, f"held-out loss went from {before:.3f} to {after:.3f}")]


def _cheat_check(state: State, peer: schema.PeerReport, cheat: Cheat) -> Check:
    """Return whether the run ended for a cheat as `playbook` says it must."""
    ending, how = ending_of(cheat.names.split(","))
    who = f"{peer.name or peer.id} ({cheat.names})"
    lost = f"{who} lost {amount(peer.slashed)}"
    if peer.status == "excluded":
        lost += f" and was excluded in round {peer.excluded_in_round}"
    if ending is Ending.UNPAID:
        included = [w.number for w in state.rounds if any(checksum(a) == peer.id for a in w.included)]
        paid = sum(number >= cheat.first for number in included)
        return not paid, f"{who} was paid for nothing: {how}", f"{who} cheated and was paid for {paid} rounds"
    if ending is Ending.HARMLESS:
        return True, f"{lost if peer.slashed else f'{who} harmed nobody'}: {how}", ""
    caught = peer.slashed > 0 and (ending is Ending.FINED or peer.status == "excluded")
    return caught, f"{lost}: {how}", f"{who} cheated and was not caught"


def _honest_check(peers: Sequence[schema.PeerReport], cheats: Mapping[str, Cheat]) -> Check:
    hurt = [peer.name or peer.id for peer in peers if peer.id not in cheats and peer.slashed]
    return not hurt, "no honest peer lost stake", f"honest peers lost stake: {', '.join(hurt)}"


def _digest_check(
    peers: Sequence[schema.PeerReport], cheats: Mapping[str, Cheat], digests: Mapping[str, str]
) -> Check:
    honest = [peer for peer in peers if peer.id not in cheats]
    missing = [peer.name or peer.id for peer in honest if peer.id not in digests]
    values = {digests[peer.id] for peer in honest if peer.id in digests}
    shown = next(iter(values), "")[:16]
    good = f"all {counted(len(honest), 'honest peer')} ended on state {shown}"
    bad = f"honest peers ended on {len(values)} states; none shown by: {', '.join(missing) or 'nobody'}"
    return len(values) == 1 and not missing, good, bad


def _final_digests(events: Mapping[str, Sequence[Event]], cheats: Mapping[str, Cheat]) -> dict[str, str]:
    return {str(e["peer"]): str(e["digest"]) for log in events.values() for e in log if e["kind"] == "ended"}


def _sentence(
    state: State, checks: Sequence[Check], peers: Sequence[schema.PeerReport], cheats: Mapping[str, Cheat]
) -> str:
    failed = [bad for holds, _, bad in checks if not holds]
    if failed:
        return f"The run fell short: {failed[0]}."
    trained = f"The swarm trained {counted(len(state.rounds), 'round')} to one state"
    if not cheats:
        return f"{trained}, and nobody cheated."
    if any(peer.slashed for peer in peers if peer.id in cheats):
        return f"{trained}; the cheat was caught and slashed."
    return f"{trained}; the cheat gained nothing."
