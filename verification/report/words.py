"""Numbers, digests and disputes in plain words, the same in HTML and terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from verification.causes import Cause, Reason
from verification.debts import ChunkDebt, Debt, LinkDebt, MoveDebt, OpeningDebt, RevealDebt
from verification.effects import DisputeMoved, Move
from verification.evidence.file import Finding, Trust
from verification.report.schema import (
    DisputeReport,
    EvaluationReport,
    GroupMemberReport,
    JudgedReport,
    KernelsReport,
    PostReport,
    Report,
    ShardReport,
)
from verification.signing import checksum

SHORT_DIGEST = 12
KEPT = "\n\t\u00a0\u202f"
"""Signs that Python calls unprintable and that do no harm: line breaks and unbreakable spaces."""
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
VERDICTS = {
    "guilty": "the accused was wrong",
    "innocent": "the accuser was wrong",
    "void": "nobody could decide, no money moved",
    "open": "not settled yet",
}


CAUSES = {
    Cause.STATES_TOO_FEW: "its list of states does not have the interval's length",
    Cause.STATES_END: "its list of states does not end in the value it replaces",
    Cause.STATES_GO_ON: "its list of states goes on after a state that stands for a failure",
    Cause.TRACE_FAILS_ELSE: "its trace ends in another failure than it claimed",
    Cause.TRACE_OUTPUTS: "the outputs of its trace do not fold to the value it claimed",
    Cause.TRACE_TOO_SHORT: "its trace does not have the program's length",
    Cause.TRACE_GOES_ON: "its trace goes on after a node that fails",
    Cause.NODES_TOO_FEW: "its list of nodes does not have the segment's length",
    Cause.NODES_FOLD: "its list of nodes does not fold to the entry it replaces",
    Cause.WRONG_OUTPUT: "an output is not what its own trace gives",
    Cause.PART_TOO_FEW: "its list of a result's part does not have its length",
    Cause.PART_FOLDS: "its list of a result's part does not fold to the entry it replaces",
    Cause.BLOCK_SIZE: "its block does not have its length",
    Cause.BLOCK_BYTES: "its block's bytes do not hash to the entry they replace",
    Cause.BLOCK_FORM: "its block holds what is no number of its dtype",
    Cause.TOTALS_TOO_FEW: "its list of a number's totals does not have the operator's length",
    Cause.RANGES_TOO_FEW: "its list of a total's parts does not have its length",
    Cause.RANGES_ADD_UP: "its parts of a total do not add up to it",
    Cause.FAILS_NOWHERE: "it says that a node fails where none of its kind can",
    Cause.WRONG_NUMBER: "the law computes another number than the accused claimed",
    Cause.WRONG_RANGE: "the law adds the terms up to another total than the accused claimed",
    Cause.FAILS_NOT: "the law finds a number where the accused claimed that the node fails",
    Cause.RIGHT_NUMBER: "the law computes what the accused claimed",
    Cause.FAILED_BEFORE: "the round had failed before, as both agree, and a failure stays what it is",
    Cause.ACCUSED_SILENT: "the accused stayed silent",
    Cause.CHALLENGER_SILENT: "the challenger stayed silent",
    Cause.ROUND_CONVICTED: "the round is convicted",
    Cause.SPOILED_SIZE: "its contribution has {count} bytes, which no contribution has",
    Cause.SPOILED_BYTES: "its contribution's bytes do not decode",
    Cause.SPOILED_BUNDLE: "its contribution's bytes are those of another bundle",
    Cause.SPOILED_SHAPES: "its contribution has not the dtypes and shapes of its program's outputs",
    Cause.SPOILED_NORM: "its contribution's norm is not the one that it committed to",
    Cause.CONTRADICTION: "said two different things in slot {about}",
    Cause.NOT_OPENED: "did not open its leaves of round {round}",
    Cause.NOT_AUDITED: "said that it had audited round {round}",
    Cause.SILENT: "stayed silent about {about}",
    Cause.CONVICTED: "convicted of a wrong {place} in round {round}",
    Cause.CONVICTED_SPOILED: "convicted of a spoiled contribution in round {round}",
    Cause.POOR: "its stake no longer covers a wrong accusation",
    Cause.OWES: "owes {about}",
    Cause.PAID: "gave what it owed",
    Cause.ANNOUNCED: "announced itself again",
    Cause.MISSED: "missed {count} rounds",
    Cause.IDLE: "left its audits of {count} sessions undone",
    Cause.NOT_SHOWN: "never showed {about}",
    Cause.GATHERED: "enough members joined",
    Cause.STALLED: "no round closed for too long",
    Cause.ROUNDS_DONE: "all rounds are done",
    Cause.DEPOSIT_SPENT: "the deposit cannot pay another round",
    Cause.SETTLED: "everything is settled",
}
"""What every cause is called, with the facts that it names in braces."""

SPOILED = {
    Cause.SPOILED_SIZE,
    Cause.SPOILED_BYTES,
    Cause.SPOILED_BUNDLE,
    Cause.SPOILED_SHAPES,
    Cause.SPOILED_NORM,
}


@dataclass(frozen=True)
class Story:
    """A dispute in three plain paragraphs."""

    wrong: str
    shown: str
    settled: str


def printable(text: str) -> str:
    """Return `text` with every character that could steer a terminal or reorder a line replaced by a dot."""
    return "".join(sign if sign.isprintable() or sign in KEPT else "·" for sign in text)


def one_line(text: str) -> str:
    """Return `text` as one printable line."""
    return " ".join(printable(text).split())


def amount(value: int) -> str:
    """Return money with thousands separated by thin spaces that do not break."""
    return f"{value:,}".replace(",", "\u202f")


def short(digest: str) -> str:
    """Return the beginning of a digest or an address, enough to compare by eye."""
    return digest if len(digest) <= SHORT_DIGEST + 2 else digest[:SHORT_DIGEST] + "…"


def data_size(count: int) -> str:
    """Return a number of bytes in decimal units."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 or value >= 99.5 else f"{value:.1f} {UNITS[unit]}"


