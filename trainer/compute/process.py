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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, TypeVar

import torch

from p2p.blobs import BlobStore
from p2p.bundles import StoredTensor, map_data, open_bundle
from trainer import exact
from trainer.compute import children, frames, orders
from trainer.compute.memory import within_memory
from trainer.programs.interpreter import NoLoops, give_memory_back
from trainer.programs.options import RunOptions
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
from verification.layout import SUMMARY
from verification.library import StepFailed
from verification.manifest import BundleRef, Manifest, Place, ProgramRef
from verification.outer import outer_inputs
from verification.program import Sized, inputs_read, outputs_of, program_digest, require_work_units
from verification.sizes import contribution_size, data_port, state_size
from verification.statements import Commit
from verification.tensors import Bundle, digest_of, encoded
from verification.units import Count, Digest, Round

MEASURED_STEPS = 3
Tell = Callable[[orders.StepDone], None]
MakeEngine = Callable[[Mapping[Digest, bytes], RunOptions], TorchEngine]
"""Makes an engine for programs by their digest."""
Coming = frames.Frame | Malformed | None
"""An order, what is wrong with the stream, or its end."""
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
        tell: Tell = lambda step: None,
        engine: MakeEngine = TorchEngine,
    ) -> None:
        """Load what the manifest names from the store; `conduct` is what the peer's own rounds are computed with.

        `tell` hears of every inner step of a job, `engine` makes the machine's. Raises Violation for blobs that are
        not what the manifest says, UserError where the device is not here.
        """
        torch.set_num_threads(order.threads)
        self._tell = tell
        self.manifest = codec.decode(Manifest, order.manifest)
        self.store = BlobStore(Path(order.store))
        programs = self.manifest.programs
        refs = programs.all()
        texts = {ref.digest: self._program(ref) for ref in refs}
        options = replace(within_memory(order.options), scratch=str(self.store.scratch))
        self.engine = engine(texts, options)
        for ref in refs:
            self.engine.program(ref.digest)
        for name, units in vars(self.manifest.units).items():
            ref = getattr(programs, name)
            require_work_units(self.engine.program(ref.digest), units)
        loaded = {place: self.engine.program(programs.at(place).digest) for place in Place}
        self._limit = max(state_size(loaded), contribution_size(loaded))
        self._contribution = loaded[Place.EPILOGUE]
        self._norms = Norms(self._contribution)
        data = map_data(self.store, self.manifest.data, data_port(loaded))
        self.rounds = Rounds(self.engine, self.manifest, data)
        self._traced: tuple[orders.DisputedExecution, Traced] | None = None
        self._holding: tuple[orders.DisputedExecution, int, Holding] | None = None
        self._conduct = conduct
        self._read = inputs_read(loaded[Place.PROLOGUE]) | inputs_read(loaded[Place.EPILOGUE])
        """The places of a state's tensors that a worker's round reads; both programs begin with them."""
        self._last: tuple[BundleRef, tuple[StoredTensor, ...]] | None = None

    def measure(self) -> orders.Prepared:
        """Reproduce the golden step, check the run's own step in two ways, time inner steps, say on what they run."""
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
        try:
            outcome = rounds.run(
                _job(order),
                self._start(order.start),
                lambda number: self._tell(orders.StepDone(Count(number))),
                order.rerun,
            )
        except Unsound as error:
            raise Unsound(f"step {order.rerun} of round {order.number}: {error}") from error
        if outcome.contribution is None:
            assert outcome.failed is not None
            nothing = BundleRef(outcome.failed, outcome.failed)
            return orders.JobDone(outcome.digests, nothing, Count(0), 0, True)
        ref = self._keep(outcome.contribution)
        norm = spoilage.norm_of(outcome.contribution)
        loss = round(outcome.loss * orders.MICRO)
        return orders.JobDone(outcome.digests, ref, Count(norm), loss, False, self.engine.group)

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
        return self._keep(self.rounds.next_state(self._outer_inputs(order)))

    @does(orders.CheckContribution)
    def check_contribution(self, order: orders.CheckContribution) -> orders.Checked:
        """Check that a fetched blob is the committed contribution, of the epilogue's dtypes and shapes.

        The norm decides how much a contribution weighs, so it is counted again. (SPEC.md 4.5, 4.15)
        """
        outputs = outputs_of(self._contribution)
        if self._is_right(order.commit, outputs):
            return orders.Checked(True, None)
        data = self.store.get(order.commit.contribution.blob)
        size, chunks = len(data), chunks_root(data)
        shown = spoilage.show_spoiled(order.worker, order.commit, outputs, size, chunks, data)
        is_short = shown is not None and len(shown.data) <= spoilage.MAX_SHOWN
        return orders.Checked(False, shown if is_short else None)

    def _is_right(self, commit: Commit, outputs: Sequence[Sized]) -> bool:
        """Return whether a blob is the contribution committed to, in the memory of one tensor of it."""
        try:
            found = self._opened(commit.contribution)
        except Malformed:
            return False
        if [(each.dtype, each.shape) for each in found] != [(each.dtype, each.shape) for each in outputs]:
            return False
        given = Bundle((*(each.read() for each in found[-len(SUMMARY) :]),))
        return self._norms.of(found) == spoilage.norm_of(given) == commit.norm

    def _disputed(self, execution: orders.DisputedExecution) -> tuple[Engine, Disputed]:
        """Return a disputed execution, and the engine that has come as far as it."""
        order = execution.work
        if isinstance(order, orders.RunOuterStep):
            slots = [int(entry.slot) for entry in order.slots]
            return self.engine, self.rounds.disputed_outer(self._outer_inputs(order), slots)
        engine, rounds = self._rounds(order)
        start = self._stored(order.start)
        return engine, rounds.disputed(_job(order), start, execution.place, execution.step)

    def _rounds(self, order: orders.RunJob) -> tuple[Engine, Rounds]:
        """Return what a job is computed with: the machine's engine for an audit, the conduct's for an own round."""
        engine = self._conduct(self.engine, _job(order)) if order.own else self.engine
        return engine, self.rounds if engine is self.engine else self.rounds.over(engine)

    def _outer_inputs(self, order: orders.RunOuterStep) -> Start:
        entries = {int(e.slot): (e.weight, self._opened(e.contribution)) for e in order.slots}
        return outer_inputs(self.manifest.work.slots, self._stored(order.start), entries, order.ballast)

    def _program(self, ref: ProgramRef) -> bytes:
        encoded = self.store.get(ref.blob)
        if program_digest(encoded) != ref.digest:
            raise Malformed("a program's blob has another digest than the manifest says")
        return encoded

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

    def _do(self, frame: frames.Frame) -> None:
        order = codec.decode(orders.ORDERS[frame.kind], frame.body, frames.MAX_FRAME)
        if isinstance(order, orders.RunJob):
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
            self._process = ComputeProcess(order, self._conduct, self._between_steps, self._engine)
            return self._process.measure()
        if self._process is None:
            raise Malformed("the first order must be Prepare")
        return HANDLERS[type(order)](self._process, order)

    def _between_steps(self, step: orders.StepDone) -> None:
        """Tell of a job's step, and do what has come meanwhile, for which others wait; jobs and the end wait too."""
        self._reply(self._job, step)
        while not self._coming.empty():
            frame = self._coming.get()
            if isinstance(frame, frames.Frame) and frame.kind != orders.RunJob.__name__:
                self._do(frame)
            else:
                self._later.append(frame)
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
