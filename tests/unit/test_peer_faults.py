"""What others serve, or a moment without disk space, never ends a peer: it is logged and tried again."""

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from p2p.blobs import BlobStore
from p2p.messages import Hint, Hints
from p2p.transport import PeerAddress
from tests.patience import WHOLE
from trainer.compute import orders
from trainer.compute.client import ComputeClient
from trainer.events import EventLog
from trainer.folder import RunFolder
from trainer.peer import deeds as deeds_module
from trainer.peer.config import Account, Joining, PeerConfig
from trainer.peer.policy import Look
from trainer.peer.runtime import (
    DESCRIPTORS,
    LONGEST_PAUSE,
    RETRY_SECONDS,
    Peer,
    pause_after,
    raise_descriptor_limit,
)
from trainer.rounds.machine import Kernels
from trainer.runs.create import Created
from verification.codec import encode
from verification.errors import ProofswarmError, Unavailable, Unsound, UserError
from verification.honest import actions, holding
from verification.honest.decide import Me
from verification.honest.view import View
from verification.ledger.local import read_genesis
from verification.manifest import BundleRef, Post
from verification.sizes import AROUND
from verification.statements import Opening, Spoiled, Withdraw
from verification.units import Address, Amount, Count, Digest, Round

ACTION = actions.FetchState(Round(0))


@pytest.fixture
def folder(tiny_run: Created, tmp_path: Path) -> RunFolder:
    """A run of the test's own, with a peer's folder."""
    copied = RunFolder(Path(shutil.copytree(tiny_run.folder.path, tmp_path / "run")))
    copied.peer("peer-0").mkdir(parents=True)
    return copied


def make_peer(folder: RunFolder) -> Peer:
    """Return a peer that has not been started."""
    config = PeerConfig(folder, Account.read(folder.keys / "peer-0.key"), Joining("worker"))
    events = EventLog(folder.log("peer-0"), "peer-0")
    return Peer(config, read_genesis(folder.ledger), events)


