"""What the views show and the report does not state outright: totals, the audit matrix, series for the charts."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from verification.report import words
from verification.report.charts import Mark, Series
from verification.report.schema import DisputeReport, PeerReport, Report

Cell = Literal["trained", "passed", "mismatch", "convicted", "absent", "excluded"]
MAX_END_LABELS = 10


@dataclass(frozen=True)
class Look:
    """How a cell of the matrix reads: a sign for the eye and words for everybody."""

    sign: str
    words: str


LOOKS: dict[Cell, Look] = {
    "passed": Look("✓", "trained, audit passed"),
    "trained": Look("·", "trained, not audited"),
    "mismatch": Look("≠", "audit found a difference"),
    "convicted": Look("✕", "convicted for this round"),
    "excluded": Look("–", "excluded"),
    "absent": Look("", "no work"),
}


@dataclass(frozen=True)
class MatrixRow:
    """One worker's cells, one per round of the report."""

    worker: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class WorkerSummary:
    """One worker's contributions over the whole run."""

    worker: str
    rounds: int
    included: int
    steps: int
    mean_norm: float | None
    last_loss: float | None


@dataclass(frozen=True)
class Totals:
    """Counts over the whole run; `audits` are those that were re-run, `undecided` those that were lost or void."""

    commitments: int
    included: int
    audits: int
    passed: int
    mismatches: int
    undecided: int
    convicted: tuple[str, ...]
    first_loss: float | None
    last_loss: float | None
    slashed: int
    burned: int
    bytes_sent: int
    span_ms: int


def totals(report: Report) -> Totals:
    """Return the run's totals; convicted are addresses, each once, in the order of their first conviction."""
    outcomes = Counter(audit.outcome for one in report.rounds for audit in one.audits)
    losses = [one.loss for one in report.rounds if one.loss is not None]
    given = [entry.included for one in report.rounds for entry in one.contributions]
    return Totals(
        commitments=len(given),
        included=sum(given),
        audits=outcomes["pass"] + outcomes["mismatch"],
        passed=outcomes["pass"],
        mismatches=outcomes["mismatch"],
        undecided=outcomes["lost"] + outcomes["void"],
        convicted=tuple(
            dict.fromkeys(
                [
                    *(dispute.accused for dispute in convictions(report)),
                    *(peer.id for peer in report.peers if peer.slashed and peer.status == "excluded"),
                ]
            )
        ),
        first_loss=losses[0] if losses else None,
        last_loss=losses[-1] if losses else None,
        slashed=sum(peer.slashed for peer in report.peers),
        burned=report.money.burned,
        bytes_sent=sum(entry.sent for entry in report.traffic),
        span_ms=report.rounds[-1].closed_ms - report.rounds[0].opened_ms if report.rounds else 0,
    )


def convictions(report: Report) -> tuple[DisputeReport, ...]:
    """Return the disputes that ended with a verdict of guilty."""
    return tuple(dispute for dispute in report.disputes if dispute.verdict == "guilty")


def conserved(report: Report) -> int:
    """Return how far the money's parts are from the total: 0 in a sound ledger."""
    money = report.money
    return money.balances + money.stakes + money.escrow + money.deposit + money.burned - money.total


def workers(report: Report) -> tuple[str, ...]:
    """Return the addresses of everybody who worked: peers first, in their order, then authors of commitments."""
    named = [peer.id for peer in report.peers if "worker" in peer.role or peer.commitments]
    seen = [entry.worker for one in report.rounds for entry in one.contributions]
    return tuple(dict.fromkeys(named + seen))


def matrix(report: Report) -> tuple[MatrixRow, ...]:
    """Return what happened to each worker in each round; the gravest event of a round is shown."""
    found: dict[tuple[str, int], set[str]] = defaultdict(set)
    for one in report.rounds:
        for entry in one.contributions:
            found[entry.worker, one.number].add("trained")
        for audit in one.audits:
            found[audit.worker, one.number].add(audit.outcome)
    for dispute in convictions(report):
        found[dispute.accused, dispute.round].add("guilty")
    excluded = {peer.id: peer.excluded_in_round for peer in report.peers}
    return tuple(
        MatrixRow(
            worker,
            tuple(
                _cell(found[worker, one.number], excluded.get(worker), one.number) for one in report.rounds
            ),
        )
        for worker in workers(report)
    )


def _cell(events: set[str], excluded_in: int | None, number: int) -> Cell:
    if "guilty" in events:
        return "convicted"
    if "mismatch" in events:
        return "mismatch"
    if "pass" in events:
        return "passed"
    if "trained" in events:
        return "trained"
    return "excluded" if excluded_in is not None and number >= excluded_in else "absent"


def summaries(report: Report) -> Iterator[WorkerSummary]:
    """Yield what each worker contributed over the run."""
    by_worker = defaultdict(list)
    for one in report.rounds:
        for entry in one.contributions:
            by_worker[entry.worker].append(entry)
    for worker in workers(report):
        entries = by_worker[worker]
        norms = [entry.norm for entry in entries if entry.norm is not None]
        losses = [entry.loss for entry in entries if entry.loss is not None]
        yield WorkerSummary(
            worker=worker,
            rounds=len(entries),
            included=sum(entry.included for entry in entries),
            steps=sum(entry.steps for entry in entries),
            mean_norm=sum(norms) / len(norms) if norms else None,
            last_loss=losses[-1] if losses else None,
        )


def loss_series(report: Report) -> Series:
    """Return the loss by round; rounds without one are left out."""
    points = tuple((float(one.number), one.loss) for one in report.rounds if one.loss is not None)
    return Series("loss", points, dots=True)


def conviction_marks(report: Report, names: words.Names) -> tuple[Mark, ...]:
    """Return one mark per convicted worker and round."""
    pairs = dict.fromkeys((dispute.round, dispute.accused) for dispute in convictions(report))
    return tuple(Mark(number, f"{names(accused)} convicted") for number, accused in pairs)


def stake_series(report: Report, names: words.Names) -> tuple[Series, ...]:
    """Return every peer's stake by round; lines that end at one stake share one label.

    The convicted are drawn last, so that their lines lie on top and keep labels of their own.
    """
    guilty = set(totals(report).convicted)
    peers = [peer for peer in report.peers if peer.stake_history]
    groups: dict[tuple[int, bool], list[PeerReport]] = defaultdict(list)
    for peer in peers:
        groups[peer.stake_history[-1].stake, peer.id in guilty].append(peer)
    ranked = sorted(groups, key=lambda key: (not key[1], -len(groups[key])))
    labels = {groups[key][0].id: _group_label(groups[key], names) for key in ranked[:MAX_END_LABELS]}
    return tuple(
        Series(
            _stake_style(peer, guilty),
            tuple((float(point.round), float(point.stake)) for point in peer.stake_history),
            labels.get(peer.id, ""),
            stepped=True,
        )
        for peer in sorted(peers, key=lambda peer: peer.id in guilty)
    )


def _group_label(peers: list[PeerReport], names: words.Names) -> str:
    if len(peers) <= 2:
        joined = ", ".join(names(peer.id) for peer in peers)
        return joined if len(joined) <= 20 or len(peers) == 1 else f"{names(peers[0].id)} + 1"
    roles = {peer.role for peer in peers}
    return words.counted(len(peers), words.one_line(roles.pop()) if len(roles) == 1 else "peer")


def _stake_style(peer: PeerReport, guilty: set[str]) -> str:
    if peer.id in guilty:
        return "guilty"
    return "verifier" if "verifier" in peer.role else "worker"
