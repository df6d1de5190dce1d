"""A report as one self-contained HTML page: no script, no address outside the page, every value escaped."""

import functools
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from verification.report import charts, figures, palette, words
from verification.report.schema import DisputeReport, Report

MAX_TABLE_ROUNDS = 30
"""Up to so many rounds the audit matrix is a table of signs; beyond, a strip per worker."""


@dataclass(frozen=True)
class KeyFigure:
    """One number at the top of the page, and what it counts."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Chart:
    """One chart drawn for wide and for narrow screens; the style sheet shows one of them."""

    wide: Markup
    narrow: Markup


def render(report: Report) -> str:
    """Return the whole page."""
    names = words.Names(report)
    total = figures.totals(report)
    rows = figures.matrix(report)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            name=names,
            words=words,
            total=total,
            key_figures=key_figures(report, total),
            loss_chart=_loss_chart(report, names),
            stake_chart=_stake_chart(report, names),
            rows=rows if len(report.rounds) <= MAX_TABLE_ROUNDS else (),
            strips=_strips(report, rows, names) if len(report.rounds) > MAX_TABLE_ROUNDS else None,
            notable=_notable(report, rows, names),
            looks=figures.LOOKS,
            summaries=tuple(figures.summaries(report)),
            stories=tuple((dispute, words.story(dispute, names)) for dispute in report.disputes),
            difference=figures.conserved(report),
            traffic=_traffic(report),
            kernels=words.kernels_said(report, names),
            groups=words.groups_said(report, names),
            unread=words.unread(report, names),
            standing=standing,
            light=palette.LIGHT,
            dark=palette.DARK,
        )
    )


def key_figures(report: Report, total: figures.Totals) -> tuple[KeyFigure, ...]:
    """Return the numbers for the top of the page."""
    found = [KeyFigure(str(len(report.rounds)), "round" if len(report.rounds) == 1 else "rounds")]
    if total.last_loss is not None:
        found.append(
            KeyFigure(f"{words.loss(total.first_loss)} → {words.loss(total.last_loss)}", "training loss")
        )
    found.append(KeyFigure(words.amount(total.audits), f"audits, {total.mismatches} with a difference"))
    found.append(
        KeyFigure(str(len(total.convicted)), f"convicted, of {words.counted(len(report.peers), 'peer')}")
    )
    found.append(KeyFigure(words.amount(total.slashed), f"slashed, {words.amount(total.burned)} burned"))
    if total.bytes_sent:
        found.append(KeyFigure(words.data_size(total.bytes_sent), "sent between peers"))
    return tuple(found)


def standing(dispute: DisputeReport) -> str:
    """Return the style class of a dispute's verdict."""
    return {"guilty": "bad", "innocent": "good"}.get(dispute.verdict, "open")


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("verification.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )


def _finalize(value: object) -> object:
    """Take control and reordering characters out of everything that the template writes."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return words.printable(value)
    return value


def _loss_chart(report: Report, names: words.Names) -> Chart | None:
    series, marks = [figures.loss_series(report)], figures.conviction_marks(report, names)
    title = "Training loss by round"
    return _chart(
        [charts.line_chart(frame, series, title, "loss", marks) for frame in (charts.WIDE, charts.NARROW)]
    )


def _stake_chart(report: Report, names: words.Names) -> Chart | None:
    series = figures.stake_series(report, names)
    title = "Stake by round and peer"
    return _chart(
        [
            charts.line_chart(frame, series, title, "stake", from_zero=True)
            for frame in (charts.WIDE, charts.NARROW)
        ]
    )


def _chart(drawn: list[str]) -> Chart | None:
    # Safe as markup: `charts` escapes every label itself, and a test feeds it hostile names.
    return Chart(*(Markup(one) for one in drawn)) if drawn[0] else None


def _strips(report: Report, rows: tuple[figures.MatrixRow, ...], names: words.Names) -> Markup:
    labelled = [(names(row.worker), row.cells) for row in rows]
    return Markup(charts.strips(labelled, report.rounds[0].number, "Workers by rounds"))


def _notable(report: Report, rows: tuple[figures.MatrixRow, ...], names: words.Names) -> tuple[str, ...]:
    """Return the cells that a reader must not miss, as sentences: strips have no room for signs."""
    return tuple(
        f"{names(row.worker)}, round {one.number}: {figures.LOOKS[cell].words}"
        for row in rows
        for one, cell in zip(report.rounds, row.cells, strict=True)
        if cell in ("mismatch", "convicted")
    )


def _traffic(report: Report) -> tuple[tuple[object, Markup], ...]:
    largest = max((entry.sent + entry.received for entry in report.traffic), default=0) or 1
    return tuple(
        (entry, Markup(charts.bar((entry.sent + entry.received) / largest))) for entry in report.traffic
    )
