"""A swarm of honest peers under a plan of faults: nobody is slashed, nothing acknowledged is lost, and it goes on."""

import random
from collections import Counter
from dataclasses import dataclass

from simulator.cast import Actor, Verifier, Worker
from simulator.goodput import Ended, Span, kept, measure
from simulator.invariants import Invariants
from simulator.network import Network, Trouble
from simulator.plan import Cast, Fault, Kind, make_plan
from simulator.toy import minimal
from simulator.world import World
from verification.effects import RoundSealed, Slashed
from verification.manifest import Manifest
from verification.state import Standing, State
from verification.units import MILLION, Address

QUIET = 30_000
"""Milliseconds without a fault before and after those with."""
NETWORK = Network(latency=(5, 60), notice=(50, 150), step=150, fetch=(20, 200), poll=1_000, resend=500)
"""A wide area: a round of 4 steps takes some two seconds."""
WINDOWS = {
    "commit": 3_000, "attest": 2_000, "seal": 2_000, "verdict": 6_000, "opening": 3_000, "reveal": 3_000,
    "clock": 20_000, "stall": 300_000, "silence": 600_000,
}  # fmt: skip
LONGEST = 20
"""Rounds in a row that a member may miss: who is back sooner goes on where it was."""


@dataclass(frozen=True)
class Churned:
    """What a plan came to. Times are in milliseconds; `deadline` is the longest that a round may wait for anybody."""

    seed: int
    faults: dict[str, int]
    rounds: int
    entries: int
    goodput_kept: float
    longest_stall: int
    longest_quiet: int
    deadline: int
    slashed: int
    lost_statements: int
    states: int


def churn(seed: int, cast: Cast, length: int, count: int) -> Churned:
    """Play a plan between two times of quiet; raises AssertionError for what must not be."""
    plan = make_plan(seed, cast, length, count)
    workers, verifiers = cast.roles
    actors: list[Actor] = [Worker(f"w{number}") for number in workers]
    actors += [Verifier(f"v{number}") for number in verifiers]
    ended: list[Ended] = []
    invariants = Invariants(actors)

    def check(world: World) -> None:
        invariants(world)
        for effect in world.ledger.log[-1].effects:
            if isinstance(effect, RoundSealed):
                ended.append(Ended(world.now, len(world.state.rounds[effect.number].included)))

    manifest = _manifest(cast, (length + 4 * QUIET) // 1_000)
    world = World(manifest, actors, random.Random(seed), NETWORK, check)
    world.run(lambda world: len(ended) > 2, QUIET)
    begin = world.now + QUIET
    for fault in plan:
        _strike(world, actors, fault, begin)
    over = begin + length
    world.run(lambda world: world.now >= over and are_back(world.state), over + 4 * QUIET)
    back = world.now
    world.run(lambda world: bool(ended) and ended[-1].at >= back + QUIET, back + 2 * QUIET)
    moved = [_moved(fault, begin) for fault in plan]
    quiet = [measure(ended, workers, (), at, at + QUIET) for at in (begin - QUIET, back)]
    return _counted(seed, world, plan, measure(ended, workers, moved, begin, back), quiet)


def are_back(state: State) -> bool:
    """Return whether every member is active and counts in the newest round."""
    newest = len(state.rounds) - 1
    return all(
        m.standing is Standing.ACTIVE and m.joined < newest and not m.missed for m in state.members.values()
    )


def deadline_of(manifest: Manifest) -> int:
    """Return the milliseconds that a round may wait for members who are not there: its windows together."""
    windows = manifest.windows
    return windows.commit + windows.attest + windows.seal


def _manifest(cast: Cast, rounds: int) -> Manifest:
    return minimal(
        rounds=rounds, min_workers=cast.workers, slots=cast.workers, min_verifiers=1, max_verifiers=cast.verifiers,
        audit_rate=MILLION // 4, miss_limit=LONGEST, max_steps=4, leaf_every=4, **WINDOWS,
    )  # fmt: skip


def _moved(fault: Fault, begin: int) -> Fault:
    return Fault(fault.start + begin, fault.end + begin, fault.kind, fault.peers, fault.amount)


def _strike(world: World, actors: list[Actor], fault: Fault, begin: int) -> None:
    """Have a fault happen, `begin` milliseconds later than the plan says."""
    start, end = begin + fault.start, begin + fault.end
    struck = [actors[number] for number in fault.peers]
    match fault.kind:
        case Kind.HOST:
            world.kill_host(start, end)
        case Kind.KILL:
            world.crash(struck[0], start, end)
        case Kind.STOP:
            world.stop(struck[0], start, end)
        case _:
            if fault.kind is Kind.CUT:
                world.cut_off(struck[0], start, end)
            addresses = [actor.address for actor in struck]
            world.at(start, lambda: _harm(world.trouble, fault, addresses))
            world.at(end, lambda: _mend(world.trouble, addresses))


def _harm(trouble: Trouble, fault: Fault, struck: list[Address]) -> None:
    match fault.kind:
        case Kind.CUT:
            trouble.alone.add(struck[0])
        case Kind.PART:
            trouble.parted.add(frozenset(struck))
        case Kind.SLOW:
            trouble.slow[struck[0]] = fault.amount
        case Kind.LOSS:
            trouble.lossy[struck[0]] = fault.amount * MILLION // 1_000


def _mend(trouble: Trouble, struck: list[Address]) -> None:
    trouble.alone.discard(struck[0])
    trouble.parted.discard(frozenset(struck))
    trouble.slow.pop(struck[0], None)
    trouble.lossy.pop(struck[0], None)


def _counted(seed: int, world: World, plan: tuple[Fault, ...], disturbed: Span, quiet: list[Span]) -> Churned:
    assert world.ledger.replay() == world.state
    logged = {entry.data for entry in world.ledger.log}
    states = max(len(worked.backing) for worked in world.state.rounds if worked.sealed is not None)
    return Churned(
        seed=seed,
        faults=dict(Counter(fault.kind.value for fault in plan)),
        rounds=disturbed.rounds,
        entries=len(world.ledger.log),
        goodput_kept=kept([disturbed], quiet),
        longest_stall=disturbed.longest,
        longest_quiet=max(span.longest for span in quiet),
        deadline=deadline_of(world.state.manifest),
        slashed=len(world.seen(Slashed)),
        lost_statements=sum(data not in logged for data in world.acknowledged),
        states=states,
    )
