"""Plain words: sizes, spans, money, and what a dispute says when little is known."""

import dataclasses

import pytest

from tests.sample_report import sample
from verification.causes import Cause, Reason
from verification.debts import ChunkDebt, Debt, LinkDebt, MoveDebt, OpeningDebt, RevealDebt
from verification.effects import DisputeMoved, Move
from verification.manifest import Place
from verification.report import words
from verification.report.schema import EvaluationReport, GroupMemberReport, PostReport, ShardReport
from verification.units import Address, Round


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
        cause=None,
        reason="",
        judged=None,
        moves=(),
    )
    story = words.story(dispute, words.Names(report))
    assert story.wrong.endswith("disagrees; the first difference lies in the epilogue.")
    assert "computed" not in story.settled
    assert story.settled == "Nobody could decide, no money moved."


def test_a_dispute_over_the_outer_step_is_about_a_signed_state() -> None:
    dispute = dataclasses.replace(sample().disputes[0], place="outer step", leaf=None, step=None)
    told = words.story(dispute, words.Names(sample()))
    assert told.wrong.startswith("worker-3 signed the state after round 4. verifier-1 computed another one; ")


def test_every_cause_has_words_of_its_own_for_the_facts_that_it_names() -> None:
    assert words.CAUSES.keys() == set(Cause)
    assert {cause for cause in Cause if cause.name.startswith("SPOILED_")} == words.SPOILED
    for cause in Cause:
        told = words.reason(Reason(cause, Round(7), Place.STEP, 0, 3, LinkDebt(Round(7)), 7, "7"))
        assert "{" not in told and "None" not in told
        assert ("7" in told) == ("{" in words.CAUSES[cause])
    assert len({words.CAUSES[cause] for cause in Cause}) == len(Cause)


@pytest.mark.parametrize(
    ("owed", "told"),
    [
        (OpeningDebt(Round(3)), "the opening of its leaves of round 3"),
        (RevealDebt(Round(3), Address(bytes(20))), "its verdict about 0x0000000000… in round 3"),
        (LinkDebt(Round(3)), "its link of session 3"),
        (MoveDebt(3), "its next move in dispute 4"),
        (ChunkDebt(3), "the chunk of demand 4"),
    ],
)
def test_a_debt_is_told_in_words(owed: Debt, told: str) -> None:
    assert words.reason(Reason(Cause.OWES, debt=owed)) == f"owes {told}"


def test_a_penalty_says_which_work_was_wrong() -> None:
    wrong = Reason(Cause.WRONG_NUMBER, Round(2), Place.STEP, 0, 8)
    assert words.penalty(wrong) == f"inner step of round 2: {words.CAUSES[Cause.WRONG_NUMBER]}"
    spoiled = Reason(Cause.SPOILED_SIZE, Round(2), Place.EPILOGUE, count=9)
    assert words.penalty(spoiled).startswith("spoiled contribution of round 2: its contribution has 9 bytes")
    assert words.penalty(Reason(Cause.NOT_OPENED, Round(2))) == "did not open its leaves of round 2"


def test_every_move_has_words() -> None:
    told = {move: words.move(DisputeMoved(0, Address(bytes(20)), move, 3, 5)) for move in Move}
    assert len(set(told.values())) == len(Move) and all("3" in text for text in told.values())
    assert "product" in words.move(DisputeMoved(0, Address(bytes(20)), Move.CONTESTS_NODES, 3, 3, "product"))


@pytest.mark.parametrize(
    ("move", "last", "told"),
    [
        (Move.CONTESTS_NUMBERS, 3, "contests number 3 of sum float32[8]"),
        (Move.CONTESTS_NUMBERS, 5, "contests numbers 3 to 5 of sum float32[8]"),
        (Move.CONTESTS_TERMS, 3, "contests term 3 of its number"),
        (Move.CONTESTS_TERMS, 5, "contests terms 3 to 5 of its number"),
        (Move.LISTS_TOTALS, 3, "listed 3 totals of its number"),
        (Move.NAMES_FAILURE, 3, "named number 3 as where its node fails"),
    ],
)
def test_what_is_contested_within_a_node_is_told(move: Move, last: int, told: str) -> None:
    assert words.move(DisputeMoved(0, Address(bytes(20)), move, 3, last, "sum float32[8]")) == told


def test_machines_of_a_group_are_told_by_what_they_share() -> None:
    by_records = (GroupMemberReport(6, 31_400), GroupMemberReport(2, 0))
    assert words.group(by_records) == ["2 machines, of each step 6 records in 31.4 ms, 2 records"]
    first = ShardReport(300, "embed.weight", "layers.0.norm", 500, 2_000, 1_000)
    by_shards = (
        GroupMemberReport(8, 1_500, first),
        GroupMemberReport(8, 0, ShardReport(100, "head", "head", 0, 0, 0)),
    )
    assert words.group(by_shards) == [
        "machine 1 holds 75% of the model, embed to layers.0.norm; of 2.0 ms a step it waits 25%, sends 2.0 kB and "
        "receives 1.0 kB",
        "machine 2 holds 25% of the model, head, sends 0 B and receives 0 B",
    ]


def test_a_member_of_crews_is_told_by_its_shard() -> None:
    held = PostReport(0, 1, 3, 0.34, 14, 5, 40_000, 12_000, 3_000_000, 1_500_000)
    alone = "shard 2 of 3, 14 parameters, 34% of a crew's work"
    told = f"{alone}; in 5 rounds, of 40.0 s it waited 30%, gave 3.0 MB and took 1.5 MB"
    assert words.post(held) == told
    assert words.post(dataclasses.replace(held, millis=0)) == alone


def test_losses_are_told_by_token_and_by_byte() -> None:
    seen = EvaluationReport(6.0, 3.0, 4.0, "", "", "")
    assert words.losses(seen) == "6.000 → 3.000 nats a token, 1.500 → 0.750 nats a byte"
    assert words.losses(dataclasses.replace(seen, bytes_per_token=1.0), "to") == "6.000 to 3.000 nats a byte"
    assert words.losses(dataclasses.replace(seen, bytes_per_token=None)) == "6.000 → 3.000"
    assert words.losses(dataclasses.replace(seen, loss_after=None)) == "6.000 → –"
