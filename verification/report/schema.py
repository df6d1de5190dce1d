"""The report of a run as data: what happened, to whom, why, and what it cost.

Every report is folded from the ledger's log and the run's events; HTML, terminal and JSON are views of this one
record. What peers say of themselves in their own logs is marked as said: nobody checked it. Digests and addresses are
hexadecimal text, addresses with 0x. Money is `int` in the ledger's smallest unit. Times are ledger milliseconds. A
float is always finite: unknown or not finite is None.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

SCHEMA_VERSION = 6

Drawn = Literal["private", "public", "redraw"]
OutcomeName = Literal["pass", "mismatch", "lost", "void"]
PlaceName = Literal["prologue", "inner step", "epilogue", "outer step"]
RulingName = Literal["guilty", "innocent", "void", "open"]
Status = Literal["active", "suspended", "excluded", "left"]
Ground = Literal["proof", "silence"]


@dataclass(frozen=True)
class ContributionReport:
    """What one worker committed to in one round."""

    worker: Annotated[str, "Address of the worker."]
    steps: Annotated[int, "Inner steps that the commitment covers."]
    digest: Annotated[str, "Digest of the contribution."]
    norm: Annotated[float | None, "Norm of the pseudo-gradient before clipping."]
    included: Annotated[bool, "Whether the outer step of the round used it."]
    loss: Annotated[float | None, "Mean training loss of its inner steps, as the worker said."]


@dataclass(frozen=True)
class AuditReport:
    """One re-run of one worker's round by one verifier."""

    verifier: Annotated[str, "Address of the verifier that re-ran the round."]
    worker: Annotated[str, "Address of the worker whose round was re-run."]
    drawn: Annotated[
        Drawn, "How the audit was drawn: by the verifier's secret, by the beacon alone, or again."
    ]
    outcome: Annotated[
        OutcomeName, "Whether both committed to the same digests; lost and void audits never pass."
    ]


@dataclass(frozen=True)
class RoundReport:
    """One round: its state, its contributions and its audits."""

    number: Annotated[int, "Number of the round, from 0."]
    loss: Annotated[float | None, "Mean of the losses that workers said of what was included."]
    state_digest: Annotated[str, "Digest of the consensus state at the round's end."]
    opened_ms: Annotated[int, "Ledger time at which the round opened."]
    closed_ms: Annotated[int, "Ledger time at which the round closed."]
    contributions: Annotated[tuple[ContributionReport, ...], "One entry per worker that committed."]
    audits: Annotated[tuple[AuditReport, ...], "One entry per audit of this round's work."]


@dataclass(frozen=True)
class StakePoint:
    """A peer's stake at the end of a round."""

    round: Annotated[int, "Number of the round."]
    stake: Annotated[int, "Stake at the round's end."]


@dataclass(frozen=True)
class KernelsReport:
    """What a peer said in its own log of the kernels that its inner steps run on. Nobody checked it: no bit and no
    money depends on it, only speed."""

    products: Annotated[tuple[str, ...], "Backends of its exact products."]
    compiled: Annotated[bool, "Whether the rest of a step ran on compiled loops, and not node by node."]
    refused: Annotated[str, "Why compiled kernels that it could have had were not used; empty if they were."]
    over_float32: Annotated[
        float | None,
        "Time of a step over that of PyTorch's float32 on the same machine; null when not measured.",
    ]


@dataclass(frozen=True)
class ShardReport:
    """What a machine of a group holds of the model, and what the others cost it in the last step that it told of."""

    numbers: Annotated[int, "Numbers of the model's parameters that it holds."]
    first: Annotated[
        str, "Name of the first parameter that it holds, in the model's order; empty without one."
    ]
    last: Annotated[str, "Name of the last one."]
    waited_micros: Annotated[int, "Microseconds that it waited for the others."]
    sent: Annotated[int, "Bytes that it sent them."]
    received: Annotated[int, "Bytes that it received from them."]


@dataclass(frozen=True)
class GroupMemberReport:
    """A machine of a worker group, as its leader said in its own log; nobody checked it."""

    records: Annotated[int, "Records of an inner step that are its share."]
    micros: Annotated[
        int, "Microseconds that it computed in one, without what it waited for the others; 0: not known."
    ]
    shard: Annotated[
        ShardReport | None, "What it holds, where the machines divide the model; null: all of it."
    ] = None


