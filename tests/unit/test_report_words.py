"""Plain words: sizes, spans, money, and what a dispute says when little is known."""

import dataclasses

import pytest

from tests.sample_report import sample
from verification.report import words


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_960, "100 kB"),
        (25_043_000, "25.0 MB"),
        (10**18, "1000 PB"),
    ],
)
def test_data_sizes(count: int, expected: str) -> None:
    assert words.data_size(count) == expected


@pytest.mark.parametrize(
    ("millis", "expected"),
    [(-5, "0.0 s"), (1500, "1.5 s"), (59_970, "1 min 0 s"), (64_000, "1 min 4 s"), (7_380_000, "2 h 3 min")],
)
def test_durations(millis: int, expected: str) -> None:
    assert words.duration(millis) == expected


def test_money_and_counts() -> None:
    assert words.amount(1234567) == "1\u202f234\u202f567"
    assert words.counted(1, "dispute") == "1 dispute"
    assert words.counted(0, "dispute") == "0 disputes"


def test_an_unknown_peer_goes_by_its_address() -> None:
    assert words.Names(sample())("0x" + "ab" * 20) == "0xababababab…"


def test_a_dispute_that_never_narrowed_claims_nothing_more() -> None:
    report = sample()
    dispute = dataclasses.replace(
        report.disputes[0],
        leaf=None,
        step=None,
        node=None,
        operator=None,
        near=None,
        place="epilogue",
        verdict="void",
        reason="",
        computed_digest="",
        moves=(),
    )
    story = words.story(dispute, words.Names(report))
    assert story.wrong.endswith("disagrees; the first difference lies in the epilogue.")
    assert "executed" not in story.settled
    assert story.settled == "Nobody could decide, no money moved."


def test_a_dispute_over_the_outer_step_is_about_a_signed_state() -> None:
    dispute = dataclasses.replace(sample().disputes[0], place="outer step", leaf=None, step=None)
    told = words.story(dispute, words.Names(sample()))
    assert told.wrong.startswith("worker-3 signed the state after round 4. verifier-1 computed another one; ")
