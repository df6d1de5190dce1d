"""Charts as SVG text: data in, markup out. A chart looks right by itself; a page may turn its colours to dark ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import escape

from verification.report.palette import ink

FONT_SIZE, FONT_WIDTH = 12, 6.7
"""Pixels of the charts' type, and its mean advance: enough to reserve room for a label."""
LABEL_LIMIT = 22
MAX_DOTS = 80
TINY, HUGE = 1e-12, 1e30
"""Sizes below and beyond which a number is drawn as zero or not at all: no run has such a loss or stake."""
MAX_MARK_LABELS = 4
ROW = 15
GRAVE, GRAVE_WIDTH = ("mismatch", "convicted"), 5
"""Cells that a strip draws last and never narrower than this, so that one round in 500 is seen."""
CELLS = {
    "trained": ("blue", 0.3), "passed": ("good", 0.5), "mismatch": ("amber", 1), "convicted": ("bad", 1),
    "excluded": ("rule", 1),
}  # fmt: skip
"""Colour and opacity of a strip's cells; others are left out."""


@dataclass(frozen=True)
class Frame:
    """Size of a chart in its own pixels; the page scales it to the column."""

    width: int
    height: int


WIDE = Frame(880, 300)
NARROW = Frame(400, 260)


@dataclass(frozen=True)
class Pen:
    """How a line is drawn, and its label written."""

    colour: str
    width: float = 2
    weight: int = 400


PENS = {"guilty": Pen("bad", 2.5, 600), "verifier": Pen("teal")}
"""Pens by a line's style."""
USUAL = Pen("blue")


@dataclass(frozen=True)
class Series:
    """One line: its style, points by ascending x, and a label at its end."""

    style: str
    points: tuple[tuple[float, float], ...]
    label: str = ""
    stepped: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line at `x` with a label."""

    x: float
    label: str


@dataclass(frozen=True)
class Scale:
    """A linear map from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of `value`."""
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class Plot:
    """The two scales of a chart and its frame."""

    frame: Frame
    x: Scale
    y: Scale


def nice_ticks(low: float, high: float, wanted: int = 5, whole: bool = False) -> list[float]:
    """Return round numbers that cover [low, high], about `wanted` of them; `whole` keeps them integers."""
    if high - low <= max(abs(low), abs(high), TINY) * 1e-9:
        pad = abs(low) * 0.1 if abs(low) > TINY else 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    if whole:
        step = max(1.0, float(round(step)) if step >= 10 else float(math.ceil(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def line_chart(
    frame: Frame,
    series: Sequence[Series],
    title: str,
    y_name: str,
    marks: Sequence[Mark] = (),
    from_zero: bool = False,
) -> str:
    """Return a chart of all series over rounds, with axes, ticks, end labels and marks; empty text without data.

    Points that are not finite are left out, so a line bridges them. `from_zero` starts the axis there, so that a
    loss of a tenth looks like a tenth.
    """
    clean = [_finite(one) for one in series]
    clean = [one for one in clean if one.points]
    if not clean:
        return ""
    plot, ticks = _layout(frame, clean, from_zero)
    seen = [(mark, row) for mark, row in _stagger(marks) if plot.x.low <= mark.x <= plot.x.high]
    parts = [_y_axis(plot, ticks, y_name), _x_axis(plot), *(_mark(plot, mark) for mark, _ in seen)]
    parts += [_line(plot, one) for one in clean]
    # Above all lines, or the next mark's crosses the label out.
    labels = [_mark_label(plot, mark, row) for mark, row in seen if row < MAX_MARK_LABELS]
    parts.append(f'<g class="mark-labels">{"".join(labels)}</g>')
    parts.append(_end_labels(plot, clean))
    return _svg(frame, title, "".join(parts))


def bar(share: float) -> str:
    """Return a small horizontal bar of `share` (0 to 1) for a table's cell."""
    width = round(120 * min(max(share if math.isfinite(share) else 0, 0), 1), 1)
    return (
        '<svg viewBox="0 0 120 8" width="120" height="8" aria-hidden="true">'
        f'<rect {ink("faint")} width="120" height="8" rx="2"/>'
        f'<rect {ink("blue")} width="{width}" height="8" rx="2"/></svg>'
    )


