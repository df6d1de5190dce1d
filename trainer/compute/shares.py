"""A member's part of a crew's rounds, and whole crews for who audits them, in the compute process. (SPEC.md 4.17)"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from trainer.compute import orders
from trainer.compute.engines import Engines
from trainer.compute.taken import TakenFiles, Writing
from trainer.programs.executor import zeros_of
from trainer.rounds.engine import Conduct, Engine, Job
from trainer.rounds.selfcheck import kernels_of, share_agrees
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import Disputed, RoundFailed, Start
from trainer.shards import legs
from trainer.shards.crew import CrewOutcome, Crews, MemberOutcome
from verification.crews import Item, made_by, taken_by
from verification.manifest import Cut, Manifest, Place, Post
from verification.program import Port, outputs_of, size_bytes
from verification.tensors import Bundle, Tensor
from verification.units import Count, Digest, Round

MEASURED_STEPS = 3
Tell = Callable[[orders.News], None]


class Box:
    """The exchange of a member's round: what it gives goes to its node, which brings what it takes. (`Exchange`)"""

    def __init__(
        self, forms: Mapping[int, Port], keep: Writing | None, tell: Tell, wait: Callable[[], None]
    ) -> None:
        """`forms` are what is taken, by crossing, and `keep` writes it down; `wait` returns once something has come."""
        self._forms, self._keep, self._tell, self._wait = forms, keep, tell, wait
        self._places = {crossing: place for place, crossing in enumerate(forms)}
        self._parts: dict[tuple[int, int], bytearray] = defaultdict(bytearray)
        self._failed: Digest | None = None
        self.waited = 0.0

    def give(self, step: int, crossing: int, tensor: Tensor, more: bool = False) -> None:
        """Tell the node, in pieces."""
        data = memoryview(tensor.data)
        for begin in range(0, len(data), orders.PIECE):
            end = begin + orders.PIECE
            piece, follows = bytes(data[begin:end]), more or end < len(data)
            self._tell(orders.Given(Count(step), Count(crossing), piece, follows))

    def take(self, step: int, crossing: int) -> Tensor:
        """Return what the node has brought, or brings; raises RoundFailed where that is another's failure."""
        form, began = self._forms[crossing], time.perf_counter()
        size, parts = size_bytes(form), self._parts
        if len(parts[step, crossing]) < size:
            self._tell(orders.Waiting(Count(step), Count(crossing)))
        while len(parts[step, crossing]) < size:
            if self._failed is not None:
                raise RoundFailed(self._failed)
            self._wait()
        self.waited += time.perf_counter() - began
        tensor = Tensor(form.dtype, form.shape, bytes(parts.pop((step, crossing))))
        if self._keep is not None:
            self._keep.add(self._places[crossing], tensor)
        return tensor

    def file(self, brought: orders.Bring) -> None:
        """Take pieces of crossings, after those before them."""
        if brought.failed is not None:
            self._failed = brought.failed
        for crossing, piece in brought.pieces:
            self._parts[int(brought.step), int(crossing)] += piece


class _Again:
    """An exchange whose tensors lie in a file; what is given is told again, for who may still wait for it."""

    def __init__(self, reader: Callable[[int], Sequence[Tensor]], places: list[int], give: Box) -> None:
        self._reader, self._places, self._give = reader, places, give

    def give(self, step: int, crossing: int, tensor: Tensor, more: bool = False) -> None:
        """Tell the node."""
        self._give.give(step, crossing, tensor, more)

    def take(self, step: int, crossing: int) -> Tensor:
        """Return what was taken."""
        return self._reader(step)[self._places.index(crossing)]


