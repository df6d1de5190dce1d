"""Run by the honest audits in a process of its own: executes rounds of one run under the settings it was started with.

Frames in, frames out, as between a peer's two processes. Keeps no results: what is asked for again is executed again.
"""

import os
import sys
from dataclasses import dataclass

import torch

from benchmarks import golden
from trainer.compute import frames
from trainer.rounds.engine import Job
from trainer.rounds.torch_engine import TorchEngine
from trainer.rounds.training import Rounds
from verification import codec
from verification.manifest import Manifest
from verification.outer import outer_inputs
from verification.program import program_digest
from verification.tensors import Bundle
from verification.units import Address, Count, Digest, Round


@dataclass(frozen=True)
class Setup:
    """The run: its manifest, its encoded programs and its data."""

    manifest: bytes
    programs: tuple[bytes, ...]
    data: Bundle


@dataclass(frozen=True)
class Train:
    """Compute F for a worker's round."""

    number: Round
    worker: Address
    beacon: Digest
    steps: Count
    start: Bundle


@dataclass(frozen=True)
class Part:
    """One contribution of an outer step."""

    slot: Count
    weight: int
    contribution: Bundle


@dataclass(frozen=True)
class Mix:
    """Compute the next state."""

    start: Bundle
    parts: tuple[Part, ...]
    ballast: Count


@dataclass(frozen=True)
class Made:
    """The leaves' digests (none for an outer step), and the contribution or state."""

    digests: tuple[Digest, ...]
    bundle: Bundle


ORDERS = {kind.__name__: kind for kind in (Setup, Train, Mix)}


def answer(rounds: Rounds, slots: int, order: Train | Mix) -> Made:
    """Execute one order."""
    if isinstance(order, Train):
        outcome = rounds.run(Job(order.number, order.worker, order.beacon, order.steps), order.start.tensors)
        assert outcome.contribution is not None
        return Made(outcome.digests, outcome.contribution)
    entries = {int(part.slot): (part.weight, part.contribution.tensors) for part in order.parts}
    return Made((), rounds.next_state(outer_inputs(slots, order.start.tensors, entries, order.ballast)))


def main() -> None:
    """Serve on the standard streams; the arguments are threads, and eager or compiled."""
    threads, mode = sys.argv[1:]
    torch.set_num_threads(int(threads))
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    rounds: Rounds | None = None
    while (frame := frames.read(sys.stdin.buffer)) is not None:
        order = codec.decode(ORDERS[frame.kind], frame.body, frames.MAX_FRAME)
        if isinstance(order, Setup):
            manifest = codec.decode(Manifest, order.manifest)
            programs = {program_digest(encoded): encoded for encoded in order.programs}
            rounds = Rounds(TorchEngine(programs, golden.MODES[mode]), manifest, order.data)
            continue
        assert rounds is not None
        sink.write(frames.pack(frame.order, answer(rounds, manifest.work.slots, order)))
        sink.flush()


if __name__ == "__main__":
    main()
