"""A member's compute process: it tells what it gives, waits for what it takes, and knows it again after a restart."""

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from p2p.blobs import BlobStore
from tests.tiny import make_run
from trainer.compute import orders
from trainer.compute.process import ComputeProcess
from trainer.compute.taken import forget_taken
from trainer.programs.options import RunOptions
from trainer.runs.create import Created
from trainer.shards.frugal import fitting
from verification import codec
from verification.crews import items_of, made_by, roots_of_shared, taken_by
from verification.digest import tagged
from verification.errors import Unavailable
from verification.manifest import Place, Post
from verification.program import decode_program, peak_bytes
from verification.units import Address, Count, Digest, Round

pytestmark = pytest.mark.slow

CREW = {"training.leaf_every": None, "training.max_steps": 2, "swarm.crews": [2], "data.length": 8}
LEAD, STEPS = Address(b"\x07" * 20), Count(2)
PATIENCE = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Created:
    """A run for crews of two."""
    return make_run(tmp_path_factory.mktemp("run"), CREW)


def job(made: Created, own: bool = False, shard: int | None = None) -> orders.RunJob:
    """The crew's first round, or a member's part of it."""
    post = None if shard is None else Post(Count(0), Count(shard))
    return orders.RunJob(Round(1), LEAD, tagged("beacon"), STEPS, made.manifest.start, own, post=post)


