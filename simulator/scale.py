"""What a peer costs the ledger as their number grows: one run of a few rounds with a fixed number of slots.

Everyone joins, attests and seals; `SLOTS` workers train in a round and `VERIFIERS` audit, as in a run whose outer
step has a fixed number of ports (SPEC.md 4.1).
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulator.cast import Actor, Verifier, Worker
from simulator.network import Network
from simulator.toy import minimal
from simulator.world import World
from verification import codec, law
from verification.ledger.local import Genesis
from verification.state import Stage
from verification.statements import MAX_STATEMENT, open_statement
from verification.units import Digest

ROUNDS, SLOTS, VERIFIERS = 3, 32, 8
WINDOW = 60_000
"""Milliseconds of each window: long enough for everyone, so that no phase ends before all have spoken."""

NETWORK = Network(latency=(1, 2_000), notice=(5, 15), poll=100_000, resend=5_000)


@dataclass(frozen=True)
class Grown:
    """A finished run of `peers`: entries admitted, events simulated, bytes of the log."""

    peers: int
    entries: int
    events: int
    log_bytes: int
    head: Digest


def grow(peers: int, seed: int) -> tuple[Grown, World]:
    """Play a run of so many peers; the same seed gives the same log."""
    verifiers: list[Actor] = [Verifier(f"v{i}") for i in range(VERIFIERS)]
    workers = [Worker(f"w{i}") for i in range(peers - VERIFIERS)]
    manifest = minimal(
        rounds=ROUNDS, slots=SLOTS, max_verifiers=VERIFIERS, min_workers=min(peers - VERIFIERS, SLOTS),
        min_verifiers=VERIFIERS, audit_rate=50_000, commit=WINDOW, attest=WINDOW, seal=WINDOW, stall=10 * WINDOW,
    )  # fmt: skip
    world = World(manifest, [*verifiers, *workers], random.Random(seed), NETWORK)
    world.run(limit=1_000 * WINDOW)
    assert world.state.stage is Stage.ENDED
    assert len(world.state.rounds[-1].members) == peers
    log = world.ledger.log
    size = sum(len(line.data) for line in log)
    return Grown(peers, len(log), world.events, size, world.state.head), world


def fold(world: World, clock: Callable[[], float]) -> dict[str, float]:
    """Fold a world's log again, as a newcomer does, and return the time by kind of entry.

    Raises AssertionError when the fold does not end on the same state.
    """
    first, *lines = world.ledger.log
    genesis = codec.decode(Genesis, first.data, MAX_STATEMENT)
    kinds = [open_statement(line.data)[1].kind if line.kind == "statement" else line.kind for line in lines]
    state = law.found(
        genesis.manifest, genesis.chain, genesis.submitter, dict(genesis.balances), genesis.deposit, first.at
    )
    state.head = first.head
    spent: dict[str, float] = dict.fromkeys(kinds, 0.0)
    for kind, line in zip(kinds, lines, strict=True):
        state.head = line.head
        began = clock()
        if line.kind == "tick":
            law.advance(state, line.at)
        else:
            law.apply(state, line.data, line.at, world.ledger.executor)
        spent[kind] += clock() - began
    assert state == world.state
    return spent


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of log(cost) over log(size) by least squares: 1 is linear, 2 quadratic."""
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)