async def test_what_a_host_would_not_take_is_not_said(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = make_peer(folder)
    ledger, depot = peer._ledger, peer._depot
    await ledger.open()
    commit = SimpleNamespace(contribution=BundleRef(Digest(bytes(32)), Digest(bytes(32))))
    worker = Address(bytes(20))
    ledger._ledger.state.rounds.append(
        SimpleNamespace(commits={worker: commit}, attests={}, members={})  # type: ignore[arg-type]
    )
    shown = Spoiled(Round(0), worker, Count(1), Digest(bytes(32)), b"")

    async def fetched(*args: object) -> None:
        return None

    async def checked(order: object, *args: object) -> orders.Checked:
        return orders.Checked(False, shown)

    monkeypatch.setattr(depot, "fetch_contribution", fetched)
    monkeypatch.setattr(peer._bench, "ask", checked)
    ask = actions.FetchContribution(Round(0), worker)
    for is_served, size, said in ((False, 1 << 20, True), (True, 1 << 19, True), (True, 1 << 20, False)):
        shown = replace(shown, data=bytes(size))
        monkeypatch.setattr(ledger, "_follower", object() if is_served else None)
        assert await peer._deeds._fetch_contribution(ask) == (shown if said else False)
    assert reasons(folder) == ["the ledger's host takes no statement that long"]


HOST = PeerAddress(Address(bytes(20)), "")
ME = Me(Address(bytes(20)), bytes(32), "worker", Amount(1), 1, "")


def reasons(folder: RunFolder) -> list[str]:
    """Return why what the peer tried has failed."""
    events = [json.loads(line) for line in folder.log("peer-0").read_text().splitlines()]
    return [event["reason"] for event in events if event["kind"] == "failed"]


async def test_a_state_of_the_right_digest_over_garbage_is_tried_again(
    folder: RunFolder, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = make_peer(folder)
    await peer._ledger.open()
    peer._depot.adopt(BlobStore(folder.blobs))
    peer._check_run()
    garbage = BundleRef(peer._manifest.start.digest, peer._store.put(b"garbage"))
    monkeypatch.setattr("trainer.peer.deeds.state_before", lambda state, number: garbage)
    await peer._perform(ACTION, ME)
    assert ACTION not in peer._results.done
    assert len(reasons(folder)) == 1


@pytest.mark.parametrize("post", [None, Post(Count(0), Count(1))])
@pytest.mark.parametrize("own", [True, False])
async def test_a_step_of_a_drawn_round_is_checked_before_anything_is_committed(
    folder: RunFolder,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    own: bool,
    post: Post | None,
) -> None:
    """SPEC.md 9.6: a worker's of its own round, a verifier's of the one that it audits, and so in crews."""
    asked: list[orders.RunJob] = []
    peer = make_peer(folder)
    start = peer._manifest.start
    action = actions.RunRound(Round(1), Address(bytes(20)))

    async def job(number: Round, worker: Address, as_auditor: bool) -> orders.RunJob:
        return orders.RunJob(number, worker, Digest(bytes(32)), Count(3), start, own, post=post)

    is_broken = False

    async def ask(order: orders.RunJob, urgency: int) -> orders.JobDone:
        asked.append(order)
        if is_broken and order.rerun:
            raise Unsound("computed in another way it has another digest")
        return orders.JobDone((), start, Count(0), 0, False)

    async def run(order: orders.RunJob, post: Post) -> orders.JobDone:
        return await ask(order, 0)

    monkeypatch.setattr(peer._deeds, "_job", job)
    monkeypatch.setattr(peer._deeds._crew, "run", run)
    monkeypatch.setattr(peer._bench, "ask", ask)
    monkeypatch.setattr(deeds_module.secrets, "randbelow", lambda below: below - 1)
    await peer._deeds.compute(action)
    peer._deeds._check_cost = 8000
    await peer._deeds.compute(action)
    assert [order.rerun for order in asked] == [3, 0], "a round is drawn where a step made twice is dear"
    peer._deeds._check_cost, is_broken = 0, True
    with pytest.raises(Unsound):
        await peer._deeds.compute(action)
    peer._deeds._check_cost, is_broken = 8000, False
    for _ in range(2):
        await peer._deeds.compute(action)
    assert [order.rerun for order in asked[2:]] == [3, 3, 0], (
        "after a fault none is left out until one has passed"
    )


def test_a_peer_checks_what_it_stakes_on(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `run create` refuses is refused here too: whoever wrote the ledger may have left that out."""
    peer = make_peer(folder)
    peer._depot.adopt(BlobStore(folder.blobs))
    peer._check_run()
    manifest = peer._manifest
    monkeypatch.setattr(Opening, "limit", AROUND)
    with pytest.raises(UserError, match=r"this peer does not take the run: .*Opening of 3 leaves"):
        peer._check_run()
    monkeypatch.undo()
    peer._manifest = replace(manifest, money=replace(manifest.money, worker_stake=Amount(10)))
    with pytest.raises(UserError, match=r"does not take the run: cheating would pay .* --accept-unsound"):
        peer._check_run()
    peer._config = replace(peer._config, joining=Joining("worker", accept_unsound=True))
    peer._check_run()


@pytest.mark.parametrize(
    ("golden", "agrees", "told"),
    [
        (False, True, "reproduce the run's golden step"),
        (True, False, "the same of the run's step in two ways"),
    ],
)
async def test_a_machine_that_computes_otherwise_does_not_stake_and_refused_kernels_are_told(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, golden: bool, agrees: bool, told: str
) -> None:
    """A person hears one line of what is slow; the log keeps what steps run on."""
    heard: list[str] = []
    kernels = Kernels(("float64",), False, "no C compiler was found", Count(2900))
    prepared = orders.Prepared(golden, agrees, Count(7), kernels, Count(8000))

    async def ask(order: orders.Prepare, urgency: int) -> orders.Prepared:
        return prepared

    peer = make_peer(folder)
    monkeypatch.setattr(peer._bench, "ask", ask)
    monkeypatch.setattr(ComputeClient, "pid", 1)
    monkeypatch.setattr(peer, "_config", replace(peer._config, tell=heard.append))
    async with peer._post:
        with pytest.raises(UserError, match=told) as refused:
            await peer._prepare()
    assert f"proofswarm doctor {folder.path}" in str(refused.value)
    assert heard == ["slow: no C compiler was found (a step takes 2.9 times PyTorch's float32 here)"]
    events = [json.loads(line) for line in folder.log("peer-0").read_text().splitlines()]
    (said,) = [event for event in events if event["kind"] == "kernels"]
    assert (said["products"], said["compiled"], said["over_float32"]) == (["float64"], False, 2.9)


@pytest.mark.parametrize("fault", [OSError(24, "Too many open files"), ProofswarmError("the round fails")])
async def test_a_moment_without_descriptors_is_waited_out(
    folder: RunFolder,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
) -> None:
    faults = [fault]

    async def compute(action: actions.Computed, look: Look) -> bool:
        if faults:
            raise faults.pop()
        return True

    peer = make_peer(folder)
    await peer._ledger.open()
    began = trio.current_time()
    monkeypatch.setattr(peer._policy, "compute", compute)
    await peer._perform(ACTION, ME)
    assert ACTION not in peer._results.done
    await peer._perform(ACTION, ME)
    assert peer._results.done[ACTION] is True
    assert reasons(folder) == [str(fault)]
    assert trio.current_time() == began + RETRY_SECONDS


async def test_a_machine_at_fault_tries_ever_more_seldom_and_says_so(
    folder: RunFolder, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try costs a whole round; one that comes out begins from a second again, as does another round."""
    heard: list[str] = []
    pauses: list[float] = []
    faults = [*[Unsound("step 3 of round 1")] * 12, None, Unsound("step 3 of round 1")]

    async def compute(action: actions.Computed, look: Look) -> bool:
        fault = faults.pop(0)
        if fault is not None:
            raise fault
        return True

    peer = make_peer(folder)
    await peer._ledger.open()
    monkeypatch.setattr(peer, "_config", replace(peer._config, tell=heard.append))
    monkeypatch.setattr(peer._policy, "compute", compute)
    while faults:
        began = trio.current_time()
        await peer._perform(ACTION, ME)
        pauses.append(trio.current_time() - began)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 0, 1]
    assert len(reasons(folder)) == len(heard) == 13
    assert heard[2] == (
        "at fault: step 3 of round 1: nothing is committed to; tried again in 4 s, see "
        f"'proofswarm doctor {folder.path}'"
    )
    assert pause_after(10_000) == LONGEST_PAUSE


async def test_what_stands_on_a_lost_blob_is_asked_for_again(
    folder: RunFolder, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that had lost one tried to compute without it once a second until it was started again."""
    peer = make_peer(folder)
    await peer._ledger.open()
    peer._depot.adopt(BlobStore(folder.blobs))
    lost = 0

    async def compute(action: actions.Computed, look: Look) -> bool:
        nonlocal lost
        if peer._store.has(peer._manifest.start.blob):
            return True
        lost += 1
        raise Unavailable("blob is not in the store")

    monkeypatch.setattr(peer._policy, "compute", compute)
    await peer._perform(ACTION, ME)
    assert peer._results.done == {ACTION: True}
    peer._store.path(peer._manifest.start.blob).unlink()
    await peer._perform(actions.RunOuter(Round(0)), ME)
    assert lost == 1
    assert peer._results.done == {}


async def test_a_fetch_that_nobody_waits_for_ends(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An author that serves its chunks just in time held a peer's slots for rounds that were long over."""
    peer, started, ended = make_peer(folder), trio.Event(), trio.Event()
    fetch, wanted = actions.FetchContribution(Round(0), Address(bytes(20))), [True]

    async def compute(action: actions.Computed, look: Look) -> bool:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        return True

    await peer._ledger.open()
    monkeypatch.setattr(peer._policy, "compute", compute)
    monkeypatch.setattr(peer._policy, "decide", lambda view, twice: [fetch] if wanted else [])
    monkeypatch.setattr(holding, "_is_open", lambda state, number: False)
    with trio.fail_after(WHOLE):
        async with trio.open_nursery() as nursery:
            await peer._look_and_act(ME, nursery)
            await started.wait()
            await peer._look_and_act(ME, nursery)
            assert list(peer._running) == [fetch]
            wanted.clear()
            await peer._look_and_act(ME, nursery)
            await ended.wait()
    assert peer._running == {}
    assert peer._results.done == {}


async def test_a_users_mistake_still_ends_the_peer(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def compute(action: actions.Computed, look: Look) -> bool:
        raise UserError("this machine is too small")

    peer = make_peer(folder)
    monkeypatch.setattr(peer._policy, "compute", compute)
    with pytest.raises(UserError, match="too small"):
        await peer._perform(ACTION, ME)


def test_a_peer_takes_as_many_descriptors_as_it_may() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        raise_descriptor_limit()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert (soft, hard) == (DESCRIPTORS if hard < 0 else min(hard, DESCRIPTORS), before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Unheard:
    """A policy that has something to say and to compute, while nobody hears it; `again` is set at the third try."""

    def __init__(self) -> None:
        self.again, self._tries = trio.Event(), 0

    def decide(self, view: View, contradictions: object) -> list[object]:
        """Return both, what it says first."""
        return [actions.Say(Withdraw()), ACTION]

    async def say(self, act: object) -> None:
        """Find the ledger's host away."""
        self._tries += 1
        if self._tries == 3:
            self.again.set()
        raise Unavailable("the ledger's host does not answer")

    async def compute(self, action: object, look: Look) -> str:
        """Make something."""
        return "done"


async def test_a_peer_computes_on_while_its_words_reach_nobody(folder: RunFolder) -> None:
    peer = make_peer(folder)
    await peer._ledger.open()
    peer._policy = Unheard()  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        with pytest.raises(Unavailable):
            await peer._look_and_act(ME, nursery)
    assert peer._results.done == {ACTION: "done"}


async def test_a_look_that_fails_again_and_again_is_told_once(
    folder: RunFolder, autojump_clock: trio.testing.MockClock
) -> None:
    peer, policy = make_peer(folder), Unheard()
    await peer._ledger.open()
    peer._policy = policy  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer._take_part, lambda: ME, nursery)
        await policy.again.wait()
        nursery.cancel_scope.cancel()
    assert reasons(folder) == ["the ledger's host does not answer"]


@pytest.mark.parametrize(
    ("is_served", "are_members", "looks"), [(True, True, 2), (False, True, 100), (False, False, 0)]
)
async def test_hints_make_a_follower_look_the_less_often_the_longer_its_host_takes(
    folder: RunFolder, mock_clock: trio.testing.MockClock, is_served: bool, are_members: bool, looks: int
) -> None:
    peer = make_peer(folder)
    peer._post.is_member = lambda account: are_members
    if is_served:
        peer._config = replace(peer._config, host=HOST)
    peer._ledger.look_seconds, peer._ledger.height = 0.05, 50
    woken = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer._hear_hints)
        for number in range(150):
            sender = Address(number.to_bytes(20, "big"))
            await peer._rumours._hear(
                sender, encode(Hints((Hint("ledger", Digest(bytes(32)), Count(number + 1)),)))
            )
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.01)
            woken += peer._wake.is_set()
            peer._wake = trio.Event()
        nursery.cancel_scope.cancel()
    assert woken == looks  # none for the 50 that told nothing new, and for strangers'
