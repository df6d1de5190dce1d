"""The compute process of a peer: torch, programs and the store; no sockets, no ledger. Frames in, frames out.

Started by the node as `python -m trainer.compute.process`; it ends when its standard input does.
"""

import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, TypeVar, get_args

import torch

from p2p.blobs import BlobStore
from p2p.bundles import StoredTensor, map_data, open_bundle
from trainer import exact
from trainer.compute import children, frames, orders
from trainer.compute.engines import Engines, MakeEngine
from trainer.compute.memory import within_memory
from trainer.compute.shares import MEASURED_STEPS, Shares, Tell, items_of_member
from trainer.programs.interpreter import NoLoops, give_memory_back
from trainer.rounds import reexecution
from trainer.rounds.engine import Conduct, Engine, Job, honest
from trainer.rounds.norms import Norms
from trainer.rounds.reexecution import Holding
from trainer.rounds.selfcheck import kernels_of, step_agrees
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import Disputed, Rounds, Start
from verification import codec, spoilage
from verification.content import chunks_root
from verification.errors import Malformed, ProofswarmError, Unavailable, Unsound
from verification.honest.actions import Traced
from verification.honest.within import Own
from verification.layout import SUMMARY, joined, summary_of
from verification.library import StepFailed
from verification.manifest import BundleRef, Manifest, Place, Post, ProgramRef
from verification.outer import outer_inputs
from verification.program import Node, Program, Sized, inputs_read, outputs_of, require_work_units
from verification.sizes import contribution_size, data_port, state_size
from verification.statements import Commit
from verification.tensors import Bundle, digest_of, encoded
from verification.units import Count, Digest, Round

Coming = frames.Frame | Malformed | None
"""An order, what is wrong with the stream, or its end."""
NUDGE = frames.Frame(Count(0), "", b"")
"""Stands for nothing: who waits looks whether it is still to."""
JOBS = [kind.__name__ for kind in get_args(orders.Job)]
R = TypeVar("R")
Process = TypeVar("Process")
Order = TypeVar("Order")
HANDLERS: dict[type[orders.Order[Any]], Callable[[Any, Any], object]] = {}
"""The method of `ComputeProcess` that does a kind of order."""


def does(
    kind: type[orders.Order[R]],
) -> Callable[[Callable[[Process, Order], R]], Callable[[Process, Order], R]]:
    """Make a method the one that does a kind of order, whose reply it returns."""

    def put(method: Callable[[Process, Order], R]) -> Callable[[Process, Order], R]:
        HANDLERS[kind] = method
        return method

    return put