def duration(millis: int) -> str:
    """Return a time span with the two units that matter."""
    seconds = max(millis, 0) / 1000
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def loss(value: float | None) -> str:
    """Return a loss to three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def losses(evaluation: EvaluationReport, verb: str = "→") -> str:
    """Return the losses before and after: a token's, and a byte's where bytes are known."""
    before, after, size = evaluation.loss_before, evaluation.loss_after, evaluation.bytes_per_token
    told = f"{loss(before)} {verb} {loss(after)}"
    if not size or before is None or after is None:
        return told
    by_byte = f"{loss(before / size)} {verb} {loss(after / size)} nats a byte"
    return by_byte if size == 1 else f"{told} nats a token, {by_byte}"


def counted(number: int, word: str, plural: str = "") -> str:
    """Return `number` and the word in its right form."""
    return f"{amount(number)} {word if number == 1 else plural or word + 's'}"


def reason(why: Reason) -> str:
    """Return why the law did something, in words without a full stop."""
    about = debt(why.debt) if why.debt is not None else why.about
    return CAUSES[why.cause].format(round=why.round, place=why.place, count=why.count, about=about)


def penalty(why: Reason) -> str:
    """Return why somebody lost money: the reason, after the work that was wrong where there is any."""
    if why.place is None:
        return reason(why)
    what = "spoiled contribution" if why.cause in SPOILED else why.place.value
    return f"{what} of round {why.round}: {reason(why)}"


def trust(finding: Finding) -> list[str]:
    """Return what a file of evidence takes on trust, a line for each."""
    head = "" if finding.head is None else f"head {finding.head.hex()}, which the accused signed over"
    owed = "" if finding.reason.debt is None else debt(finding.reason.debt)
    record = f"record of round {finding.round} (start state, what entered it, and the weights)"
    lines = {
        Trust.HEAD: head,
        Trust.CLOCK: f"clock and log: that {owed} was due and did not come before its time ran out",
        Trust.BEACON: f"beacon of round {finding.round} under its {head}",
        Trust.RECORD: f"{record} under its {head}",
    }
    return [f"the ledger's {lines[one]}" for one in finding.trust]


def debt(owed: Debt) -> str:
    """Return what a member owes, in words that go after "owes". Disputes count from 1, as in the report."""
    match owed:
        case OpeningDebt(number):
            return f"the opening of its leaves of round {number}"
        case RevealDebt(work, worker):
            return f"its verdict about {short(checksum(worker))} in round {work}"
        case LinkDebt(session):
            return f"its link of session {session}"
        case MoveDebt(dispute):
            return f"its next move in dispute {dispute + 1}"
        case ChunkDebt(demand):
            return f"the chunk of demand {demand + 1}"


def move(moved: DisputeMoved) -> str:
    """Return one move of a dispute in words, without who makes it."""
    first, last = moved.first, moved.last
    match moved.move:
        case Move.LISTS_STATES:
            return f"listed {first} state digests"
        case Move.LISTS_NODES:
            return f"listed {first} digests of nodes"
        case Move.CONTESTS_STATE:
            return f"contests the state after step {first}"
        case Move.CONTESTS_NODES if moved.operator:
            return f"contests node {first}, {moved.operator}"
        case Move.CONTESTS_NODES:
            return f"contests {some('node', first, last)}"
        case Move.CONTESTS_NUMBERS:
            return f"contests {some('number', first, last)} of {moved.operator}"
        case Move.CONTESTS_TERMS:
            return f"contests {some('term', first, last)} of its number"
        case Move.LISTS_PARTS:
            return f"listed {first} digests of parts of its result"
        case Move.SHOWS_BLOCK:
            return f"showed {data_size(first)} of its result"
        case Move.LISTS_TOTALS:
            return f"listed {counted(first, 'total')} of its number"
        case Move.LISTS_RANGES:
            return f"listed {first} parts of a total"
        case Move.NAMES_FAILURE:
            return f"named number {first} as where its node fails"
        case Move.SHOWS_OUTPUT:
            return f"shows that output {first} is not what it should be"
        case Move.BRINGS_INPUTS:
            return f"brought what is read of the inputs of node {first}"


def some(what: str, first: int, last: int) -> str:
    """Return one numbered thing, or several in a row: "row 3", "rows 3 to 5"."""
    return f"{what} {first}" if first == last else f"{what}s {first} to {last}"


def place(judged: JudgedReport) -> str:
    """Return which number was judged: its flat index, the shape, and where it stands in that."""
    shape, at = list(judged.shape), list(judged.at)
    where_in = {0: "", 1: ""}.get(len(at), f" (at {at})")
    if len(at) == 2:
        where_in = f" (row {at[0]}, column {at[1]})"
    return f"{judged.index} of {shape}{where_in}"


def last_step(judged: JudgedReport) -> list[tuple[str, str]]:
    """Return what was judged as lines, each with its label: which number or terms, what was claimed, what is right."""
    lines = [("number", place(judged)), ("terms", judged.terms), ("totals", ", ".join(judged.totals))]
    lines += [("claimed", judged.claimed), ("is", judged.right)]
    return [(label, one_line(text)) for label, text in lines if text]


class Names:
    """Peers' names by address; an unknown or nameless peer goes by the beginning of its address."""

    def __init__(self, report: Report) -> None:
        """Collect the names of the report's peers."""
        self._names = {peer.id: one_line(peer.name) for peer in report.peers if peer.name.strip()}

    def __call__(self, address: str) -> str:
        """Return the name that goes with `address`."""
        return self._names.get(address) or short(one_line(address))


