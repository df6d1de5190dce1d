"""Where a run's figures are logged: every form reads back, goes on after any end, and touches nobody else's file."""

import csv
import functools
import json
import random
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from simulator.cast import Actor, Verifier, Worker
from simulator.toy import minimal
from simulator.world import World
from trainer.events import EventLog
from trainer.folder import RunFolder
from trainer.logs.destination import Destination, destination
from trainer.logs.run_log import EVALUATION, Evaluation, RunLog, event_logs, logged
from verification.errors import UserError
from verification.ledger.log import Entry, genesis_of
from verification.manifest import BundleRef
from verification.report.course import BEFORE, UNITS, Row
from verification.signing import checksum
from verification.units import MILLION, Digest, Millis, Round

RUN, OTHER = Digest(b"\x5a" * 32), Digest(b"\x3c" * 32)
FORMS = ("figures.csv", "figures.jsonl", "board/")
ROWS = [
    Row(Round(number), name, value, Millis(1_700_000_000_000 + 7 * number))
    for number in range(3)
    for name, value in (
        ("train/loss", 2.5 / (1 + number)),
        ("audits/passed", number),
        ("money/paid", 2**60 + number),
    )
]


def opened(folder: Path, name: str, run: Digest = RUN) -> Destination:
    """Return an open destination."""
    there = destination(f"{folder}/{name}", run)
    there.open()
    return there


def written(folder: Path, name: str, rows: Sequence[Row] = ROWS, run: Digest = RUN) -> Path:
    """Log rows in a destination from the start and return its file."""
    there = opened(folder, name, run)
    there.write(rows)
    there.close()
    return file_in(folder, name)


def file_in(folder: Path, name: str) -> Path:
    """Return the file of a destination."""
    return next((folder / name).rglob("*tfevents*")) if name.endswith("/") else folder / name


def read_lines(path: Path) -> list[dict[str, object]]:
    """Return the rows of a file of text."""
    with path.open(encoding="utf-8", newline="") as file:
        return [json.loads(line) for line in file] if path.suffix == ".jsonl" else list(csv.DictReader(file))


def test_lines_read_back(tmp_path: Path) -> None:
    row = ROWS[0]
    whole = {
        "run": "5a" * 8, "round": 0, "name": "train/loss", "value": 2.5, "unit": "nats", "at_ms": 1_700_000_000_000,
    }  # fmt: skip
    assert read_lines(written(tmp_path, "one.jsonl", [row])) == [whole]
    assert read_lines(written(tmp_path, "one.csv", [row])) == [{k: str(v) for k, v in whole.items()}]
    numbers = [line["value"] for line in read_lines(written(tmp_path, "all.jsonl"))]
    assert numbers == [row.value for row in ROWS]
    assert [line["value"] for line in read_lines(written(tmp_path, "all.csv"))] == list(map(str, numbers))


def test_tensorboard_reads_its_file(tmp_path: Path) -> None:
    board = EventAccumulator(str(written(tmp_path, "board/").parent))
    board.Reload()
    assert board.Tags()["scalars"] == ["train/loss", "audits/passed", "money/paid"]
    for name in board.Tags()["scalars"]:
        expected = [row for row in ROWS if row.name == name]
        found = board.Scalars(name)
        assert [(each.step, each.wall_time) for each in found] == [
            (row.round, row.at / 1000) for row in expected
        ]
        assert [each.value for each in found] == pytest.approx([row.value for row in expected], rel=1e-7)
        assert board.SummaryMetadata(name).summary_description == UNITS[name]


def test_runs_lie_beside_each_other_on_a_board(tmp_path: Path) -> None:
    for run in (RUN, OTHER):
        there = opened(tmp_path, "board/", run)
        there.write(ROWS)
        there.close()
    assert sorted(path.name for path in (tmp_path / "board").iterdir()) == ["3c" * 8, "5a" * 8]


@pytest.mark.parametrize("name", FORMS)
def test_a_log_goes_on_wherever_it_was_cut(name: str, tmp_path: Path) -> None:
    """At every byte: within the last row, an earlier one, the heading, and before it."""
    path = written(tmp_path, name)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        there = opened(tmp_path, name)
        assert there.last in {BEFORE, *(row.position for row in ROWS)}
        there.write(ROWS)
        there.close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize("name", FORMS)
def test_rows_that_are_there_are_not_written_again(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, name, ROWS[:4])
    there = opened(tmp_path, name)
    assert there.last == ROWS[3].position
    for number in range(len(ROWS)):
        there.write(ROWS[: number + 1])
    there.close()
    assert path.read_bytes() == file_in(tmp_path, name).read_bytes()
    assert path.read_bytes() == written(tmp_path / "whole", name).read_bytes()