def strips(rows: Sequence[tuple[str, Sequence[str]]], first: int, title: str, width: int = 880) -> str:
    """Return a matrix of many columns as one strip per row: each row is (label, style of `CELLS` per column).

    Equal neighbours become one rectangle, so 64 rows of 500 columns stay small. `first` numbers the first column.
    """
    columns = max((len(cells) for _, cells in rows), default=0)
    if not columns:
        return ""
    left = _room([label for label, _ in rows])
    frame = Frame(width, len(rows) * ROW + 28)
    x = Scale(0, columns, left, width - 4)
    parts: list[str] = []
    grave: list[str] = []
    for index, (label, cells) in enumerate(rows):
        top = index * ROW
        parts.append(f'<text x="{left - 6}" y="{top + 11}" text-anchor="end">{_text(label)}</text>')
        for begin, end, style in (run for run in _runs(cells) if run[2] in CELLS):
            colour, opacity = CELLS[style]
            width_needed = GRAVE_WIDTH if style in GRAVE else 0
            drawn = (
                f'<rect {ink(colour)} opacity="{opacity}" x="{x(begin):.2f}" y="{top + 1}" '
                f'width="{max(x(end) - x(begin), width_needed):.2f}" height="{ROW - 3}"/>'
            )
            (grave if style in GRAVE else parts).append(drawn)
    parts += grave
    base = len(rows) * ROW + 16
    for tick in nice_ticks(first, first + columns - 1, 8, whole=True):
        if first <= tick < first + columns:
            parts.append(
                f'<text x="{x(tick - first + 0.5):.1f}" y="{base}" text-anchor="middle">{tick:.0f}</text>'
            )
    return _svg(frame, title, "".join(parts))


def _runs(cells: Sequence[str]) -> list[tuple[int, int, str]]:
    edges = [0, *(i for i in range(1, len(cells)) if cells[i] != cells[i - 1]), len(cells)]
    return [(begin, end, cells[begin]) for begin, end in pairwise(edges)] if cells else []


def _finite(one: Series) -> Series:
    return replace(one, points=tuple((x, y) for x, y in one.points if abs(x) <= HUGE and abs(y) <= HUGE))


def _room(labels: Sequence[str]) -> int:
    longest = max((min(len(label), LABEL_LIMIT) for label in labels), default=0)
    return round(longest * FONT_WIDTH) + 14 if longest else 14


