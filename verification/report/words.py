"""Numbers, digests and disputes in plain words, the same in HTML and terminal."""

from dataclasses import dataclass

from verification.report.schema import DisputeReport, Report

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


def counted(number: int, word: str, plural: str = "") -> str:
    """Return `number` and the word in its right form."""
    return f"{amount(number)} {word if number == 1 else plural or word + 's'}"


class Names:
    """Peers' names by address; an unknown or nameless peer goes by the beginning of its address."""

    def __init__(self, report: Report) -> None:
        """Collect the names of the report's peers."""
        self._names = {peer.id: one_line(peer.name) for peer in report.peers if peer.name.strip()}

    def __call__(self, address: str) -> str:
        """Return the name that goes with `address`."""
        return self._names.get(address) or short(one_line(address))


def where(dispute: DisputeReport) -> str:
    """Return the place of the difference, as exactly as the dispute came to know it."""
    if dispute.place == "inner step" and dispute.step is not None:
        place = f"inner step {dispute.step}"
    else:
        place = f"the {dispute.place}"
    near = f" at {one_line(dispute.near)}" if dispute.near else ""
    if dispute.node is None:
        return place + near
    operator = f" ({one_line(dispute.operator)})" if dispute.operator else ""
    return f"{place}, node {dispute.node}{operator}{near}"


def way_down(dispute: DisputeReport) -> list[str]:
    """Return the lists of a dispute, what its node reads and the bytes of both sides, a line each."""
    lines = []
    for part in dispute.lists:
        contested = f", of which {part.contested} differs" if part.contested else ""
        lines.append(f"listed: {part.what} in {counted(part.entries, 'digest')}{contested}")
    for source in dispute.inputs:
        brought = f", {data_size(source.bytes)} brought" if source.bytes else ""
        lines.append(f"reads: {source.value} ({source.name}), {source.tensor}, from {source.origin}{brought}")
    if dispute.accused_bytes or dispute.accuser_bytes:
        sizes = f"{data_size(dispute.accused_bytes)} of lists, {data_size(dispute.accuser_bytes)} from the accuser"
        lines.append(f"bytes: {sizes}")
    return [one_line(line) for line in lines]


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
    if dispute.computed_digest and dispute.verdict in ("guilty", "innocent"):
        if dispute.reason.startswith("an output"):
            settled = f"The accused's own list of nodes decided, and {VERDICTS[dispute.verdict]}"
        else:
            settled = f"The law executed this one node itself, and {VERDICTS[dispute.verdict]}"
    if dispute.reason.strip():
        settled += f": {one_line(dispute.reason).rstrip('.')}"
    return Story(wrong, shown + ".", settled + ".")