def refuses(path: Path, name: str, folder: Path, data: bytes) -> None:
    """Check that a file of these bytes is refused in one line, and left as it is."""
    path.write_bytes(data)
    before = path.stat()
    with pytest.raises(UserError, match="is no log of run 5a5a5a5a5a5a5a5a, and stays as it is") as refused:
        opened(folder, name)
    assert "\n" not in str(refused.value)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (data, before.st_mtime_ns)


FOREIGN = [b"\n", b"run,round,name\n", b"step,loss\n1,2.0\n", b"{}\n", b"\x00" * 40, b"5a" * 200]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("data", FOREIGN)
def test_a_file_of_something_else_stays_as_it_is(name: str, data: bytes, tmp_path: Path) -> None:
    refuses(written(tmp_path, name), name, tmp_path, data)


@pytest.mark.parametrize("name", FORMS)
def test_a_log_of_another_run_stays_as_it_is(name: str, tmp_path: Path) -> None:
    other = written(tmp_path / "other", name, run=OTHER).read_bytes()
    refuses(written(tmp_path, name), name, tmp_path, other)


LAST = ROWS[-1].name.encode()
SPOILED = [b"money/lent", b"", b"x,y", b'","at_ms":[', b"\xff"]


@pytest.mark.parametrize("name", ["figures.csv", "figures.jsonl"])
@pytest.mark.parametrize("word", SPOILED)
def test_a_log_with_a_last_row_that_is_none_stays_as_it_is(name: str, word: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, name)
    first, last = path.read_bytes().rsplit(LAST, 1)
    refuses(path, name, tmp_path, first + word + last)


def test_one_process_writes_a_file(tmp_path: Path) -> None:
    there = opened(tmp_path, "figures.csv")
    with pytest.raises(UserError, match="another process writes it"):
        opened(tmp_path, "figures.csv")
    there.close()
    opened(tmp_path, "figures.csv").close()


@pytest.mark.parametrize("name", ["", "figures.txt", "figures.json", "wandb.run"])
def test_a_name_of_no_form_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is neither FILE\.csv nor FILE\.jsonl"):
        destination(name, RUN)


def test_weights_and_biases_are_told_of_in_a_line() -> None:
    with pytest.raises(UserError, match=r"log to FILE\.jsonl; docs/logs\.md shows how to bring that there"):
        destination("wandb:runs", RUN)


def test_a_board_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "trainer.logs.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    with pytest.raises(UserError, match=r"pip install 'proofswarm\[logs\]' brings it"):
        destination("board/", RUN)


ROUNDS = 4


@functools.cache
def played() -> World:
    """Return a finished run."""
    actors: list[Actor] = [Worker("w0"), Worker("w1"), Verifier("v0")]
    world = World(minimal(audit_rate=MILLION, rounds=ROUNDS), actors, random.Random(2))
    world.run()
    return world


def recorded(folder: Path) -> RunFolder:
    """Return a run's folder with the logs of its workers, the first of which became long."""
    run = RunFolder(folder / "run")
    for place, actor in enumerate(played().actors[:2]):
        who, limit = checksum(actor.address), 400 if place == 0 else 1 << 20
        with closing(EventLog(run.log(actor.name), who, limit=limit)) as log:
            for number in range(ROUNDS):
                log.write(
                    Millis(1), "computed", round=number, worker=who, own=True, loss=2.0 + number + place
                )
    return run


def log_of(
    run: RunFolder, names: Sequence[str], told: list[str], evaluation: Evaluation | None = None
) -> RunLog:
    """Return an open log of the run's folder."""
    log = RunLog(run, event_logs(run), told.append, evaluation)
    log.open(names, genesis_of(played().ledger.log[0]).run)
    return log


def entries() -> list[Entry]:
    """Return the run's ledger."""
    return list(played().ledger.log)


def test_a_run_is_logged_with_the_losses_of_its_peers(tmp_path: Path) -> None:
    run, told = recorded(tmp_path), list[str]()
    names = [str(tmp_path / name) for name in ("a.csv", "a.jsonl", "a")]
    with closing(log_of(run, [*names, names[0]], told)) as log:
        log.take(entries())
    lines = read_lines(tmp_path / "a.jsonl")
    assert [line["value"] for line in lines if line["name"] == "train/loss"] == [2.5, 3.5, 4.5, 5.5]
    assert {line["run"] for line in lines} == {played().state.run.hex()[:16]}
    assert [line["value"] for line in read_lines(tmp_path / "a.csv")] == [
        str(line["value"]) for line in lines
    ]
    board = EventAccumulator(str(next((tmp_path / "a").iterdir())))
    board.Reload()
    assert sorted(board.Tags()["scalars"]) == sorted({str(line["name"]) for line in lines})
    assert [each.step for each in board.Scalars("money/paid")] == list(range(ROUNDS + 1))
    assert told == []


