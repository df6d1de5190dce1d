"""The page: one file, no script, nothing fetched, every value escaped, and true to the report."""

import dataclasses
import html.parser
import re

import pytest

from tests.sample_report import sample
from verification.report import figures, words
from verification.report.html import render
from verification.report.schema import Report

VOID = {"meta", "br"}


class Outline(html.parser.HTMLParser):
    """Checks that every element closes, and collects tags, attributes and visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""


def outline(report: Report) -> Outline:
    found = Outline()
    found.feed(render(report))
    found.close()
    assert found.open == []
    return found


@pytest.mark.parametrize(
    "report",
    [sample(), sample(cheat=False), sample(0, 0, 0), sample(1, 1, 1), sample(3, 1, 0), sample(31, 5, 2)],
    ids=["usual", "honest", "empty", "smallest", "unaudited", "long"],
)
def test_the_page_is_whole_and_fetches_nothing(report: Report) -> None:
    page = render(report)
    found = outline(report)
    assert not {tag for tag, _ in found.seen} & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not re.search(r"(?:src|href|action)\s*=|url\(|@import|https?:|//[a-z]", page)
    assert not [name for _, attributes in found.seen for name in attributes if name.startswith("on")]
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b|Undefined", found.text, re.IGNORECASE)


def test_the_page_tells_the_story() -> None:
    report = sample()
    text = " ".join(outline(report).text.split())
    dispute = report.disputes[0]
    for expected in (
        report.result.sentence,
        "worker-3 convicted",
        "worker-3 committed to its work for round 4",
        "inner step 12, node 1207 (product), number 17",
        dispute.claimed_digest,
        "17 of [2, 16] (row 1, column 1)",
        "0 to 1 of 2, added up",
        "claimed-31",
        "is-32",
        "The product of the k-th numbers of a row and of a column.",
        "01180[1, 0] = 14, 1181[0, 1] = -314 * -3-42",
        "11180[1, 1] = 5, 1181[1, 1] = 25 * 210",
        "nothing was made or lost",
        "What is the matter, sir?",
        "arithmetic",
        "worker-2: float64 products, the rest node by node, 2.9 times float32's time",
    ):
        assert expected in text


def test_in_print_only_what_fits_a_page_is_held_together() -> None:
    """A dispute is longer than a page: held together it would leave the page before it empty but for its heading."""
    printed = render(sample()).split("@media print")[1].split("</style>")[0]
    together = re.findall(r"([^{}]*)\{ break-inside: avoid; \}", printed)
    assert len(together) == 1
    assert ".dispute" not in together[0]


def test_a_bad_result_and_lost_money_show() -> None:
    report = sample()
    result = dataclasses.replace(report.result, ok=False)
    money = dataclasses.replace(report.money, burned=report.money.burned + 5)
    text = outline(dataclasses.replace(report, result=result, money=money)).text
    assert "Run not in order" in text
    assert "5 too much" in text


HOSTILE = "</style><script>alert(1)</script>\"'<img src=x onerror=y>{{ 7 * 7 }}\x1b[2J\u202e\ud800"


def _poisoned(value: object) -> object:
    """Put hostile text in every text field that no fixed choice limits."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, tuple):
        return tuple(_poisoned(item) for item in value)
    if isinstance(value, dict):
        return {HOSTILE: HOSTILE}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {"drawn", "outcome", "place", "verdict", "status"}
        changed = {
            field.name: getattr(value, field.name)
            if field.name in kept
            else _poisoned(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **changed)
    return value


@pytest.mark.parametrize("rounds", [10, 31])
def test_hostile_text_stays_text(rounds: int) -> None:
    report = _poisoned(sample(rounds))
    assert isinstance(report, Report)
    page = render(report)
    assert "<script" not in page
    assert "<img" not in page
    assert "49" not in page.split("</style>")[1].split("</h1>")[0]
    assert not set(page) & {"\x1b", "\u202e", "\ud800"}
    page.encode("utf-8")
    assert not [
        name for _, attributes in outline(report).seen for name in attributes if name.startswith("on")
    ]


@pytest.mark.slow
def test_64_workers_and_500_rounds_give_a_page_of_a_few_megabytes() -> None:
    page = render(sample(500, 64, 4))
    assert len(page) < 4_000_000
    assert "worker-64" in page


def test_the_matrix_shows_the_gravest_event() -> None:
    rows = {row.worker: row.cells for row in figures.matrix(sample())}
    names = words.Names(sample())
    by_name = {names(worker): cells for worker, cells in rows.items()}
    assert by_name["worker-3"][4:] == ("convicted",) + ("excluded",) * 5
    assert set(by_name["worker-1"]) == {"trained", "passed"}
    assert len(by_name) == 4


def test_totals_agree_with_the_rounds() -> None:
    total = figures.totals(sample())
    assert (total.commitments, total.included, total.mismatches) == (35, 35, 1)
    assert total.audits == total.passed + 1
    assert total.convicted == (sample().disputes[0].accused,)


def test_lost_audits_are_not_counted_as_run() -> None:
    report = sample()
    first = next(place for place, one in enumerate(report.rounds) if one.audits)
    lost = dataclasses.replace(report.rounds[first].audits[0], outcome="lost")
    changed = dataclasses.replace(report.rounds[first], audits=(*report.rounds[first].audits, lost))
    rounds = (*report.rounds[:first], changed, *report.rounds[first + 1 :])
    total = figures.totals(dataclasses.replace(report, rounds=rounds))
    assert total.audits == figures.totals(report).audits
    assert total.undecided == figures.totals(report).undecided + 1


def test_lines_that_end_together_share_a_label() -> None:
    labels = [
        series.label for series in figures.stake_series(sample(), words.Names(sample())) if series.label
    ]
    assert labels == ["5 peers", "worker-3"]