class Shares:
    """Crews' rounds of one run on one machine."""

    def __init__(self, engines: Engines, manifest: Manifest, data: Bundle, taken: Path) -> None:
        """What a member takes lies in the folder `taken`."""
        self._engines, self._manifest, self._data, self._taken = engines, manifest, data, taken
        self._audits: dict[int, tuple[TorchEngine, Crews]] = {}
        self._members: dict[Post, Crews] = {}
        self._box: Box | None = None

    def engine_of(self, post: Post) -> TorchEngine:
        """Return the engine of a shard's programs."""
        return self._engines.of(self._manifest.shard(post).all())

    def run(
        self,
        job: Job,
        start: Start,
        post: Post,
        conduct: Conduct,
        tell: Tell,
        wait: Callable[[], None],
        again: bool = False,
        checked: int = 0,
    ) -> tuple[MemberOutcome, float]:
        """Compute a member's round and return it with the seconds waited; raises what `tell` and `wait` do.

        Step `checked` is made in two ways, and raises Unsound where those differ. What was taken in the round before is
        read again: so it comes out as it was committed to. Where it is not there `again` raises Unavailable.
        """
        crews = self._member(post, conduct(self.engine_of(post), job))
        forms, files = self._forms(post), self._files(post)

        def on_step(step: int) -> None:
            tell(orders.StepDone(Count(step)))

        if again or files.has(job.number, job.steps):
            known = _Again(files.reader(job.number), list(forms), Box(forms, None, tell, wait))
            return crews.run(job, start, post, known, on_step, checked), 0.0
        with files.writing(job.number) as keep:
            self._box = box = Box(forms, keep, tell, wait)
            try:
                outcome = crews.run(job, start, post, box, on_step, checked)
            finally:
                self._box = None
            if outcome.failed is None:
                keep.finish()
            return outcome, box.waited

    def file(self, brought: orders.Bring) -> None:
        """Hand a piece to the round that runs; nobody else waits for any."""
        if self._box is not None:
            self._box.file(brought)

    def audit(self, job: Job, start: Start, cut: int, tell: Tell, checked: int = 0) -> CrewOutcome:
        """Compute all of a crew's round, step `checked` in two ways; raises Unsound where those differ."""
        _, crews = self._whole(cut)
        return crews.audit(job, start, cut, lambda step: tell(orders.StepDone(Count(step))), checked)

    def disputed(
        self, job: Job, start: Start, post: Post, place: Place, step: int, conduct: Conduct | None
    ) -> tuple[Engine, Disputed]:
        """Return an execution of a member's round, and the engine that has come as far as it.

        With a `conduct` it is one's own, on what was taken; raises Unavailable where that is not here.
        """
        if conduct is None:
            engine, crews = self._whole(int(post.cut))
            return engine, crews.disputed(job, start, post, place, step)
        own = conduct(self.engine_of(post), job)
        reader = self._files(post).reader(job.number)
        crews = self._member(post, own)
        return own, crews.disputed(job, start, post, place, step, reader)

    def measure(self, post: Post, start: Start) -> orders.Prepared:
        """Check a shard's step in two ways and time it, with zeros for what others make; say on what it runs."""
        engine, inner = self.engine_of(post), self._manifest.shard(post).inner.digest
        began = time.perf_counter()
        agrees = share_agrees(engine, inner, self._opening(post, start))
        checking = time.perf_counter() - began
        inputs = self._opening(post, start)
        steps = min(MEASURED_STEPS, int(self._manifest.work.max_steps))
        began = time.perf_counter()
        for _ in range(steps):
            engine.run(inner, [inputs])
        seconds = (time.perf_counter() - began) / steps
        slow = f"{engine.shortage}: {seconds:.3g} s a step" if engine.shortage else ""
        kernels = kernels_of(engine, inner, inputs, slow)
        cost = Count(max(1000, round(1000 * checking / seconds)))
        return orders.Prepared(True, agrees, Count(max(1, int(1000 / seconds))), kernels, cost)

    def _opening(self, post: Post, start: Start) -> list[torch.Tensor]:
        """Return what a shard's inner program reads in the first step of a round on record 0 alone."""
        engine = self.engine_of(post)
        crews = self._member(post, engine)
        job = Job(Round(0), b"\0" * 20, Digest(bytes(32)), 0)  # type: ignore[arg-type]
        working = crews.begun(job, start, post)
        inner = engine.program(self._manifest.shard(post).inner.digest)
        taken = (zeros_of(port).clone() for port in inner.inputs[len(working) :])
        return [*working, *engine.own(taken, [])]

    def _member(self, post: Post, engine: Engine) -> Crews:
        """Return F of a member over the machine's engine, which has the legs of its step ready from round to round, or
        over a conduct's."""
        own = self.engine_of(post)
        if post not in self._members:
            self._members[post] = Crews(own, self._manifest, self._data)
        crews = self._members[post]
        return crews if engine is own else crews.over(engine)

    def _whole(self, cut: int) -> tuple[TorchEngine, Crews]:
        """Return the engine of all shards of a cut, and F of its crews."""
        if cut not in self._audits:
            refs = [ref for shard in self._manifest.cuts[cut].shards for ref in shard.all()]
            engine = self._engines.of(refs, self._held(cut))
            self._audits[cut] = engine, Crews(engine, self._manifest, self._data)
        self._engines.turn(self._audits[cut][0])
        return self._audits[cut]

    def _held(self, cut: int) -> int:
        """Return about what bytes the shards of a cut hold beside one whose turn it is: their working states, before a
        step and after it."""
        prologues = [shard.prologue for shard in self._manifest.cuts[cut].shards]
        sizes = [sum(map(size_bytes, outputs_of(self._engines.program(ref)))) for ref in prologues]
        return 2 * (sum(sizes) - min(sizes))

    def _files(self, post: Post) -> TakenFiles:
        return TakenFiles(self._taken, list(self._forms(post).values()))

    def _forms(self, post: Post) -> dict[int, Port]:
        """Return what a shard takes in a step, by crossing."""
        engine, shard = self.engine_of(post), self._manifest.shard(post)
        working = len(outputs_of(engine.program(shard.prologue.digest)))
        ports = engine.program(shard.inner.digest).inputs[working:]
        crossings = self._manifest.cuts[post.cut].crossings
        return dict(zip(legs.taken_by(int(post.shard), crossings), ports, strict=True))


def items_of_member(
    cut: Cut, shard: int, made: MemberOutcome
) -> tuple[tuple[Digest, ...], tuple[Digest, ...]]:
    """Return what a member made and what it took, in the order of a crew's items."""
    known: dict[Item, Digest] = {Item(step, shard): digest for step, digest in enumerate(made.states)}
    steps = len(made.given)
    for crossings, rows in (
        (legs.given_by(shard, cut.crossings), made.given),
        (legs.taken_by(shard, cut.crossings), made.taken),
    ):
        for step, row in enumerate(rows, 1):
            for crossing, digest in zip(crossings, row, strict=True):
                known[Item(step, int(cut.crossings[crossing].maker), crossing)] = digest
    own, others = made_by(cut, shard, steps), taken_by(cut, shard, steps)
    return tuple(known[item] for item in own), tuple(known[item] for item in others)