def kernels(said: KernelsReport) -> str:
    """Return what a peer said its steps run on."""
    loops = "on compiled loops" if said.compiled else "node by node"
    text = f"{', '.join(map(one_line, said.products)) or 'no'} products, the rest {loops}"
    if said.over_float32 is not None:
        text += f", {said.over_float32:.1f} times float32's time"
    return text + (f"; compiled kernels refused: {one_line(said.refused)}" if said.refused else "")


def kernels_said(report: Report, names: Names) -> list[tuple[str, str]]:
    """Return what peers said their steps run on, and who said each."""
    sayers: dict[str, list[str]] = {}
    for peer in report.peers:
        if peer.kernels is not None:
            sayers.setdefault(kernels(peer.kernels), []).append(names(peer.id))
    return [(text, ", ".join(who)) for text, who in sayers.items()]


def groups_said(report: Report, names: Names) -> list[tuple[str, str]]:
    """Return which peers said that several machines make their steps, and of each machine its share and speed; and who
    holds which shard in crews."""
    groups = [(names(peer.id), text) for peer in report.peers if peer.group for text in group(peer.group)]
    return groups + [(names(peer.id), post(peer.post)) for peer in report.peers if peer.post is not None]


def post(held: PostReport) -> str:
    """Return which shard a member of crews holds, how long it waited for the others, and what it gave and took."""
    tensors = counted(held.parameters, "parameter")
    text = f"shard {held.shard + 1} of {held.shards}, {tensors}, {held.work:.0%} of a crew's work"
    if not held.millis:
        return text
    sizes = data_size(held.sent), data_size(held.received)
    waited = f"of {duration(held.millis)} it waited {held.waited_millis / held.millis:.0%}"
    return f"{text}; in {counted(held.rounds, 'round')}, {waited}, gave {sizes[0]} and took {sizes[1]}"


def group(members: Sequence[GroupMemberReport]) -> list[str]:
    """Return the shares of a group's machines and how quick they are, the leader first: a line for those that share
    the records, and where they share the model one for each."""
    shards = [each.shard for each in members if each.shard is not None]
    if len(shards) == len(members):
        whole = sum(each.numbers for each in shards)
        numbered = enumerate(zip(shards, members, strict=True), 1)
        return [_shard(number, shard, each.micros, whole) for number, (shard, each) in numbered]
    shares = []
    for each in members:
        known = f" in {each.micros / 1000:.1f} ms" if each.micros else ""
        shares.append(counted(each.records, "record") + known)
    return [f"{counted(len(members), 'machine')}, of each step {', '.join(shares)}"]


