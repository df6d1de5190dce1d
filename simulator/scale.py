"""What a peer costs the ledger as their number grows: a run of a few rounds with a fixed number of slots and verifiers.

Everyone joins; `SLOTS` workers train in a round and `VERIFIERS` audit, as in a run whose outer step has a fixed number
of ports (SPEC.md 4.1); everyone attests and seals, or a committee does (SPEC.md 4.14).
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulator.cast import Actor, Verifier, Worker
from simulator.network import Network
from simulator.toy import minimal
from simulator.world import World
from verification.effects import RoundOpened
from verification.ledger.log import STATEMENT, Entry, Fold
from verification.signed import open_statement
from verification.state import Stage

ROUNDS, SLOTS, VERIFIERS = 3, 16, 8
STEADY = range(1, ROUNDS - 1)
"""Rounds in which everyone takes part and which the next one ends: the first opens before all have joined."""

WINDOW = 60_000
"""Milliseconds of each window: long enough for everyone, so that no phase ends before all have spoken."""

NETWORK = Network(latency=(1, 2_000), notice=(5, 15), poll=100_000, resend=5_000)


@dataclass
class Folded:
    """What folding a log took, as everyone does who reads it: seconds by kind of entry, and of the steady rounds.

    `entries`, `size` (bytes) and `seconds` count one steady round.
    """

    kinds: dict[str, float]
    entries: float = 0.0
    size: float = 0.0
    seconds: float = 0.0


def grow(peers: int, committee: int, seed: int) -> World:
    """Play a run of so many peers to its end; the same arguments give the same log."""
    verifiers: list[Actor] = [Verifier(f"v{i}") for i in range(VERIFIERS)]
    workers = [Worker(f"w{i}") for i in range(peers - VERIFIERS)]
    manifest = minimal(
        rounds=ROUNDS, slots=SLOTS, max_verifiers=VERIFIERS, min_workers=min(peers - VERIFIERS, SLOTS),
        min_verifiers=VERIFIERS, audit_rate=50_000, committee=committee, commit=WINDOW, attest=WINDOW, seal=WINDOW,
        verdict=WINDOW, opening=WINDOW, reveal=WINDOW, stall=10 * WINDOW,
    )  # fmt: skip
    world = World(manifest, [*verifiers, *workers], random.Random(seed), NETWORK)
    world.run(limit=1_000 * WINDOW)
    assert world.state.stage is Stage.ENDED
    assert len(world.state.rounds) == ROUNDS
    last = world.state.rounds[-1]
    assert last.weight == committee if last.is_committee else len(last.members) == peers
    return world


def fold(world: World, clock: Callable[[], float]) -> Folded:
    """Fold a world's log again, as a newcomer does; raises AssertionError when it does not end on the same state."""
    first, *lines = world.ledger.log
    fold, library = Fold(), world.ledger.library
    fold.follow(first, library)
    kinds = [
        open_statement(line.data).statement.kind if line.kind == STATEMENT else line.kind for line in lines
    ]
    folded = Folded(dict.fromkeys(kinds, 0.0))
    for kind, line in zip(kinds, lines, strict=True):
        number = len(fold.state.rounds) - 1
        began = clock()
        fold.follow(line, library)
        taken = clock() - began
        folded.kinds[kind] += taken
        if number in STEADY:
            folded.entries += 1 / len(STEADY)
            folded.size += len(line.data) / len(STEADY)
            folded.seconds += taken / len(STEADY)
    assert fold.state == world.state
    return folded


def steady_round(world: World) -> tuple[list[Entry], list[Entry]]:
    """Return the entries of a world's log before its first steady round, and that round's own."""
    log = world.ledger.log
    opened = [
        at for at, entry in enumerate(log, 1) for each in entry.effects if isinstance(each, RoundOpened)
    ]
    first, last = opened[STEADY[0]], opened[STEADY[0] + 1]
    return log[:first], log[first:last]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of log(cost) over log(size) by least squares: 1 is linear, 2 quadratic."""
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)