def test_a_log_that_is_ended_anywhere_becomes_the_same(tmp_path: Path) -> None:
    run, told = recorded(tmp_path), list[str]()
    with closing(log_of(run, [str(tmp_path / "whole.csv")], told)) as log:
        log.take(entries())
    for length in range(0, len(entries()), 5):
        for _ in range(
            2
        ):  # started again it folds from the first entry on, and so does one that sees nothing new
            with closing(log_of(run, [str(tmp_path / "parts.csv")], told)) as log:
                for entry in entries()[: length + 1]:
                    log.take([entry])
    with closing(log_of(run, [str(tmp_path / "parts.csv")], told)) as log:
        log.take(entries())
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_every_few_rounds_a_state_is_judged_once(tmp_path: Path) -> None:
    run, seen, told = recorded(tmp_path), list[BundleRef](), list[str]()

    def loss(ref: BundleRef) -> float | None:
        seen.append(ref)
        return 1.5 if len(seen) == 1 else None

    for _ in range(2):
        with closing(log_of(run, [str(tmp_path / "a.jsonl")], told, Evaluation(2, loss))) as log:
            log.take(entries())
    lines = read_lines(tmp_path / "a.jsonl")
    assert [(line["round"], line["value"]) for line in lines if line["name"] == EVALUATION] == [(1, 1.5)]
    assert seen == [played().state.rounds[number].sealed for number in (1, 3)]
    assert [line["round"] for line in lines] == sorted(int(str(line["round"])) for line in lines)


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let no file of this process become longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_is_told_once_and_the_rest_goes_on(tmp_path: Path) -> None:
    run, told = recorded(tmp_path), list[str]()
    small, large = str(tmp_path / "a.csv"), str(tmp_path / "a.jsonl")
    with closing(log_of(run, [small], told)) as log:
        log.take(entries())
    whole = (tmp_path / "a.csv").read_bytes()
    (tmp_path / "a.csv").unlink()
    with closing(log_of(run, [large, small], told)) as log:
        for entry in entries():
            with room(len(whole) // 2 + 5):
                log.take([entry])
        assert log.destinations == []
    assert len(told) == 2  # a line for each destination
    assert told[1].startswith(
        f"--log-to {small}: No space left on device: nothing more is logged there; mend it, and"
    )
    assert f"'proofswarm run log {run.path} --log-to {small}' adds what is missing" in told[1]
    cut = (tmp_path / "a.csv").read_bytes()
    assert len(cut) == len(whole) // 2 + 5 and not cut.endswith(b"\n")
    with closing(log_of(run, [small], told)) as log:
        log.take(entries())
    assert (tmp_path / "a.csv").read_bytes() == whole


def test_a_place_that_cannot_be_opened_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    run, told = recorded(tmp_path), list[str]()
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "b.csv").mkdir()
    names = [str(tmp_path / name) for name in ("file/a.csv", "b.csv", "c.csv")]
    with closing(log_of(run, names, told)) as log:
        log.take(entries())
    assert [line.split(": ")[1] for line in told] == ["Not a directory", "Is a directory"]
    assert read_lines(tmp_path / "c.csv")


def test_a_refused_place_leaves_no_other_open(tmp_path: Path) -> None:
    run, told = recorded(tmp_path), list[str]()
    (tmp_path / "b.csv").write_text("step,loss\n")
    with pytest.raises(UserError, match="is no log of run"):
        log_of(run, [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")], told)
    log_of(run, [str(tmp_path / "a.csv")], told).close()


def test_a_peer_logs_in_a_thread_and_waits_for_its_end(tmp_path: Path) -> None:
    run, told = recorded(tmp_path), list[str]()
    identity = genesis_of(played().ledger.log[0]).run
    with logged(run, identity, [str(tmp_path / "a.csv")], told.append) as watch:
        for entry in entries():
            watch([entry])
    with closing(log_of(run, [str(tmp_path / "b.csv")], told)) as log:
        log.take(entries())
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    with logged(run, identity, [], told.append) as watch:
        watch(entries())