def _shard(number: int, shard: ShardReport, micros: int, whole: int) -> str:
    """Return what a machine holds of a model of so many numbers, how long a step takes it, and what it exchanges."""
    share = f"{shard.numbers / whole:.0%}" if whole else "nothing"
    ends = [one_line(name.removesuffix(".weight")) for name in (shard.first, shard.last)]
    between = f", {' to '.join(dict.fromkeys(ends))}" if shard.first else ""
    took = micros + shard.waited_micros
    time = f"; of {took / 1000:.1f} ms a step it waits {shard.waited_micros / took:.0%}" if micros else ""
    sizes = data_size(shard.sent), data_size(shard.received)
    return f"machine {number} holds {share} of the model{between}{time}, sends {sizes[0]} and receives {sizes[1]}"


def unread(report: Report, names: Names) -> list[tuple[str, int]]:
    """Return whose logs hold lines that are left out, and how many."""
    found = [
        (names(peer.id), peer.log.left_out)
        for peer in report.peers
        if peer.log is not None and peer.log.left_out
    ]
    return found + ([("logs that are no account's own", report.left_out)] if report.left_out else [])


def where(dispute: DisputeReport) -> str:
    """Return the place of the difference, as exactly as the dispute came to know it."""
    if dispute.place == "inner step" and dispute.step is not None:
        found = f"inner step {dispute.step}"
    else:
        found = f"the {dispute.place}"
    near = f" at {one_line(dispute.near)}" if dispute.near else ""
    if dispute.node is None:
        return found + near
    operator = f" ({one_line(dispute.operator)})" if dispute.operator else ""
    number = f", number {dispute.judged.index}" if dispute.judged is not None else ""
    return f"{found}, node {dispute.node}{operator}{number}{near}"


def way_down(dispute: DisputeReport) -> list[str]:
    """Return the lists of a dispute, what its node reads, the last step and the bytes of both sides, a line each."""
    lines = []
    for part in dispute.lists:
        contested = f"; contested: {part.contested}" if part.contested else ""
        lines.append(f"listed: {part.what} in {counted(part.entries, 'entry', 'entries')}{contested}")
    for source in dispute.inputs:
        brought = f", {data_size(source.bytes)} brought" if source.bytes else ""
        lines.append(f"reads: {source.value} ({source.name}), {source.tensor}, from {source.origin}{brought}")
    if dispute.judged is not None:
        lines += [f"{label}: {text}" for label, text in last_step(dispute.judged)]
        lines += reckoning(dispute.judged)
    if dispute.accused_bytes or dispute.accuser_bytes:
        sizes = f"{data_size(dispute.accused_bytes)} of lists, {data_size(dispute.accuser_bytes)} from the accuser"
        lines.append(f"bytes: {sizes}")
    return [one_line(line) for line in lines]


def reckoning(judged: JudgedReport) -> list[str]:
    """Return the last step for pencil and paper: how a line comes about, and every line with what it reads."""
    lines = [f"{label}: {text}" for label, text in (("rule", judged.rule), ("with", judged.given)) if text]
    for line in judged.lines:
        name = "" if line.term is None else f"term {line.term}: "
        reads = ", ".join(f"{read.value}{list(read.at)}" for read in line.reads)
        lines.append(f"{name}{line.text} = {line.gives}, from {reads or 'nothing'}")
    return lines


def story(dispute: DisputeReport, names: Names) -> Story:
    """Return what was wrong, who showed it and how it was settled."""
    accused, accuser = names(dispute.accused), names(dispute.accuser)
    if dispute.place == "outer step":
        wrong = f"{accused} signed the state after round {dispute.round}. {accuser} computed another one"
    else:
        wrong = f"{accused} committed to its work for round {dispute.round}. A re-run by {accuser} disagrees"
    if dispute.leaf is not None:
        wrong += f" from leaf {dispute.leaf} on"
    wrong += f"; the first difference lies in {where(dispute)}."
    moves = counted(len(dispute.moves), "move")
    shown = f"{accuser} challenged the commitment, and both sides narrowed the difference down in {moves}"
    if dispute.moves:
        shown += f" and {duration(dispute.moves[-1].at_ms - dispute.moves[0].at_ms)}"
    settled = VERDICTS[dispute.verdict].capitalize()
    if dispute.verdict in ("guilty", "innocent"):
        if dispute.cause == Cause.WRONG_OUTPUT.name:
            settled = f"The accused's own list of nodes decided, and {VERDICTS[dispute.verdict]}"
        elif dispute.judged is not None:
            what = "terms of this one number" if dispute.judged.terms else "this one number"
            settled = f"The law computed {what} itself, and {VERDICTS[dispute.verdict]}"
    if dispute.reason.strip():
        settled += f": {one_line(dispute.reason).rstrip('.')}"
    return Story(wrong, shown + ".", settled + ".")
