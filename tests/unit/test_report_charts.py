"""Charts: round ticks, true scales, hostile labels, and every size from nothing to 64 peers."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.sample_report import sample
from verification.report import charts
from verification.report.charts import Mark, Scale, Series
from verification.report.html import render
from verification.report.palette import DARK, LIGHT

SVG_LINE = Series("loss", tuple((float(x), 4.0 - 0.3 * x) for x in range(10)), "loss", dots=True)


def parsed(svg: str) -> ElementTree.Element:
    assert "nan" not in svg.lower().replace("<title>", "")
    return ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (1.86, 4.17, [1.5, 2, 2.5, 3, 3.5, 4, 4.5]),
        (0, 190_000, [0, 50_000, 100_000, 150_000, 200_000]),
        (-0.1, 0.1, [-0.1, -0.05, 0, 0.05, 0.1]),
    ],
)
def test_ticks_are_round_numbers_that_cover_the_data(low: float, high: float, expected: list[float]) -> None:
    assert charts.nice_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0, 1e-9, 1e12])
def test_ticks_of_a_single_value_surround_it(value: float) -> None:
    ticks = charts.nice_ticks(value, value)
    assert ticks[0] < value < ticks[-1]


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 5e-324), (-charts.HUGE, charts.HUGE), (1e15, 1e15 + 1), (1.0, 1.0 + 1e-15)]
)
def test_ticks_survive_extreme_ranges(low: float, high: float) -> None:
    ticks = charts.nice_ticks(low, high)
    assert 2 <= len(ticks) <= 12
    slack = 1e-9 * max(abs(low), abs(high))
    assert ticks[0] - slack <= low <= high <= ticks[-1] + slack


@pytest.mark.parametrize("last", [1, 2, 9, 33, 99, 499])
def test_whole_ticks_are_integers(last: int) -> None:
    ticks = charts.nice_ticks(0, last, 10, whole=True)
    assert all(tick == int(tick) for tick in ticks)
    assert 2 <= len(ticks) <= 13


def test_a_scale_maps_its_ends_and_the_middle() -> None:
    scale = Scale(0, 10, 100, 300)
    assert [scale(0), scale(5), scale(10)] == [100, 200, 300]
    assert Scale(3, 3, 0, 10)(3) == 5


def test_dots_lie_where_the_data_say() -> None:
    root = parsed(charts.line_chart(charts.WIDE, [SVG_LINE], "Loss", "loss"))
    dots = [item for item in root.iter() if item.tag == "circle"]
    assert len(dots) == 10
    heights = [float(dot.attrib["cy"]) for dot in dots]
    steps = [after - before for before, after in pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 9, abs=0.11)
    assert steps[0] > 0


def test_nothing_to_draw_gives_nothing() -> None:
    assert charts.line_chart(charts.WIDE, [], "Loss", "loss") == ""
    assert charts.line_chart(charts.WIDE, [Series("a", ())], "Loss", "loss") == ""
    assert charts.line_chart(charts.WIDE, [Series("a", ((0.0, math.nan),))], "Loss", "loss") == ""
    assert charts.strips([], 0, "Audits") == ""
    assert charts.strips([("a", ())], 0, "Audits") == ""


def test_points_that_are_not_finite_are_left_out() -> None:
    points = ((0.0, 1.0), (1.0, math.nan), (2.0, math.inf), (3.0, 2.0))
    root = parsed(charts.line_chart(charts.WIDE, [Series("a", points, dots=True)], "Loss", "loss"))
    assert sum(item.tag == "circle" for item in root.iter()) == 2


def test_labels_and_marks_are_escaped() -> None:
    hostile = '"><script>x</script>'
    svg = charts.line_chart(
        charts.WIDE, [Series("a", ((0.0, 1.0), (1.0, 2.0)), hostile)], hostile, hostile, [Mark(1, hostile)]
    )
    assert "<script" not in svg + charts.strips([(hostile, ("passed",))], 0, hostile)
    parsed(svg)


def test_end_labels_never_overlap() -> None:
    series = [Series("worker", ((0.0, 100.0), (1.0, 100.0 + index)), f"w{index}") for index in range(10)]
    series.append(Series("worker", ((0.0, 0.0), (1.0, 0.0)), "low"))
    root = parsed(charts.line_chart(charts.WIDE, series, "Stake", "stake"))
    labels = [item for item in root.iter() if item.text and item.text in {one.label for one in series}]
    heights = sorted(float(item.attrib["y"]) for item in labels)
    assert len(heights) == 11
    assert min(after - before for before, after in pairwise(heights)) >= charts.ROW - 0.2
    assert 0 <= heights[0] <= heights[-1] <= charts.WIDE.height - 30


@pytest.mark.parametrize("frame", [charts.WIDE, charts.NARROW])
@pytest.mark.parametrize(("count", "rounds"), [(1, 1), (2, 2), (64, 500)])
def test_everything_stays_inside_the_frame(frame: charts.Frame, count: int, rounds: int) -> None:
    series = [
        Series(
            "worker",
            tuple((float(x), float(1000 + peer)) for x in range(rounds)),
            f"w{peer}" if peer < 10 else "",
        )
        for peer in range(count)
    ]
    root = parsed(charts.line_chart(frame, series, "Stake", "stake", [Mark(0, "worker-3 convicted")]))
    for item in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert -1 <= float(item.attrib.get(name, 0)) <= frame.width
        for name in ("y", "y1", "y2", "cy"):
            assert -1 <= float(item.attrib.get(name, 0)) <= frame.height


def test_a_label_that_many_marks_share_is_written_once() -> None:
    marks = [Mark(3, "peer-3 convicted"), Mark(1, "peer-3 convicted"), Mark(2, "peer-5 convicted")]
    series = [Series("loss", ((0.0, 1.0), (4.0, 2.0)))]
    root = parsed(charts.line_chart(charts.WIDE, series, "Loss", "loss", marks))
    shapes = list(root.iter())
    labels = [item for item in shapes if (item.text or "").endswith("convicted") and item.tag == "text"]
    assert [item.text for item in labels] == ["peer-3 convicted", "peer-5 convicted"]
    assert float(labels[0].attrib["x"]) < float(labels[1].attrib["x"])
    dashed = [place for place, item in enumerate(shapes) if item.get("stroke-dasharray")]
    assert len(dashed) == 3
    assert shapes.index(labels[0]) > max(dashed)


def test_strips_merge_equal_neighbours_and_keep_grave_cells_visible() -> None:
    cells = ("passed",) * 200 + ("convicted",) + ("excluded",) * 299
    root = parsed(charts.strips([("worker-3", cells)], 0, "Audits"))
    drawn = {item.attrib["fill"]: float(item.attrib["width"]) for item in root.iter() if item.tag == "rect"}
    assert set(drawn) == {LIGHT[name] for name in ("good", "bad", "rule")}
    assert drawn[LIGHT["bad"]] >= 5


def test_a_strip_leaves_out_where_nothing_was() -> None:
    root = parsed(charts.strips([("worker-3", ("passed", "absent", "passed"))], 0, "Audits"))
    assert sum(item.tag == "rect" for item in root.iter()) == 2


DRAWINGS = (
    charts.line_chart(
        charts.WIDE,
        [SVG_LINE, Series("guilty", ((0.0, 1.0), (4.0, 2.0)), "worker-3"), Series("verifier", ((0.0, 1.5),), "v")],
        "Loss", "loss", [Mark(3, "worker-3 convicted")],
    ),
    charts.strips([("a", ("trained", "passed", "mismatch", "convicted", "excluded", "absent"))], 0, "Audits"),
    charts.bar(0.5),
)  # fmt: skip


def drawn_in(item: ElementTree.Element, inherited: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the tag of every shape and text, and the attributes that it has of its own or from around it."""
    own = inherited | {name: value for name, value in item.attrib.items() if name != "class"}
    if item.tag in {"path", "line", "circle", "rect", "text"}:
        yield item.tag, own
    for child in item:
        yield from drawn_in(child, own)


@pytest.mark.parametrize("svg", DRAWINGS, ids=["lines", "strips", "bar"])
def test_a_drawing_has_its_colours_and_its_type_without_the_page(svg: str) -> None:
    for tag, look in drawn_in(parsed(svg), {}):
        if tag in {"path", "line"}:
            assert look["fill"] == "none"
            assert look["stroke"] in LIGHT.values()
        else:
            assert look["fill"] in LIGHT.values()
        if tag == "text":
            assert (look["font-family"], look["font-size"]) == ("sans-serif", "12")


def test_the_page_knows_every_colour_of_a_drawing() -> None:
    assert set(DARK) == set(LIGHT)
    page = render(sample())
    classes = {
        name for svg in DRAWINGS for item in parsed(svg).iter() for name in item.get("class", "").split()
    }
    assert {name for name in classes if f".{name} {{" not in page} == set()


@pytest.mark.parametrize(
    ("share", "width"), [(0, "0"), (0.5, "60.0"), (1, "120"), (7, "120"), (math.nan, "0")]
)
def test_a_bar_stays_in_its_cell(share: float, width: str) -> None:
    assert [item.get("width") for item in parsed(charts.bar(share)) if item.tag == "rect"] == ["120", width]
