"""A report for the terminal, as rich renderables: at most ten lines for a run's end, tables for `proofswarm report`.

Values go in as `Text`, never as markup, and lose control characters: a peer's name cannot steer the terminal.
"""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from verification.report import figures, words
from verification.report.schema import Report

SUMMARY_LINES = 10
MAX_NAMED = 3
MAX_ROUNDS = 40
CELL_STYLES: dict[figures.Cell, str] = {
    "passed": "green",
    "trained": "blue",
    "mismatch": "yellow",
    "convicted": "bold red",
    "excluded": "dim",
    "absent": "dim",
}


def summary(report: Report) -> Group:
    """Return the run in at most ten lines, each cut to the terminal's width."""
    names, total = words.Names(report), figures.totals(report)
    lines = [_verdict(report)]
    if total.first_loss is not None:
        fall = f"{words.loss(total.first_loss)} → {words.loss(total.last_loss)}"
        lines.append(_line("loss", f"{fall} in {words.counted(len(report.rounds), 'round')}"))
    lines.append(_line("audits", _audits(total)))
    settled = figures.convictions(report)
    for dispute in settled[:MAX_NAMED]:
        text = f"{names(dispute.accused)}, round {dispute.round}, shown by {names(dispute.accuser)}: "
        text += f"{words.amount(dispute.slashed)} slashed; " if dispute.slashed else "the same fault; "
        text += words.where(dispute)
        lines.append(_line("convicted", text, "red"))
    if len(settled) > MAX_NAMED:
        lines.append(_line("", f"and {len(settled) - MAX_NAMED} more", "red"))
    if report.evaluation:
        lines.append(_line("model", f"evaluation loss {words.losses(report.evaluation)}"))
    lines.append(_line("money", *_money(report)))
    if total.bytes_sent:
        sent = f"{words.data_size(total.bytes_sent)} sent, {words.duration(total.span_ms)}"
        lines.append(_line("traffic", sent))
    return Group(*lines[:SUMMARY_LINES])


def tables(report: Report) -> Group:
    """Return the longer form: the summary, audits by round, disputes told in words, peers and traffic."""
    names = words.Names(report)
    parts: list[RenderableType] = [summary(report), Text()]
    for fact in (*report.result.facts, *report.result.lost):
        parts.append(_text(f"  · {fact}"))
    if report.rounds and figures.workers(report):
        parts += [Text(), _audit_table(report, names), _legend()]
    parts += _disputes(report, names)
    if report.penalties:
        parts += [Text(), _penalty_table(report, names)]
    if report.peers:
        parts += [Text(), _peer_table(report, names), *_kernels(report, names), *_groups(report, names)]
        parts += _unread(report, names)
    if report.economics:
        parts += [Text(), _economics_table(report)]
    if report.traffic:
        parts += [Text(), _traffic_table(report, names)]
    return Group(*parts)


def _text(value: str, style: str = "") -> Text:
    return Text(words.one_line(value) if not value.startswith("  ") else "  " + words.one_line(value), style)


def _verdict(report: Report) -> Text:
    sign, style = ("✓", "bold green") if report.result.ok else ("✕", "bold red")
    return Text(f"{sign} {words.one_line(report.result.sentence)}", style, no_wrap=True, overflow="ellipsis")


def _line(label: str, value: str, style: str = "") -> Text:
    line = Text(f"  {label:<10}", "dim", no_wrap=True, overflow="ellipsis")
    return line.append(words.one_line(value), style or "not dim")


def _audits(total: figures.Totals) -> str:
    text = f"{words.amount(total.audits)} re-run bit for bit: {words.amount(total.passed)} passed, "
    text += f"{total.mismatches} found a difference"
    return text + (f"; {total.undecided} more lost or void" if total.undecided else "")


def _money(report: Report) -> tuple[str, str]:
    difference = figures.conserved(report)
    if difference:
        return f"NOT conserved: {words.amount(difference)} against the ledger's total", "bold red"
    return (
        f"conserved: {words.amount(report.money.total)}, of it {words.amount(report.money.burned)} burned",
        "",
    )


