"""`bench wan` on hosts: links that are tried, the smallest training of ours and of DDP, and what ends it early."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import links, wan
from benchmarks.opponents import environments
from benchmarks.opponents.plan import Plan
from benchmarks.opponents.running import Theirs, Watcher
from benchmarks.opponents.starting import Start
from benchmarks.opponents.task import Shared
from benchmarks.wan_rows import rows_of, summarise
from trainer.hosts.net import Lab, laboratory
from trainer.hosts.system import obstacle, run
from trainer.lifetimes import python
from verification.errors import UserError

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PLAN = Plan("gpt2-0.1", 2, 2, 16, 2, 2, 0.05, 300.0)


@pytest.fixture
def lab() -> Iterator[Lab]:
    if obstacle():
        pytest.skip(obstacle())
    with laboratory() as made:
        yield made


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    return PLAN.start("ours", tmp_path_factory.mktemp("wan") / "run")


def test_a_link_carries_what_it_was_limited_to_or_is_refused(lab: Lab) -> None:
    hosts = [lab.public("one"), lab.public("other")]
    assert links.is_kept(links.limited(hosts, 10), 10)
    small = ["tbf", "rate", "10mbit", "burst", "1500", "latency", "400ms"]  # under a packet: nothing passes
    run("tc", "-n", hosts[0].space, "qdisc", "replace", "dev", "eth0", "root", *small)
    assert not links.is_kept(links.transfer(*hosts), 10)


def test_ours_and_ddp_train_the_same_over_one_shaped_link(start: Start, tmp_path: Path) -> None:
    if obstacle():
        pytest.skip(obstacle())
    measured = []
    for opponent in ("ours", "ddp"):
        folder = tmp_path / opponent
        folder.mkdir()
        interpreter = environments.python_of(opponent)
        measured.append(wan.measure(PLAN, opponent, 50.0, start, interpreter, folder, lambda line: None))
    rows = rows_of(measured)
    for row in rows:
        assert (row["is_whole"], row["failure"]) == (True, "")
        assert row["tokens"] == row["tokens_wanted"] == 2 * 4 * 2 * 16
        assert row["tokens_per_second"] > 0 and 0 < row["utilisation"] <= 1
        assert row["loss_held_out"] == pytest.approx(5.5, abs=0.5)
    bytes_of = {row["opponent"]: row["sent_bytes"] + row["received_bytes"] for row in rows}
    assert bytes_of["ddp"] > 4 * 2 * 2 * 4 * start.parameters  # steps, peers, directions, bytes
    assert bytes_of["ours"] > 2 * 2 * 2 * start.contribution * 0.5
    assert summarise(rows)["bytes_per_token"] > 0


def test_a_training_that_takes_too_long_is_stopped_without_a_failure(start: Start, tmp_path: Path) -> None:
    if obstacle():
        pytest.skip(obstacle())
    plan = replace(PLAN, rounds=1_000_000, limit=0.0)
    stopped = wan.measure(
        plan, "ddp", 100.0, start, environments.python_of("ddp"), tmp_path, lambda line: None
    )
    (row,) = rows_of([stopped])
    assert (row["is_whole"], row["failure"], row["loss_held_out"]) == (False, "", None)
    assert row["tokens"] < 2 * plan.batch * plan.length * 2_000_000


def test_a_peer_that_cannot_begin_says_why(lab: Lab, start: Start, tmp_path: Path) -> None:
    hosts = [lab.public(name) for name in ("one", "other", "server")]
    task = PLAN.task(tmp_path, hosts)
    start.write(Shared(tmp_path))
    server = python("-c", "import sys; sys.exit('no quorum')")
    theirs = Theirs("ddp", environments.python_of("ddp"), task, hosts, server)
    is_whole, failure, trained = Watcher(theirs, task, lambda line: None).watch(60.0, 32)
    assert not is_whole and trained is None and failure == "server ended before its time: no quorum"


def test_what_cannot_be_installed_is_one_line_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    nowhere = environments.Package("proofswarm-opponent-that-is-not", "1.0")
    monkeypatch.setitem(environments.PACKAGES, "nowhere", nowhere)
    with pytest.raises(UserError, match=r"^proofswarm-opponent-that-is-not==1\.0 cannot be installed: \S.*$"):
        environments.python_of("nowhere")
    assert not list(tmp_path.rglob(environments.READY))
