"""Refusals cost a line a minute, whoever sends however many."""

import logging
from pathlib import Path

import pytest
import trio

from p2p.errors import BrokenProtocol, Oversized
from p2p.identity import Identity
from p2p.mail import MAX_DETAIL, Mail
from p2p.refusals import SUMMARY_SECONDS, Refusals
from p2p.traffic import OTHERS, Refusal
from trainer.events import EventLog
from trainer.peer.record import Record
from verification.digest import tagged
from verification.errors import Malformed
from verification.units import Address, Millis

NOW = Millis(1_700_000_000_000)
MEMBER, OTHER = Address(b"\x01" * 20), Address(b"\x02" * 20)
FLOOD = 10_000


def strangers(count: int) -> list[Address]:
    """Accounts that no ledger knows."""
    return [Address(number.to_bytes(20, "big")) for number in range(1 << 20, (1 << 20) + count)]


def test_the_first_of_a_sender_and_reason_is_told_and_the_others_are_counted() -> None:
    told: list[Refusal] = []
    refusals = Refusals(told.append, {MEMBER, OTHER}.__contains__)
    for sender, reason in [(MEMBER, "Malformed"), (MEMBER, "Malformed"), (MEMBER, "Stale"), (OTHER, "Stale")]:
        refusals.note(Refusal(sender, reason, "so"))
    assert told == [
        Refusal(MEMBER, "Malformed", "so"),
        Refusal(MEMBER, "Stale", "so"),
        Refusal(OTHER, "Stale", "so"),
    ]
    refusals.summarise()
    refusals.summarise()
    assert told[3:] == [Refusal(MEMBER, "Malformed", "again", 1)]


async def test_once_a_minute_strangers_share_one_line(mock_clock: trio.testing.MockClock) -> None:
    told: list[Refusal] = []
    refusals = Refusals(told.append, {MEMBER}.__contains__)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refusals.run)
        await trio.testing.wait_all_tasks_blocked()
        for sender in strangers(FLOOD):
            refusals.note(Refusal(sender, "Malformed", "junk"))
        mock_clock.jump(SUMMARY_SECONDS - 1)
        await trio.testing.wait_all_tasks_blocked()
        assert told == [Refusal(OTHERS, "Malformed", "junk")]
        mock_clock.jump(1)
        await trio.testing.wait_all_tasks_blocked()
        assert told[1:] == [Refusal(OTHERS, "Malformed", "again", FLOOD - 1)]
        refusals.note(Refusal(MEMBER, "Stale", "old"))
        refusals.note(Refusal(MEMBER, "Stale", "old"))
        nursery.cancel_scope.cancel()
    assert told[2:] == [Refusal(MEMBER, "Stale", "old"), Refusal(MEMBER, "Stale", "again", 1)]


def test_ten_thousand_refusals_are_a_few_lines_and_all_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They were 13 kB a second in the event log, and a warning each."""
    path = tmp_path / "peer.jsonl"
    events = EventLog(path, "0xa")
    record = Record(events, lambda: NOW)
    mail = Mail(Identity(b"\x01" * 32), tagged("run"), lambda: NOW, record.refused, {MEMBER}.__contains__)
    with caplog.at_level(logging.INFO):
        for sender in strangers(FLOOD // 2):
            mail.refuse(sender, Oversized("x" * 2 * MAX_DETAIL))
            mail.refuse(MEMBER, Malformed("y"))
        mail.refuse(OTHERS, BrokenProtocol("z"))
        mail.refusals.summarise()
    events.close()
    assert sum(mail.counters.refusals().values()) == FLOOD + 1
    assert len(caplog.messages) == 5
    assert path.stat().st_size < 2_000