def _audit_table(report: Report, names: words.Names) -> Table:
    """One sign per worker and round; of a long run the last rounds, so that the table fits a terminal."""
    table = Table(title="Audits", title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("worker", no_wrap=True)
    first = report.rounds[-MAX_ROUNDS:][0].number
    table.add_column(f"rounds {first} to {report.rounds[-1].number}", no_wrap=True)
    for row in figures.matrix(report):
        cells = Text()
        for cell in row.cells[-MAX_ROUNDS:]:
            cells.append(figures.LOOKS[cell].sign or " ", CELL_STYLES[cell])
        table.add_row(_text(names(row.worker)), cells)
    return table


def _legend() -> Text:
    legend = Text()
    for cell, look in figures.LOOKS.items():
        if look.sign:
            legend.append(f"{look.sign} ", CELL_STYLES[cell]).append(f"{look.words}  ", "dim")
    return legend


def _disputes(report: Report, names: words.Names) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for dispute in report.disputes:
        story = words.story(dispute, names)
        title = (
            f"Dispute {dispute.number}: {names(dispute.accused)}, round {dispute.round}: {dispute.verdict}"
        )
        parts += [Text(), _text(title, "bold"), _text(story.wrong), _text(story.shown), _text(story.settled)]
        if dispute.computed_digest:
            parts.append(_text(f"  claimed: {dispute.claimed_digest}", "red"))
            parts.append(_text(f"  computed: {dispute.computed_digest}"))
        parts += [_text(f"  {line}") for line in words.way_down(dispute)]
        if dispute.slashed:
            shares = f"{words.amount(dispute.rewarded)} to whoever was right, {words.amount(dispute.burned)} burned"
            parts.append(_text(f"  {words.amount(dispute.slashed)} slashed: {shares}"))
    return parts


def _peer_table(report: Report, names: words.Names) -> Table:
    table = Table(title="Peers", title_justify="left", box=None, padding=(0, 2), pad_edge=False)
    for heading in ("peer", "role", "standing"):
        table.add_column(heading)
    for heading in ("stake", "rewards", "slashed", "passed", "failed", "audited"):
        table.add_column(heading, justify="right")
    for peer in report.peers:
        money = [words.amount(value) for value in (peer.stake_end, peer.rewards, peer.slashed)]
        counts = [str(value) for value in (peer.audits_passed, peer.audits_failed, peer.audits_done)]
        style = "red" if peer.status in ("excluded", "suspended") else ""
        cells = [names(peer.id), peer.role, peer.status, *money, *counts]
        table.add_row(*(_text(cell) for cell in cells), style=style)
    return table


def _kernels(report: Report, names: words.Names) -> list[RenderableType]:
    said = words.kernels_said(report, names)
    title = (
        [Text(), _text("What steps ran on, as each peer said; nobody checked it", "italic")] if said else []
    )
    return [*title, *(_text(f"  {who}: {text}") for text, who in said)]


def _groups(report: Report, names: words.Names) -> list[RenderableType]:
    said = words.groups_said(report, names)
    heading = "Who shares its steps with other machines, as it said; nobody checked times and bytes"
    title = [Text(), _text(heading, "italic")]
    return [*(title if said else []), *(_text(f"  {who}: {text}") for who, text in said)]


def _unread(report: Report, names: words.Names) -> list[RenderableType]:
    return [
        _text(f"  left out: {words.counted(lines, 'line')} of {who}")
        for who, lines in words.unread(report, names)
    ]


def _penalty_table(report: Report, names: words.Names) -> Table:
    table = Table(title="What was taken", title_justify="left", box=None, padding=(0, 2), pad_edge=False)
    table.add_column("round", justify="right")
    table.add_column("from")
    for heading in ("slashed", "paid on", "burned"):
        table.add_column(heading, justify="right")
    for heading in ("by", "because"):
        table.add_column(heading)
    for entry in report.penalties:
        money = [words.amount(value) for value in (entry.slashed, entry.rewarded, entry.burned)]
        cells = [str(entry.round), names(entry.peer), *money, entry.ground, entry.reason]
        table.add_row(*(_text(cell) for cell in cells))
    return table


def _economics_table(report: Report) -> Table:
    table = Table(title="Does cheating pay?", title_justify="left", box=None, padding=(0, 2), pad_edge=False)
    table.add_column("move")
    for heading in ("gains", "costs"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in report.economics:
        answer = "PAYS" if row.pays else "no"
        cells = [row.name, words.amount(row.gain), words.amount(row.loss), answer]
        table.add_row(*(_text(cell) for cell in cells), style="bold red" if row.pays else "")
    return table


def _traffic_table(report: Report, names: words.Names) -> Table:
    table = Table(title="Traffic", title_justify="left", box=None, padding=(0, 2), pad_edge=False)
    for heading in ("peer", "kind"):
        table.add_column(heading)
    for heading in ("sent", "received"):
        table.add_column(heading, justify="right")
    for entry in report.traffic:
        sizes = (words.data_size(entry.sent), words.data_size(entry.received))
        table.add_row(*(_text(cell) for cell in (names(entry.peer), entry.kind, *sizes)))
    return table