def _layout(frame: Frame, series: Sequence[Series], from_zero: bool) -> tuple[Plot, list[float]]:
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    ticks = nice_ticks(min(0.0, *ys) if from_zero else min(ys), max(ys), 5 if frame.height > 280 else 4)
    left = _room([_number(tick, ticks) for tick in ticks])
    right = frame.width - min(_room([one.label for one in series]), frame.width // 3)
    low, high = min(xs), max(xs)
    pad = 0.5 if low == high else 0
    x = Scale(low - pad, high + pad, left + 6, right)
    return Plot(frame, x, Scale(ticks[0], ticks[-1], frame.height - 40, 30)), ticks


def _number(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    largest = max(abs(tick) for tick in ticks)
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if largest >= limit:
            scale = 1e3 if letter == "k" else limit
            places = min(_decimals(step / scale), 3)
            return f"{value / scale:.{places}f}{letter}" if value and largest < 1e16 else f"{value:.3g}"
    return f"{value:.{_decimals(step)}f}" if step > 1e-6 else f"{value:.3g}"


def _decimals(step: float) -> int:
    for places in range(7):
        if abs(round(step, places) - step) < step * 1e-6:
            return places
    return 7


def _y_axis(plot: Plot, ticks: Sequence[float], name: str) -> str:
    parts = [f'<text x="2" y="14">{_text(name, 60)}</text>']
    for tick in ticks:
        y = plot.y(tick)
        parts.append(
            f'<line {ink(stroke="rule")} x1="{plot.x.start - 6:.1f}" x2="{plot.x.end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{plot.x.start - 12:.1f}" y="{y + 4:.1f}" text-anchor="end">{_number(tick, ticks)}</text>'
        )
    return "".join(parts)


def _x_axis(plot: Plot) -> str:
    base = plot.frame.height - 40
    wanted = 10 if plot.frame.width > 600 else 5
    ticks = nice_ticks(plot.x.low, plot.x.high, wanted, whole=True)
    parts = [
        f'<line {ink(stroke="soft")} x1="{plot.x.start - 6:.1f}" x2="{plot.x.end:.1f}" y1="{base}" y2="{base}"/>'
    ]
    for tick in ticks:
        if plot.x.low <= tick <= plot.x.high:
            x = plot.x(tick)
            parts.append(
                f'<line {ink(stroke="soft")} x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>'
                f'<text x="{x:.1f}" y="{base + 17}" text-anchor="middle">{tick:.0f}</text>'
            )
    middle = (plot.x.start + plot.x.end) / 2
    parts.append(f'<text x="{middle:.1f}" y="{plot.frame.height - 5}" text-anchor="middle">round</text>')
    return "".join(parts)


def _line(plot: Plot, one: Series) -> str:
    path, previous = "", 0.0
    for index, (x, y) in enumerate(one.points):
        px, py = plot.x(x), plot.y(y)
        if one.stepped and index:
            path += f"L{px:.1f} {previous:.1f}"
        path += f"{'L' if index else 'M'}{px:.1f} {py:.1f}"
        previous = py
    pen = PENS.get(one.style, USUAL)
    parts = [
        f'<path {ink(stroke=pen.colour)} stroke-width="{pen.width}" stroke-linejoin="round" d="{path}"/>'
    ]
    if one.dots and len(one.points) <= MAX_DOTS:
        parts += [
            f'<circle {ink("paper", pen.colour)} stroke-width="2" '
            f'cx="{plot.x(x):.1f}" cy="{plot.y(y):.1f}" r="3.2">'
            f"<title>round {x:g}: {y:,.4g}</title></circle>"
            for x, y in one.points
        ]
    return "".join(parts)


def _stagger(marks: Sequence[Mark]) -> list[tuple[Mark, int]]:
    """Give each mark the row of its label; equal labels share a row, and only the first of them is written."""
    ordered = sorted(marks, key=lambda mark: mark.x)
    rows = {label: row for row, label in enumerate(dict.fromkeys(mark.label for mark in ordered))}
    return [(mark, rows.pop(mark.label, MAX_MARK_LABELS)) for mark in ordered]


def _mark(plot: Plot, mark: Mark) -> str:
    x = plot.x(mark.x)
    return (
        f'<line {ink(stroke="bad")} stroke-width="1.5" stroke-dasharray="4 3" '
        f'x1="{x:.1f}" x2="{x:.1f}" y1="22" y2="{plot.y.start:.1f}">'
        f"<title>{_text(mark.label, 80)}</title></line>"
    )


def _mark_label(plot: Plot, mark: Mark, row: int) -> str:
    x = plot.x(mark.x)
    fits = x + 6 + len(mark.label) * FONT_WIDTH < plot.frame.width
    anchor, offset = ("start", 6) if fits else ("end", -6)
    y = 32 + row * ROW
    place = f'x="{x + offset:.1f}" y="{y}" text-anchor="{anchor}"'
    return f'<text {ink("bad")} font-weight="600" {place}>{_text(mark.label, 40)}</text>'


def _end_labels(plot: Plot, series: Sequence[Series]) -> str:
    """Write labels beside the lines' ends, pushed apart until none overlaps."""
    ends = sorted((plot.y(one.points[-1][1]), one.label, one.style) for one in series if one.label)
    placed: list[float] = []
    for y, _, _ in ends:
        placed.append(max(y, placed[-1] + ROW) if placed else y)
    overflow = max(0.0, placed[-1] - plot.y.start) if placed else 0.0
    limit = math.inf
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], limit, placed[index] if not overflow else plot.y.start)
        limit = placed[index] - ROW
    pens = [PENS.get(style, USUAL) for _, _, style in ends]
    return "".join(
        f'<text {ink(pen.colour)} font-weight="{pen.weight}" x="{plot.x.end + 7:.1f}" y="{y + 4:.1f}">'
        f"{_text(label)}</text>"
        for y, (_, label, _), pen in zip(placed, ends, pens, strict=True)
    )


def _text(label: str, limit: int = LABEL_LIMIT) -> str:
    cut = label if len(label) <= limit else label[: limit - 1] + "…"
    return str(escape(cut))


def _svg(frame: Frame, title: str, body: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>"
        f'<g {ink("soft")} font-family="sans-serif" font-size="{FONT_SIZE}">{body}</g></svg>'
    )