@dataclass(frozen=True)
class PostReport:
    """The shard of the model that a peer holds in crews, and what it said in its own log of the rounds that it made
    with the others; nobody checked the latter."""

    cut: Annotated[int, "Number of the run's cut, from 0."]
    shard: Annotated[int, "Number of its shard there, from 0."]
    shards: Annotated[int, "Shards of that cut."]
    work: Annotated[float, "Its part of a crew's work units in an inner step."]
    parameters: Annotated[int, "Tensors of the model's parameters that it holds."]
    rounds: Annotated[int, "Rounds of its own that it told of."]
    millis: Annotated[int, "Milliseconds that these took it."]
    waited_millis: Annotated[int, "Milliseconds of these in which it waited for the others."]
    sent: Annotated[int, "Bytes of tensors that it gave its neighbours in them."]
    received: Annotated[int, "Bytes of tensors that it took from them."]


@dataclass(frozen=True)
class LogReport:
    """A peer's own log: what it says of itself, read for its own account alone."""

    lines: Annotated[int, "Lines that were its own and could be read."]
    left_out: Annotated[int, "Lines that were another's, or could not be read."]
    digest: Annotated[str, "Digest of the state on which it said that it ended; empty when it did not."]


@dataclass(frozen=True)
class PeerReport:
    """One peer's part in the run."""

    id: Annotated[str, "Address of the peer: 0x and 40 hexadecimal digits."]
    name: Annotated[str, "Name of its log, for people; empty when it has none."]
    role: Annotated[str, "Role in the run: worker, verifier or submitter."]
    stake_start: Annotated[int, "Stake at the join."]
    stake_end: Annotated[int, "Stake at the run's end."]
    rewards: Annotated[int, "All that the peer was paid, for rounds, audits and disputes."]
    slashed: Annotated[int, "All that was taken from the peer's stake and escrow."]
    commitments: Annotated[int, "Rounds that the peer committed to as a worker."]
    audits_passed: Annotated[int, "Audits of this peer's work that passed."]
    audits_failed: Annotated[int, "Audits of this peer's work that found a difference."]
    audits_done: Annotated[int, "Audits that the peer did as a verifier."]
    status: Annotated[Status, "Standing at the run's end."]
    excluded_in_round: Annotated[int | None, "Round in which the law excluded the peer; null if never."]
    stake_history: Annotated[tuple[StakePoint, ...], "Stake by round, ascending."]
    kernels: Annotated[
        KernelsReport | None, "What the peer said its steps run on, last; null when it said nothing readable."
    ]
    group: Annotated[
        tuple[GroupMemberReport, ...],
        "The machines that made its steps, as it said last, the leader first; none when it worked alone.",
    ]
    post: Annotated[
        PostReport | None, "The shard that it holds in crews; null of whoever works alone, or verifies."
    ]
    log: Annotated[LogReport | None, "What was read of its own log; null when it has none, or more than one."]


@dataclass(frozen=True)
class MoveReport:
    """One move in a dispute."""

    at_ms: Annotated[int, "Ledger time of the move."]
    actor: Annotated[str, "Address of who moved, or a word such as 'ledger'."]
    what: Annotated[str, "The move in one sentence."]


@dataclass(frozen=True)
class ListReport:
    """One list that the accused posted on the way down, and what the challenger contested of it."""

    what: Annotated[str, "What the list holds digests, numbers or totals of."]
    entries: Annotated[int, "Entries of the list; each may stand for several nodes, steps, rows or terms."]
    contested: Annotated[
        str, "The first entry that the challenger's own re-run does not give; empty if none."
    ]
    bytes: Annotated[int, "Bytes of the signed statement."]


@dataclass(frozen=True)
class InputReport:
    """One value that the disputed node reads."""

    value: Annotated[int, "Number of the value in the program."]
    name: Annotated[str, "Name of the program's input, operator of the node that makes it, or 'constant'."]
    origin: Annotated[str, "Where it comes from, and so what proves it."]
    tensor: Annotated[str, "Dtype, shape, and how many of its blocks the evidence brought."]
    bytes: Annotated[int, "Bytes of these blocks; 0 for what every replayer has, or nothing was brought of."]


