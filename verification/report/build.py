"""From the ledger's entries and the peers' events to a Report. Pure: whoever reads the files passes what they hold."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from verification import economics
from verification import effects as done
from verification.manifest import Manifest, Place, Post, digest_of_manifest
from verification.report import said, schema, words
from verification.report.descent import Descent
from verification.report.said import Event, Own
from verification.report.verdict import ground_of, judge
from verification.signing import checksum
from verification.state import Audit, Dispute, Member, RoundState, Ruling, Standing, State, total_money
from verification.units import Address, Millis, Round

FIRST = Round(0)
NO_WAY = Descent("", (), (), None, 0, 0)
OUTCOMES: dict[Audit, schema.OutcomeName] = {
    Audit.PASSED: "pass",
    Audit.MISMATCH: "mismatch",
    Audit.LOST: "lost",
    Audit.VOID: "void",
}
STATUSES: dict[Standing, schema.Status] = {
    Standing.ACTIVE: "active",
    Standing.AWAY: "left",
    Standing.SUSPENDED: "suspended",
    Standing.EXCLUDED: "excluded",
}


@dataclass
class History:
    """What the effects tell beyond the final state: when things happened, and stakes by round."""

    opened: dict[Round, Millis] = field(default_factory=dict)
    closed: dict[Round, Millis] = field(default_factory=dict)
    stakes: dict[Address, int] = field(default_factory=dict)
    joined: dict[Address, int] = field(default_factory=dict)
    by_round: dict[Address, list[schema.StakePoint]] = field(default_factory=lambda: defaultdict(list))
    excluded: dict[Address, Round] = field(default_factory=dict)
    audits: dict[tuple[Round, Round, Address, Address], done.AuditEnded] = field(default_factory=dict)
    moves: dict[int, list[schema.MoveReport]] = field(default_factory=lambda: defaultdict(list))
    penalties: list[schema.PenaltyReport] = field(default_factory=list)
    round: Round = FIRST

    def take(self, at: Millis, effect: done.Effect) -> None:
        """Fold one effect in."""
        match effect:
            case done.MemberJoined():
                self.joined[effect.address] = self.stakes[effect.address] = effect.stake
            case done.RoundOpened():
                self.round = effect.number
                self.opened[effect.number] = at
            case done.RoundSealed():
                self.closed[effect.number] = at
                self._note_stakes(effect.number)
            case done.Slashed():
                self.stakes[effect.address] -= effect.stake
                who, taken = checksum(effect.address), effect.stake + effect.escrow
                self.penalties.append(
                    schema.PenaltyReport(
                        at,
                        self.round,
                        who,
                        words.penalty(effect.reason),
                        ground_of(effect.reason.cause),
                        taken,
                        effect.rewarded,
                        effect.burned,
                    )
                )
            case done.StandingChanged() if effect.standing is Standing.EXCLUDED:
                self.excluded.setdefault(effect.address, self.round)
            case done.AuditEnded() if effect.outcome is not Audit.WAITING:
                self.audits[effect.session, effect.work, effect.worker, effect.verifier] = effect
            case done.DisputeOpened():
                self._move(effect.number, at, effect.challenger, f"contests the {effect.place.value}")
            case done.DisputeMoved():
                self._move(effect.number, at, effect.actor, words.move(effect))
            case done.DisputeEnded():
                self._move(
                    effect.number, at, None, f"rules {effect.ruling.value}: {words.CAUSES[effect.cause]}"
                )

    def _note_stakes(self, number: Round) -> None:
        for address, stake in self.stakes.items():
            self.by_round[address].append(schema.StakePoint(number, stake))

    def _move(self, number: int, at: Millis, actor: Address | None, what: str) -> None:
        name = "the law" if actor is None else checksum(actor)
        self.moves[number].append(schema.MoveReport(at, name, what))


def build_report(
    state: State,
    effects: Iterable[tuple[Millis, done.Effect]],
    events: Mapping[str, Sequence[Event]],
    created: Millis,
    ways: Mapping[int, Descent] = MappingProxyType({}),
) -> schema.Report:
    """Return the report of a run: its final state, its effects in order, and each peer's own log by the log's name.

    Logs count for their own account only (`verification.report.said`). `ways` holds each dispute's way down by its
    number, from whoever has read the statements.
    """
    history = History()
    for at, effect in effects:
        history.take(at, effect)
    history._note_stakes(Round(len(state.rounds)))
    own, left_out = said.read(state, events)
    rounds = tuple(_round(worked, history, own) for worked in state.rounds if worked.sealed is not None)
    peers = tuple(_peer(member, state, history, own) for _, member in sorted(state.members.items()))
    peers = tuple(sorted(peers, key=lambda peer: (peer.role != "worker", peer.name, peer.id)))
    penalties = tuple(history.penalties)
    submitter = own.get(checksum(state.submitter))
    return schema.Report(
        schema_version=schema.SCHEMA_VERSION,
        run=state.run.hex(),
        manifest_digest=digest_of_manifest(state.manifest).hex(),
        created_at_ms=created,
        title=state.manifest.title,
        parameters=_parameters(state),
        rounds=rounds,
        peers=peers,
        disputes=tuple(
            _dispute(state, number, history, ways.get(number, NO_WAY))
            for number in range(len(state.disputes))
        ),
        penalties=penalties,
        traffic=_traffic(own),
        money=_money(state),
        economics=tuple(
            schema.AdversaryReport(row.name, row.how, row.gain, row.loss, row.pays)
            for row in economics.adversaries(state.manifest)
        ),
        evaluation=None if submitter is None else submitter.evaluation,
        left_out=left_out,
        result=judge(state, peers, penalties),
    )


def _round(worked: RoundState, history: History, own: Mapping[str, Own]) -> schema.RoundReport:
    contributions = tuple(
        schema.ContributionReport(
            worker=checksum(worker),
            steps=worked.assignments[worker].steps,
            digest=commit.contribution.digest.hex(),
            norm=math.sqrt(commit.norm),
            included=worked.was_included(worker),
            loss=own[who].losses.get(worked.number) if (who := checksum(worker)) in own else None,
        )
        for worker, commit in worked.commits.items()
    )
    known = [part.loss for part in contributions if part.included and part.loss is not None]
    assert worked.sealed is not None
    return schema.RoundReport(
        number=worked.number,
        loss=sum(known) / len(known) if known else None,
        state_digest=worked.sealed.digest.hex(),
        opened_ms=history.opened[worked.number],
        closed_ms=history.closed[worked.number],
        contributions=contributions,
        audits=tuple(
            _audit(audit, history)
            for key, audit in sorted(history.audits.items())
            if audit.work == worked.number
        ),
    )


def _audit(audit: done.AuditEnded, history: History) -> schema.AuditReport:
    drawn: schema.Drawn = "private" if audit.drawn == "private" else "public"
    place = (audit.work, audit.worker)
    undecided = (Audit.LOST, Audit.MISMATCH)
    earlier = [a for k, a in history.audits.items() if k[0] < audit.session and k[1:3] == place]
    if any(other.outcome in undecided for other in earlier):
        drawn = "redraw"
    return schema.AuditReport(
        checksum(audit.verifier), checksum(audit.worker), drawn, OUTCOMES[audit.outcome]
    )


def _peer(member: Member, state: State, history: History, logs: Mapping[str, Own]) -> schema.PeerReport:
    said_of_itself = logs.get(checksum(member.address))
    own = [
        audit
        for audit in history.audits.values()
        if audit.worker == state.rounds[audit.work].crews.get(member.address, (None,))[0]
    ]
    stakes = history.by_round[member.address]
    return schema.PeerReport(
        id=checksum(member.address),
        name="" if said_of_itself is None else said_of_itself.name,
        role=member.role,
        stake_start=history.joined[member.address],
        stake_end=history.stakes[member.address],
        rewards=member.rewards,
        slashed=member.slashed,
        commitments=sum(member.address in worked.commits for worked in state.rounds),
        audits_passed=sum(audit.outcome is Audit.PASSED for audit in own),
        audits_failed=sum(audit.outcome is Audit.MISMATCH for audit in own),
        audits_done=sum(
            audit.verifier == member.address and audit.outcome in (Audit.PASSED, Audit.MISMATCH)
            for audit in history.audits.values()
        ),
        status=STATUSES[member.standing],
        excluded_in_round=history.excluded.get(member.address),
        stake_history=tuple(stakes),
        kernels=None if said_of_itself is None else said_of_itself.kernels,
        group=() if said_of_itself is None else said_of_itself.group,
        post=None if member.post is None else _post(state.manifest, member.post, said_of_itself),
        log=None if said_of_itself is None else said_of_itself.log,
    )


def _post(manifest: Manifest, post: Post, said: Own | None) -> schema.PostReport:
    shards = manifest.cuts[post.cut].shards
    own, units = manifest.shard(post), [int(each.units.inner) for each in shards]
    shares = [] if said is None else list(said.shares.values())
    told = (sum(share[place] for share in shares) for place in range(4))
    return schema.PostReport(
        int(post.cut),
        int(post.shard),
        len(shards),
        own.units.inner / sum(units),
        len(own.parameters),
        len(shares),
        *told,
    )


def _dispute(state: State, number: int, history: History, way: Descent) -> schema.DisputeReport:
    dispute = state.disputes[number]
    return schema.DisputeReport(
        number=number + 1,
        round=dispute.round,
        accused=checksum(dispute.accused),
        accuser=checksum(dispute.challenger),
        leaf=dispute.leaf,
        step=dispute.game.high if dispute.place is Place.STEP else None,
        node=dispute.game.node,
        operator=dispute.operator or None,
        near=dispute.near or None,
        place=dispute.place.value,
        verdict=dispute.ruling.value if dispute.ruling is not None else "open",
        cause=None if dispute.cause is None else dispute.cause.name,
        reason=_reason(state, dispute),
        claimed_digest=dispute.game.claimed.hex(),
        computed_digest=dispute.computed.hex() if dispute.computed is not None else "",
        slashed=dispute.slashed,
        rewarded=dispute.rewarded,
        burned=dispute.burned,
        moves=tuple(history.moves[number]),
        program=way.program,
        lists=way.lists,
        inputs=way.inputs,
        judged=way.judged,
        accused_bytes=way.accused_bytes,
        accuser_bytes=way.accuser_bytes,
    )


def _reason(state: State, dispute: Dispute) -> str:
    """Return why a dispute ended so; of several about one fault, only one carries the money."""
    told = "" if dispute.cause is None else words.CAUSES[dispute.cause]
    if dispute.ruling is not Ruling.GUILTY or dispute.slashed:
        return told
    fault = (dispute.round, dispute.accused, dispute.place, dispute.leaf)
    for other in state.disputes:
        if other.slashed and (other.round, other.accused, other.place, other.leaf) == fault:
            return f"{told}; the money is in dispute {other.number + 1}, shared by all who were right"
    return told


def _traffic(own: Mapping[str, Own]) -> tuple[schema.TrafficReport, ...]:
    rows = [(who, kind, moved) for who, one in own.items() for kind, moved in one.traffic.items()]
    return tuple(schema.TrafficReport(who, kind, *moved) for who, kind, moved in sorted(rows))


def _money(state: State) -> schema.MoneyReport:
    members = state.members.values()
    return schema.MoneyReport(
        balances=sum(state.balances.values()),
        stakes=sum(member.stake for member in members),
        escrow=sum(sum(member.escrow.values()) for member in members),
        deposit=state.deposit + sum(worked.reserve for worked in state.rounds),
        burned=state.burned,
        total=total_money(state),
    )


def _parameters(state: State) -> dict[str, int | str]:
    manifest = state.manifest
    work, money, origin = manifest.work, manifest.money, manifest.origin
    ancestor: dict[str, int | str] = {}
    if origin is not None:
        ancestor = {"goes on from run": origin.run.hex(), "after its round": origin.round}
    return ancestor | {
        "arithmetic": manifest.arithmetic,
        "rounds": work.rounds,
        "inner steps a round, at most": work.max_steps,
        "steps between leaves": work.leaf_every,
        "batch": work.batch,
        "records": manifest.data.records,
        "audit rate per verifier": f"{100 * work.audit_rate / 1_000_000:.1f}%",
        "chance that an honest verifier audits a round": f"{100 * float(economics.audit_chance(manifest)):.1f}%",
        "verifiers assumed to collude": f"{economics.colluders(manifest)} of {work.min_verifiers}",
        "a wrong round is worth, by assumption": manifest.assumptions.sabotage,
        "worker stake": money.worker_stake,
        "verifier stake": money.verifier_stake,
        "reward per inner step": money.reward_per_step,
        "fee per audited step": money.fee_per_step,
        "slash by conviction": ", ".join(f"{grade / 10_000:g}%" for grade in money.slash_grades),
    }