class Table:
    """Two members in threads, who hand each other what crosses, piece by piece."""

    def __init__(self, made: Created, folder: Path) -> None:
        self.made, self.folder, self.cut = made, folder, made.manifest.cuts[0]
        self.given: dict[int, list[orders.Given]] = defaultdict(list)
        self._changed = threading.Condition()
        self._heard: dict[int, int] = defaultdict(int)
        self.members = [self.member(shard) for shard in range(2)]

    def member(self, shard: int, wait: Callable[[], None] | None = None) -> ComputeProcess:
        """A process that holds a shard."""

        def tell(news: orders.StepDone | orders.Given) -> None:
            with self._changed:
                if isinstance(news, orders.Given):
                    self.given[shard].append(news)
                self._changed.notify_all()

        def bring() -> None:
            with self._changed:
                known = self.given[1 - shard]
                assert self._changed.wait_for(lambda: len(known) > self._heard[shard], PATIENCE)
                given = known[self._heard[shard]]
                self._heard[shard] += 1
            self.members[shard].bring(orders.Bring(given.step, ((given.crossing, given.data),)))

        return ComputeProcess(self.order(shard), tell=tell, wait=wait or bring)

    def order(self, shard: int) -> orders.Prepare:
        """What a member is begun with."""
        manifest, store = codec.encode(self.made.manifest), str(self.made.folder.blobs)
        post, taken = Post(Count(0), Count(shard)), str(self.folder / f"taken-{shard}")
        return orders.Prepare(manifest, store, Count(1), RunOptions(), post, taken)

    def share(self, shard: int) -> orders.RunShare:
        """The round as a member computes it."""
        return orders.RunShare(job(self.made, True, shard))

    def run(self) -> list[orders.ShareDone]:
        """Have both compute it."""
        done: dict[int, orders.ShareDone] = {}

        def compute(shard: int) -> None:
            done[shard] = self.members[shard].run_share(self.share(shard))

        threads = [threading.Thread(target=compute, args=(shard,)) for shard in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        return [done[shard] for shard in range(2)]


@pytest.fixture(scope="module")
def table(made: Created, tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, list[orders.ShareDone]]:
    """Two members, and what they made."""
    opened = Table(made, tmp_path_factory.mktemp("crew"))
    return opened, opened.run()


@pytest.fixture(scope="module")
def auditor(made: Created) -> ComputeProcess:
    """A verifier's process."""
    order = orders.Prepare(codec.encode(made.manifest), str(made.folder.blobs), Count(1), RunOptions())
    return ComputeProcess(order)


Ran = tuple[Table, list[orders.ShareDone]]


def test_two_members_make_what_their_auditor_makes(table: Ran, auditor: ComputeProcess) -> None:
    opened, done = table
    found = auditor.run_crew(orders.RunCrew(job(opened.made), Count(0)))
    known = dict(zip(items_of(opened.cut, STEPS), found.digests, strict=True))
    roots = []
    for shard, each in enumerate(done):
        assert list(each.digests) == [known[item] for item in made_by(opened.cut, shard, STEPS)]
        assert list(each.taken) == [known[item] for item in taken_by(opened.cut, shard, STEPS)]
        roots.append(roots_of_shared(opened.cut, shard, STEPS, known))
    assert roots[0] == roots[1] != ()
    assert [each.contribution for each in done] == list(found.contributions)
    assert not any(each.failed for each in done) and not found.failed
    assert [each.loss for each in done if each.loss is not None] == [found.loss]


def test_an_auditor_that_holds_one_shard_at_a_time_finds_the_same(
    made: Created, auditor: ComputeProcess
) -> None:
    """Its memory is enough for each shard's programs, and for those of one beside what the others hold it is not."""
    order, store = orders.RunCrew(job(made), Count(0)), BlobStore(made.folder.blobs)
    shards = made.manifest.cuts[0].shards
    programs = [decode_program(store.get(ref.blob)) for shard in shards for ref in shard.all()]
    memory = Count(max(map(peak_bytes, programs)))
    for room, is_whole in ((memory, False), (Count(3 * memory), True)):
        prepare = orders.Prepare(
            codec.encode(made.manifest), str(made.folder.blobs), Count(1), RunOptions(memory=room)
        )
        process = ComputeProcess(prepare, engine=fitting)
        assert process.run_crew(order) == auditor.run_crew(order)
        engine, _ = process._shares._whole(0)
        assert (engine.shortage == "") == is_whole


def test_a_member_that_starts_again_knows_what_it_took(table: Ran) -> None:
    """It waits for nobody, also where it is asked for an execution of that round."""
    opened, done = table

    def never() -> None:
        raise AssertionError("it waits")

    again = opened.member(1, never)
    assert replace(again.run_share(opened.share(1)), waited=done[1].waited) == done[1]
    for place, step in ((Place.PROLOGUE, 0), (Place.STEP, 2), (Place.EPILOGUE, 0)):
        execution = orders.DisputedExecution(job(opened.made, True, 1), place, Count(step))
        traced = again.trace_nodes(orders.TraceNodes(execution))
        assert traced.failed is None and traced.outputs


def test_an_accused_and_its_auditor_trace_the_same(table: Ran, auditor: ComputeProcess) -> None:
    opened, _ = table
    own, others = (
        process.trace_nodes(
            orders.TraceNodes(orders.DisputedExecution(job(opened.made, is_own, 0), Place.STEP, Count(1)))
        )
        for process, is_own in ((opened.members[0], True), (auditor, False))
    )
    assert own == others


def test_what_nobody_asks_about_any_more_is_forgotten(made: Created, tmp_path: Path) -> None:
    opened = Table(made, tmp_path)
    opened.run()
    folder = tmp_path / "taken-0"
    assert [path.name for path in folder.iterdir()] == ["1"]
    forget_taken(folder, [Round(1)])
    assert [path.name for path in folder.iterdir()] == ["1"]
    (folder / "2.draft").write_bytes(b"")
    forget_taken(folder, [Round(3)])
    assert not list(folder.iterdir())
    execution = orders.DisputedExecution(job(made, True, 0), Place.STEP, Count(1))
    with pytest.raises(Unavailable, match="what was taken in step"):
        opened.members[0].trace_nodes(orders.TraceNodes(replace(execution, step=Count(2))))


def test_another_s_failure_ends_the_round_with_its_digest(made: Created, tmp_path: Path) -> None:
    opened, failure = Table(made, tmp_path), Digest(b"f" * 32)

    def fails() -> None:
        opened.members[1].bring(orders.Bring(Count(1), (), failure))

    opened.members[1] = opened.member(1, fails)
    done = opened.members[1].run_share(opened.share(1))
    assert done.failed and done.contribution.digest == failure
    assert [path.name for path in (tmp_path / "taken-1").iterdir()] == ["1.draft"]


def test_a_shard_is_measured_by_itself(table: Ran) -> None:
    prepared = [member.measure() for member in table[0].members]
    assert all(each.golden and each.agrees and each.speed > 0 for each in prepared)


def test_a_bundle_of_blobs_is_a_member_s_own(made: Created) -> None:
    """A member reads no program but its shard's and the outer step to compute."""
    store = BlobStore(made.folder.blobs)
    assert all(store.has(ref.blob) for ref in made.manifest.all_programs())