@dataclass(frozen=True)
class ReadReport:
    """One number that the last step reads."""

    value: Annotated[int, "Number of the value in the program that it is a number of."]
    at: Annotated[tuple[int, ...], "Where it stands in that, along each dimension."]
    number: Annotated[str, "The number; of a float32 also its bits."]


@dataclass(frozen=True)
class LineReport:
    """One term of the number that was judged, or that number itself, as a person reckons it."""

    term: Annotated[int | None, "Number of the term, from 0; null for the number itself."]
    reads: Annotated[tuple[ReadReport, ...], "What it reads, in the order of reading."]
    text: Annotated[str, "What is reckoned with these numbers."]
    gives: Annotated[str, "What that gives, or that the step ends there."]


@dataclass(frozen=True)
class JudgedReport:
    """Where a dispute ended: one number of the node's result, or at most 64 terms of it."""

    index: Annotated[int, "Number of the number, counted in C order from 0."]
    shape: Annotated[tuple[int, ...], "Shape of the node's result."]
    at: Annotated[tuple[int, ...], "The number's place along each dimension."]
    dtype: Annotated[str, "Dtype of the node's result."]
    terms: Annotated[
        str, "Which of its terms were judged, and how they combine; empty for the number itself."
    ]
    totals: Annotated[tuple[str, ...], "Totals of the number on which both sides agreed before."]
    claimed: Annotated[str, "What the accused claimed; of a float32 also its bits."]
    right: Annotated[str, "What the law found."]
    rule: Annotated[str, "How each line comes from what it reads; empty where the operator's name says it."]
    given: Annotated[
        str, "The operator's attributes, and n, its number of terms; empty where it has neither."
    ]
    lines: Annotated[
        tuple[LineReport, ...],
        "The reckoning; empty where the number was judged in another dispute about it.",
    ]


@dataclass(frozen=True)
class DisputeReport:
    """One dispute: who accused whom of what, how it narrowed, and who was right."""

    number: Annotated[int, "Number of the dispute in the run, from 1."]
    round: Annotated[int, "Round whose work is disputed."]
    accused: Annotated[str, "Address of the accused."]
    accuser: Annotated[str, "Address of the challenger."]
    leaf: Annotated[int | None, "First leaf that differs; null when the dispute never came to one."]
    step: Annotated[int | None, "Inner step that differs, from 1; null outside inner steps or when unknown."]
    node: Annotated[int | None, "Node of the program that differs; null when the dispute never came to one."]
    operator: Annotated[str | None, "Operator of that node, with the dtype and shape that it makes."]
    near: Annotated[str | None, "Input or output of the program nearest to that node, which tells its layer."]
    place: Annotated[PlaceName, "Program in which the difference lies."]
    verdict: Annotated[RulingName, "Verdict on the accused; void moves no money, open is not settled yet."]
    cause: Annotated[str | None, "Why the law decided so, by name; null while it is open."]
    reason: Annotated[str, "The same in one sentence."]
    claimed_digest: Annotated[str, "Digest that the accused claimed; empty when none was posted."]
    computed_digest: Annotated[
        str, "Digest that an output should have; empty when no output was shown to be wrong."
    ]
    slashed: Annotated[int, "Amount taken from whoever was wrong."]
    rewarded: Annotated[int, "Part of it paid to whoever was right."]
    burned: Annotated[int, "Part of it destroyed."]
    moves: Annotated[tuple[MoveReport, ...], "Every move in the order of the ledger."]
    program: Annotated[str, "Digest of the program in dispute; empty when the ledger's log was not read."]
    lists: Annotated[tuple[ListReport, ...], "The way down, list by list."]
    inputs: Annotated[tuple[InputReport, ...], "What the disputed node reads, in its order."]
    judged: Annotated[
        JudgedReport | None, "What the law judged by itself; null when words alone, or nothing, decided."
    ]
    accused_bytes: Annotated[int, "Bytes of the accused's lists."]
    accuser_bytes: Annotated[int, "Bytes of the challenger's points and evidence."]


