"""A peer's record: whole lines, also after a crash in the middle of one."""

import errno
import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from trainer.events import EventLog, Tail, older, read_events, read_lines
from verification.errors import UserError
from verification.units import Millis

NOW = Millis(1_700_000_000_000)
TORN = (b"{", b'{"at": 5, "peer": "0xa", "ki', b'{"at": 5, "peer": "0xa", "kind": "\xc3', b"\x00\x00\x00")


def write(path: Path, *kinds: str) -> None:
    """Append events of these kinds, as one start of a peer does."""
    log = EventLog(path, "0xa")
    for number, kind in enumerate(kinds):
        log.write(NOW, kind, number=number)
    log.close()


def kinds(path: Path) -> list[str]:
    """Return the kinds in a file."""
    return [event["kind"] for event in read_events(path)]


def test_events_read_back(tmp_path: Path) -> None:
    path = tmp_path / "events" / "peer.jsonl"
    write(path, "started", "ended")
    write(path, "started")
    first, second, third = read_events(path)
    assert first == {"at": NOW, "peer": "0xa", "kind": "started", "number": 0}
    assert (second["kind"], third["kind"]) == ("ended", "started")


def test_a_line_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    path = tmp_path / "peer.jsonl"
    log = EventLog(path, "0xa")
    log.write(NOW, "started", text="several\nlines é")
    assert json.loads(path.read_bytes())["text"] == "several\nlines é"
    assert path.read_bytes().count(b"\n") == 1
    log.close()


class FullDisk:
    """A file on a disk that takes so many bytes more."""

    def __init__(self, room: int) -> None:
        self._room = room

    def write(self, data: bytes) -> int:
        """Write what there is room for; raises OSError where there is none."""
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken, self._room = min(self._room, len(data)), 0
        return taken


@pytest.mark.parametrize("room", [0, 10])
def test_a_full_disk_is_one_line_that_names_the_log(tmp_path: Path, room: int) -> None:
    path = tmp_path / "peer.jsonl"
    log = EventLog(path, "0xa")
    with closing(log._file):
        log._file = FullDisk(room)  # type: ignore[assignment]
        with pytest.raises(UserError, match=f"{path}: No space left on device; free space on its disk"):
            log.write(NOW, "started")


@pytest.mark.parametrize("torn", TORN)
def test_a_line_cut_by_a_crash_costs_only_itself(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "peer.jsonl"
    write(path, "started", "said")
    with path.open("ab") as file:
        file.write(torn)
    assert kinds(path) == ["started", "said"]
    write(path, "started", "ended")
    assert kinds(path) == ["started", "said", "started", "ended"]
    assert path.read_bytes().count(torn) >= 1


def test_a_line_that_is_no_event_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "peer.jsonl"
    path.write_text('5\n[]\n{"kind": "started"}\n\n')
    write(path, "started")
    assert kinds(path) == ["started"]


@pytest.mark.parametrize("line", ["1" * 6_000, "[" * 100_000, '{"at": ' + "1" * 6_000 + "}", "nul", "\x00"])
def test_a_line_that_no_reader_can_take_is_an_empty_event(tmp_path: Path, line: str) -> None:
    path = tmp_path / "peer.jsonl"
    path.write_text(line + "\n")
    write(path, "started")
    assert [event.get("kind") for event in read_lines(path)] == [None, "started"]
    assert kinds(path) == ["started"]


def test_what_a_person_is_told_is_one_clean_line(tmp_path: Path) -> None:
    """A peer's word cleared the terminal, and forged a line of its own."""
    told: list[str] = []
    log = EventLog(tmp_path / "peer.jsonl", "0xa", told.append)
    log.write(NOW, "dropped", source="0xb", reason="\x1b[2J\nended digest=\u202eff\r\x07")
    log.close()
    assert told == ["dropped source=0xb reason=·[2J ended digest=·ff··"]


def test_a_tail_gives_each_line_once_and_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "peer.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    write(path, "started")
    with path.open("ab") as file:
        file.write(b'{"at": 5, "peer": "0xa", "kind": "sa')
        file.flush()
        assert [event["kind"] for event in tail.read()] == ["started"]
        assert tail.read() == []
        file.write(b'id"}\n{"at": 5, "pe')
    assert [event["kind"] for event in tail.read()] == ["said"]
    write(path, "started")
    assert [event["kind"] for event in tail.read()] == ["started"]


def test_a_log_is_two_files_at_most_and_read_in_order(tmp_path: Path) -> None:
    """One stranger filled a disk with 1.1 GB a day."""
    path, limit, tail = tmp_path / "peer.jsonl", 1_000, Tail(tmp_path / "peer.jsonl")
    seen = []
    for _ in range(2):
        log = EventLog(path, "0xa", limit=limit)
        for number in range(100):
            log.write(NOW, "said", number=number)
            seen += [event["number"] for event in tail.read()]
            assert path.stat().st_size <= limit
        log.close()
    assert {file.name for file in tmp_path.iterdir()} == {"peer.jsonl", "peer.jsonl.1"}
    assert older(path).stat().st_size <= limit
    assert older(path).stat().st_mode & 0o777 == 0o600
    numbers = [event["number"] for event in read_events(path)]
    assert numbers == list(range(100 - len(numbers), 100))
    assert len(numbers) > limit // 100
    assert seen == [*range(100), *range(100)]
    assert [event["number"] for event in Tail(path).read()] == numbers


def test_a_line_longer_than_a_log_is_written_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "peer.jsonl"
    log = EventLog(path, "0xa", limit=100)
    for kind in ("started", "said", "ended"):
        log.write(NOW, kind, text="x" * 200)
    log.close()
    assert kinds(path) == ["said", "ended"]