class ComputeProcess:
    """One run's programs, data and store, and the orders on them."""

    def __init__(
        self,
        order: orders.Prepare,
        conduct: Conduct = honest,
        tell: Tell = lambda news: None,
        engine: MakeEngine = TorchEngine,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Load what the manifest names from the store; `conduct` is what the peer's own rounds are computed with.

        `tell` hears of every inner step of a job and of what it gives, `wait` returns once something has come for one
        that waits, `engine` makes the machine's. Raises Violation for blobs that are not what the manifest says,
        UserError where the device is not here.
        """
        torch.set_num_threads(order.threads)
        self._tell, self._wait, self._post = tell, wait, order.post
        self.manifest = codec.decode(Manifest, order.manifest)
        self.store = BlobStore(Path(order.store))
        self._engines = Engines(engine, self.store, within_memory(order.options))
        programs, own = self.manifest.programs, self.manifest.programs_of(order.post)
        self.engine = self._engines.of(own.all())
        self._outer = self.engine if order.post is None else self._engines.of([programs.outer])
        for name, units in vars(self.manifest.units_of(order.post)).items():
            require_work_units(self.engine.program(getattr(own, name).digest), units)
        whole = {place: self._looked_at(programs.at(place)) for place in Place}
        self._limit = max(state_size(whole), contribution_size(whole))
        self._contributions: dict[Post | None, tuple[list[Sized], Norms]] = {}
        data = map_data(self.store, self.manifest.data, data_port(whole))
        self.rounds = Rounds(self._outer, self.manifest, data)
        self._shares = Shares(self._engines, self.manifest, data, Path(order.taken))
        self._traced: tuple[orders.DisputedExecution, Traced] | None = None
        self._holding: tuple[orders.DisputedExecution, int, Holding] | None = None
        self._conduct = conduct
        self._read = inputs_read(whole[Place.PROLOGUE]) | inputs_read(whole[Place.EPILOGUE])
        """The places of a state's tensors that a worker's round reads; both programs begin with them."""
        self._last: tuple[BundleRef, tuple[StoredTensor, ...]] | None = None

    def measure(self) -> orders.Prepared:
        """Reproduce the golden step, check the run's own step in two ways, time inner steps, say on what they run.

        Of a member's shard only what it computes itself.
        """
        if self._post is not None:
            prepared = self._shares.measure(self._post, self._stored(self.manifest.start))
            give_memory_back()
            return prepared
        start, inner = self._start(self.manifest.start), self.manifest.programs.inner.digest
        golden = self.rounds.golden(start) == self.manifest.golden
        began = time.perf_counter()
        agrees = step_agrees(self.engine, inner, self.rounds.opening(start))  # which nobody else may hold
        checking = time.perf_counter() - began
        steps = min(MEASURED_STEPS, int(self.manifest.work.max_steps))
        job = Job(Round(0), b"\0" * 20, Digest(bytes(32)), steps)  # type: ignore[arg-type]
        began = time.perf_counter()
        self.rounds.digests_after(job, start, (steps,))
        seconds = time.perf_counter() - began
        speed = Count(max(1, int(1000 * steps / seconds)))
        slow = f"{self.engine.shortage}: {seconds / steps:.3g} s a step" if self.engine.shortage else ""
        kernels = kernels_of(self.engine, inner, self.rounds.opening(start), slow)
        give_memory_back()
        cost = Count(max(1000, round(1000 * checking * steps / seconds)))
        return orders.Prepared(golden, agrees, speed, kernels, cost)

    @does(orders.RunJob)
    def run_job(self, order: orders.RunJob) -> orders.JobDone:
        """Compute F, telling each inner step; raises Unsound when step `rerun` does not come out the same twice."""
        _, rounds = self._rounds(order)
        with _step_named(order):
            outcome = rounds.run(
                _job(order),
                self._start(order.start),
                lambda number: self._tell(orders.StepDone(Count(number))),
                order.rerun,
            )
        if outcome.contribution is None:
            assert outcome.failed is not None
            nothing = BundleRef(outcome.failed, outcome.failed)
            return orders.JobDone(outcome.digests, nothing, Count(0), 0, True)
        ref = self._keep(outcome.contribution)
        norm = spoilage.norm_of(outcome.contribution)
        loss = round(outcome.loss * orders.MICRO)
        return orders.JobDone(outcome.digests, ref, Count(norm), loss, False, self.engine.group)

    @does(orders.RunShare)
    def run_share(self, order: orders.RunShare) -> orders.ShareDone:
        """Compute a member's part of a crew's round.

        Raises BadEvidence for what was brought and does not fit, and Unsound as `run_job`.
        """
        job, post, start = _job(order.job), order.job.post, self._stored(order.job.start)
        assert post is not None
        with _step_named(order.job):
            made, waited = self._shares.run(
                job, start, post, self._conduct, self._tell, self._wait, order.again, order.job.rerun
            )
        cut, spent = self.manifest.cuts[post.cut], Count(round(1000 * waited))
        items, taken = items_of_member(cut, post.shard, made)
        if made.contribution is None:
            assert made.failed is not None
            nothing = BundleRef(made.failed, made.failed)
            return orders.ShareDone(items, taken, nothing, Count(0), None, True, spent)
        norm = Count(spoilage.norm_of(made.contribution))
        has_loss = isinstance(summary_of(self._contribution_at(post)[0], "loss"), Node)
        loss = round(made.loss * orders.MICRO) if has_loss else None
        return orders.ShareDone(items, taken, self._keep(made.contribution), norm, loss, False, spent)

    @does(orders.Bring)
    def bring(self, order: orders.Bring) -> orders.Filed:
        """Hand on what others of the crew have made."""
        self._shares.file(order)
        return orders.Filed()

    @does(orders.RunCrew)
    def run_crew(self, order: orders.RunCrew) -> orders.CrewDone:
        """Compute all of a crew's round as its auditor; raises Unsound as `run_job`."""
        start = self._stored(order.job.start)
        with _step_named(order.job):
            found = self._shares.audit(_job(order.job), start, int(order.cut), self._tell, order.job.rerun)
        items = tuple(digest for step in found.items for digest in step)
        if found.failed is not None:
            shards = len(self.manifest.cuts[order.cut].shards)
            return orders.CrewDone(items, (BundleRef(found.failed, found.failed),) * shards, 0, True)
        loss = round(sum(found.losses) * orders.MICRO)
        return orders.CrewDone(items, tuple(map(self._keep, found.contributions)), loss, False)

    @does(orders.ListSteps)
    def list_steps(self, order: orders.ListSteps) -> orders.StatesListed:
        """Compute the digests of a dispute's list."""
        job = order.job
        _, rounds = self._rounds(job)
        return orders.StatesListed(rounds.digests_after(_job(job), self._start(job.start), order.steps))

    @does(orders.TraceNodes)
    def trace_nodes(self, order: orders.TraceNodes) -> Traced:
        """Execute and digest every node's result."""
        return self._trace(order.execution)

    def _trace(self, execution: orders.DisputedExecution) -> Traced:
        """Return the trace of an execution; the last one is kept, for its node is opened next."""
        if self._traced is None or self._traced[0] != execution:
            self._traced = execution, reexecution.trace(*self._disputed(execution))
        return self._traced[1]

    @does(orders.SplitClaim)
    def split_claim(self, order: orders.SplitClaim) -> Own:
        """List what a disputed node gives."""
        return self._hold(order.execution, int(order.node)).held.split(order.claim)

    @does(orders.OpenClaim)
    def open_claim(self, order: orders.OpenClaim) -> orders.Opened:
        """Bring what a claim reads of a disputed node's inputs."""
        holding = self._hold(order.execution, int(order.node))
        results = self._trace(order.execution).results
        return orders.Opened(reexecution.open_claim(holding, results, order.claim, order.trail))

    def _hold(self, execution: orders.DisputedExecution, number: int) -> Holding:
        """Return a disputed node as it is here; the last one is kept, for a dispute below it asks for many parts."""
        if self._holding is None or self._holding[:2] != (execution, number):
            self._holding = execution, number, reexecution.hold(*self._disputed(execution), number)
        return self._holding[2]

    @does(orders.ProveValue)
    def prove_value(self, order: orders.ProveValue) -> orders.Proved:
        """Prove the digest of a disputed output's source."""
        engine, disputed = self._disputed(order.execution)
        results = self._trace(order.execution).results
        return orders.Proved(*reexecution.open_value(engine, disputed, results, order.value, order.trail))

    @does(orders.RunOuterStep)
    def run_outer(self, order: orders.RunOuterStep) -> BundleRef:
        """Compute and keep the next state."""
        self._engines.turn(self._outer)
        return self._keep(self.rounds.next_state(self._outer_inputs(order)))

    @does(orders.CheckContribution)
    def check_contribution(self, order: orders.CheckContribution) -> orders.Checked:
        """Check that a fetched blob is the committed contribution, of the epilogue's dtypes and shapes.

        The norm decides how much a contribution weighs, so it is counted again. (SPEC.md 4.5, 4.15)
        """
        outputs, _ = self._contribution_at(order.commit.post)
        if self._is_right(order.commit):
            return orders.Checked(True, None)
        data = self.store.get(order.commit.contribution.blob)
        size, chunks = len(data), chunks_root(data)
        shown = spoilage.show_spoiled(order.worker, order.commit, outputs, size, chunks, data)
        is_short = shown is not None and len(shown.data) <= spoilage.MAX_SHOWN
        return orders.Checked(False, shown if is_short else None)

    def _is_right(self, commit: Commit) -> bool:
        """Return whether a blob is the contribution committed to, in the memory of one tensor of it."""
        outputs, norms = self._contribution_at(commit.post)
        try:
            found = self._opened(commit.contribution)
        except Malformed:
            return False
        if [(each.dtype, each.shape) for each in found] != [(each.dtype, each.shape) for each in outputs]:
            return False
        given = Bundle((*(each.read() for each in found[-len(SUMMARY) :]),))
        return norms.of(found) == spoilage.norm_of(given) == commit.norm

    def _contribution_at(self, post: Post | None) -> tuple[list[Sized], Norms]:
        """Return what a contribution at a post is made of, and what counts its norm."""
        if post not in self._contributions:
            epilogue = self._looked_at(self.manifest.programs_of(post).epilogue)
            self._contributions[post] = outputs_of(epilogue), Norms(epilogue)
        return self._contributions[post]

    def _looked_at(self, ref: ProgramRef) -> Program:
        """Return a program of the run, also one that does not run here and that memory may have no place for."""
        runs = self.manifest.programs_of(self._post).all()
        return self.engine.program(ref.digest) if ref in runs else self._engines.program(ref)

    def _disputed(self, execution: orders.DisputedExecution) -> tuple[Engine, Disputed]:
        """Return a disputed execution, and the engine that has come as far as it."""
        order = execution.work
        if isinstance(order, orders.RunOuterStep):
            slots = [int(entry.slot) for entry in order.slots]
            crews = {int(each.slot): self._of_crew(each) for each in order.slots if each.mates}
            self._engines.turn(self._outer)
            return self._outer, self.rounds.disputed_outer(self._outer_inputs(order), slots, crews)
        if order.post is not None:
            conduct = self._conduct if order.own else None
            job, begun, place = _job(order), self._stored(order.start), execution.place
            return self._shares.disputed(job, begun, order.post, place, int(execution.step), conduct)
        engine, rounds = self._rounds(order)
        start = self._stored(order.start)
        return engine, rounds.disputed(_job(order), start, execution.place, execution.step)

    def _rounds(self, order: orders.RunJob) -> tuple[Engine, Rounds]:
        """Return what a job is computed with: the machine's engine for an audit, the conduct's for an own round."""
        engine = self._conduct(self.engine, _job(order)) if order.own else self.engine
        return engine, self.rounds if engine is self.engine else self.rounds.over(engine)

    def _outer_inputs(self, order: orders.RunOuterStep) -> Start:
        entries = {int(each.slot): (each.weight, self._in_slot(each)) for each in order.slots}
        return outer_inputs(self.manifest.work.slots, self._stored(order.start), entries, order.ballast)

    def _in_slot(self, summand: orders.Summand) -> Sequence[StoredTensor]:
        return joined(self._of_crew(summand)) if summand.mates else self._opened(summand.contribution)

    def _of_crew(self, summand: orders.Summand) -> list[tuple[Sequence[int], Sequence[StoredTensor]]]:
        """Return a crew's contributions, each with the places of its parameters."""
        shards = self.manifest.cuts[summand.cut].shards
        given = map(self._opened, (summand.contribution, *summand.mates))
        return [(shard.parameters, each) for shard, each in zip(shards, given, strict=True)]

    def _opened(self, ref: BundleRef) -> tuple[StoredTensor, ...]:
        return open_bundle(self.store, ref, self._limit)

    def _start(self, ref: BundleRef) -> Start:
        """Return what a round reads of its start state."""
        return [each if at in self._read else None for at, each in enumerate(self._stored(ref))]

    def _stored(self, ref: BundleRef) -> tuple[StoredTensor, ...]:
        """Return a state that has been checked, unread; the last one stays so, for audits ask for it again."""
        if self._last is None or self._last[0] != ref:
            self._last = None
            self._last = ref, self._opened(ref)
        return self._last[1]

    def _keep(self, bundle: Bundle) -> BundleRef:
        return BundleRef(digest_of(bundle), self.store.put_stream(encoded(bundle)))


@contextmanager
def _step_named(order: orders.RunJob) -> Iterator[None]:
    """Say which step is Unsound."""
    try:
        yield
    except Unsound as error:
        raise Unsound(f"step {order.rerun} of round {order.number}: {error}") from error


def _job(order: orders.RunJob) -> Job:
    return Job(order.number, order.worker, order.beacon, order.steps)


class Server:
    """Does the orders of a stream; those that come while a job runs between two of its steps.

    A process that flushes subnormal numbers does none. A job that the node has no more use for ends after the step that
    it is at.
    """

    def __init__(
        self,
        source: BinaryIO,
        sink: BinaryIO,
        conduct: Conduct,
        engine: MakeEngine,
        end: Callable[[], object] = lambda: None,
    ) -> None:
        """`conduct` and `engine` are those of a `ComputeProcess`; `end` is called in another thread than `serve` when
        the stream ends, whatever is being done."""
        self._source, self._sink, self._end = source, sink, end
        self._conduct, self._engine = conduct, engine
        self._coming, self._later = SimpleQueue[Coming](), deque[Coming]()
        self._process: ComputeProcess | None = None
        self._job, self._is_abandoned = Count(0), False

    def serve(self) -> None:
        """Do orders until the stream ends, in the main thread of a process; the first that needs a run must be Prepare.

        Raises Malformed where the stream ends inside a frame.
        """
        signal.signal(children.ABANDON, self._abandon)
        threading.Thread(target=self._listen, daemon=True).start()
        while (frame := self._later.popleft() if self._later else self._coming.get()) is not None:
            if isinstance(frame, Malformed):
                raise frame
            if frame is not NUDGE:
                self._do(frame)

    def _listen(self) -> None:
        try:
            while (frame := frames.read(self._source)) is not None:
                self._coming.put(frame)
            self._end()
            self._coming.put(None)
        except Malformed as error:
            self._coming.put(error)

    def _abandon(self, *_: object) -> None:
        self._is_abandoned = True
        self._coming.put(NUDGE)  # a job may wait for what never comes

    def _do(self, frame: frames.Frame) -> None:
        order = codec.decode(orders.ORDERS[frame.kind], frame.body, frames.MAX_FRAME)
        if isinstance(order, orders.Job):
            self._job, self._is_abandoned = frame.order, False
        try:
            self._reply(frame.order, self._answer(order))
            give_memory_back()  # or the holes that an order leaves add to what the next one needs
        except ProofswarmError as error:
            node = error.node if isinstance(error, StepFailed) else -1
            self._reply(frame.order, orders.Failed(type(error).__name__, str(error), node))

    def _answer(self, order: orders.Order[Any]) -> object:
        if self._process is None:
            exact.require_subnormals()
        if isinstance(order, orders.Prepare):
            tell, wait = self._between_steps, self._await
            self._process = ComputeProcess(order, self._conduct, tell, self._engine, wait)
            return self._process.measure()
        if self._process is None:
            raise Malformed("the first order must be Prepare")
        return HANDLERS[type(order)](self._process, order)

    def _between_steps(self, news: orders.News) -> None:
        """Tell of a job's step, or what it gives, and do what has come meanwhile, for which others wait; jobs and the
        end wait too."""
        self._reply(self._job, news)
        while not self._coming.empty():
            self._meanwhile(self._coming.get())
        self._require_wanted()

    def _await(self) -> None:
        """Do the next thing that comes, for a job that waits; raises Unavailable at the end of the stream."""
        coming = self._coming.get()
        self._meanwhile(coming)
        if not isinstance(coming, frames.Frame):
            raise Unavailable("the node has gone")
        self._require_wanted()

    def _meanwhile(self, coming: Coming) -> None:
        if isinstance(coming, frames.Frame) and coming.kind not in JOBS:
            if coming is not NUDGE:
                self._do(coming)
        else:
            self._later.append(coming)

    def _require_wanted(self) -> None:
        if self._is_abandoned:
            raise Unavailable("nobody waits for the job any more")

    def _reply(self, number: Count, answer: object) -> None:
        self._sink.write(frames.pack(number, answer))
        self._sink.flush()


def main(conduct: Conduct = honest, engine: MakeEngine = TorchEngine) -> None:
    """Serve on the standard streams; stray prints go to standard error, and an interrupt is the node's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore", NoLoops)  # the node tells it
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Without its node nobody waits for what it does: a step may take minutes, and a group wait for machines for ever.
    Server(sys.stdin.buffer, sink, conduct, engine, lambda: os._exit(0)).serve()


if __name__ == "__main__":
    main()