@dataclass(frozen=True)
class PenaltyReport:
    """What the law took from somebody at once, and why."""

    at_ms: Annotated[int, "Ledger time."]
    round: Annotated[int, "Round that was open then."]
    peer: Annotated[str, "Address of whoever lost it."]
    reason: Annotated[str, "Why, in one sentence."]
    ground: Annotated[
        Ground, "Whether its own signed words prove it, or it gave no answer in time, as one that is cut off."
    ]
    slashed: Annotated[int, "Amount taken from stake and escrow."]
    rewarded: Annotated[int, "Part of it paid to whoever showed it."]
    burned: Annotated[int, "Part of it destroyed."]


@dataclass(frozen=True)
class TrafficReport:
    """Bytes of one kind that one peer said it moved."""

    peer: Annotated[str, "Address of the peer."]
    kind: Annotated[str, "Kind of message or blob."]
    sent: Annotated[int, "Bytes sent."]
    received: Annotated[int, "Bytes received."]


@dataclass(frozen=True)
class MoneyReport:
    """Where the run's money is; the five parts add up to the total, or the ledger is wrong."""

    balances: Annotated[int, "Sum of free balances."]
    stakes: Annotated[int, "Sum of stakes."]
    escrow: Annotated[int, "Rewards whose window has not closed."]
    deposit: Annotated[int, "What is left of the submitter's deposit, the rounds' reserves included."]
    burned: Annotated[int, "All that was destroyed."]
    total: Annotated[int, "All that ever entered the ledger."]


@dataclass(frozen=True)
class AdversaryReport:
    """One way to gain by breaking the rules, under the run's parameters and what its submitter assumed."""

    name: Annotated[str, "The move."]
    how: Annotated[str, "Inequality that must hold for it not to pay."]
    gain: Annotated[int, "What it gains, expected, at most."]
    loss: Annotated[int, "What it costs, expected, at least."]
    pays: Annotated[bool, "Whether the gain is larger: such a run was made with --accept-unsound."]


@dataclass(frozen=True)
class EvaluationReport:
    """The model before and after, on data that no worker trained on, as the submitter said."""

    loss_before: Annotated[float | None, "Evaluation loss of the first state."]
    loss_after: Annotated[float | None, "Evaluation loss of the last state."]
    bytes_per_token: Annotated[
        float | None, "Bytes of text that a token stands for, on average; null where that is not known."
    ]
    sample_prompt: Annotated[str, "Prompt of the two samples."]
    sample_before: Annotated[str, "Text that the first state continues the prompt with."]
    sample_after: Annotated[str, "Text that the last state continues the prompt with."]


@dataclass(frozen=True)
class ResultReport:
    """What to remember of the run, by the ledger alone."""

    ok: Annotated[bool, "Whether the run ended with a sealed state and nothing is open."]
    sentence: Annotated[str, "The result in one sentence."]
    facts: Annotated[tuple[str, ...], "Sentences that bear it out."]
    lost: Annotated[tuple[str, ...], "What each peer lost that lost stake, and what shows it."]


@dataclass(frozen=True)
class Report:
    """One run, whole."""

    schema_version: Annotated[int, "Version of this schema; a reader refuses any other."]
    run: Annotated[str, "Digest that identifies the run."]
    manifest_digest: Annotated[str, "Digest of the manifest: programs, arithmetic, data, seed, parameters."]
    created_at_ms: Annotated[int, "Ledger time at which the run was created."]
    title: Annotated[str, "Name of the run for people."]
    parameters: Annotated[dict[str, int | str], "Parameters worth showing, by name."]
    rounds: Annotated[tuple[RoundReport, ...], "Closed rounds, ascending."]
    peers: Annotated[tuple[PeerReport, ...], "Everybody who ever joined."]
    disputes: Annotated[tuple[DisputeReport, ...], "Every dispute in the order of opening."]
    penalties: Annotated[tuple[PenaltyReport, ...], "Everything that was taken, in the order of the ledger."]
    traffic: Annotated[tuple[TrafficReport, ...], "Bytes moved, by peer and kind; empty when not recorded."]
    money: Annotated[MoneyReport, "Where the money is at the end."]
    economics: Annotated[tuple[AdversaryReport, ...], "What breaking the rules would gain and cost."]
    evaluation: Annotated[EvaluationReport | None, "The model before and after; null when not evaluated."]
    left_out: Annotated[int, "Lines of logs that are no account's own, or one of two that claim one account."]
    result: Annotated[ResultReport, "The result."]
