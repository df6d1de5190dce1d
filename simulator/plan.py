"""A plan of faults: what happens to whom and when, as a pure function of a seed. Simulator and benchmark play the same.

Rules that every plan keeps (`problems` names what breaks them): one fault at a time for each peer, with time to recover
after it; of each role somebody is there, and never more than `most_down` peers are away at once; the host is there
again for a while before it goes again; every fault has ended, and its peer had time to recover, when the plan ends.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What happens to a peer, or to the ledger's host."""

    KILL = "kill"
    STOP = "stop"
    CUT = "cut"
    PART = "part"
    HOST = "host"
    SLOW = "slow"
    LOSS = "loss"


TOLD = {
    Kind.KILL: "killed and started again",
    Kind.STOP: "stopped and continued",
    Kind.CUT: "cut off from everyone",
    Kind.PART: "two cut off from each other",
    Kind.HOST: "the ledger's host killed and started again",
    Kind.SLOW: "on a slow link",
    Kind.LOSS: "on a lossy link",
}
"""The kinds in words."""
AWAY = frozenset({Kind.KILL, Kind.STOP, Kind.CUT})
"""Kinds during which a peer takes no part."""
OF_PROCESSES = (Kind.KILL, Kind.STOP, Kind.HOST)
"""Kinds that need nothing of the network."""
SECONDS = {
    Kind.KILL: (2, 12),
    Kind.STOP: (1, 10),
    Kind.CUT: (2, 12),
    Kind.PART: (5, 15),
    Kind.HOST: (1, 3),
    Kind.SLOW: (8, 20),
    Kind.LOSS: (8, 20),
}
"""How long a fault of each kind lasts, least and most."""
AMOUNTS = {Kind.SLOW: (500, 4_000), Kind.LOSS: (10, 50)}
"""Least and most kbit a second of a slow link, and thousandths of a lossy one's packets that never arrive."""
RECOVERY = 15_000
"""Milliseconds after a fault before its peer, or the host, has the next, and before the plan may end."""
STEP = 250
"""Milliseconds by which a fault moves on when its time suits nobody."""


@dataclass(frozen=True)
class Cast:
    """Who there is: peers have numbers, workers first."""

    workers: int
    verifiers: int

    @property
    def peers(self) -> range:
        """Return everyone's number."""
        return range(self.workers + self.verifiers)

    @property
    def roles(self) -> tuple[range, range]:
        """Return the numbers of workers and of verifiers."""
        return range(self.workers), range(self.workers, self.workers + self.verifiers)

    @property
    def most_down(self) -> int:
        """Return how many may be away at once: a third, so that who is left has a majority of the stake."""
        return max(1, len(self.peers) // 3)


@dataclass(frozen=True, order=True)
class Fault:
    """From `start` to `end`, in milliseconds, something is wrong with `peers`: one, two for a PART, none for the host.

    `amount` is a SLOW link's kbit a second, or of a LOSS the thousandths of packets that are lost.
    """

    start: int
    end: int
    kind: Kind
    peers: tuple[int, ...] = ()
    amount: int = 0

    def told(self) -> str:
        """Return the fault in words."""
        who = " and ".join(f"peer-{number}" for number in self.peers)
        much = {Kind.SLOW: f", {self.amount} kbit/s", Kind.LOSS: f", {self.amount / 10:g}%"}.get(
            self.kind, ""
        )
        return f"{who} {TOLD[self.kind]}{much} for {(self.end - self.start) / 1000:.1f} s".strip()


def make_plan(
    seed: int, cast: Cast, length: int, count: int, kinds: Sequence[Kind] = tuple(Kind)
) -> tuple[Fault, ...]:
    """Return `count` faults of all `kinds`, each as often as the others but for one, over `length` milliseconds.

    Raises ValueError where they do not fit: for a longer time, fewer faults, or more peers.
    """
    rng = random.Random(seed)
    order = [
        kind for _, kind in zip(range(count), itertools.cycle(rng.sample(kinds, len(kinds))), strict=False)
    ]
    rng.shuffle(order)
    room = max(1, length - RECOVERY)
    found: list[Fault] = []
    for place, kind in enumerate(order):
        wanted = room * place // count + rng.randrange(max(1, room // count))
        lasts = rng.randint(*(1000 * seconds for seconds in SECONDS[kind]))
        amount = rng.randint(*AMOUNTS[kind]) if kind in AMOUNTS else 0
        fault = _placed(rng, cast, length, found, Fault(wanted, wanted + lasts, kind, (), amount))
        if fault is None:
            raise ValueError(
                f"{count} faults do not fit into {length / 1000:g} s with {len(cast.peers)} peers"
            )
        found.append(fault)
    return tuple(sorted(found))


def _placed(
    rng: random.Random, cast: Cast, length: int, found: Sequence[Fault], wanted: Fault
) -> Fault | None:
    """Return a fault with its peers, at its time or as soon after it, or else before it, as the rules allow."""
    last = length - RECOVERY - (wanted.end - wanted.start)
    later = range(wanted.start, last + 1, STEP)
    earlier = range(min(wanted.start, last), -1, -STEP)
    choices = _choices(cast, wanted.kind)
    rng.shuffle(choices)
    for start in itertools.chain(later, earlier):
        for peers in choices:
            fault = Fault(start, start + wanted.end - wanted.start, wanted.kind, peers, wanted.amount)
            if not any(problems(cast, length, [*found, fault], fault)):
                return fault
    return None


def _choices(cast: Cast, kind: Kind) -> list[tuple[int, ...]]:
    if kind is Kind.HOST:
        return [()]
    return list(itertools.combinations(cast.peers, 2 if kind is Kind.PART else 1))


def problems(cast: Cast, length: int, faults: Sequence[Fault], of: Fault | None = None) -> Iterator[str]:
    """Yield what breaks the rules of a plan; with `of` only what a fault of it does to the others."""
    for fault in faults if of is None else [of]:
        if not 0 <= fault.start < fault.end <= length - RECOVERY:
            yield f"no time to recover: {fault}"
        near = [other for other in faults if other is not fault and _touches(fault, other, RECOVERY)]
        for other in near:
            same_host = fault.kind is Kind.HOST and other.kind is Kind.HOST
            if same_host or set(fault.peers) & set(other.peers):
                yield f"no time to recover between {fault} and {other}"
        if fault.kind in AWAY:
            yield from _absences(cast, fault, [o for o in faults if o.kind in AWAY and _touches(fault, o, 0)])


def _absences(cast: Cast, fault: Fault, others: Sequence[Fault]) -> Iterator[str]:
    """Yield where too many are away at once: some are so when one of them goes."""
    for moment in [other.start for other in others if fault.start <= other.start] + [fault.start]:
        away = {number for other in others if other.start <= moment < other.end for number in other.peers}
        if len(away) > cast.most_down:
            yield f"{len(away)} peers are away at {moment}"
        if any(set(role) <= away for role in cast.roles):
            yield f"a whole role is away at {moment}"


def _touches(one: Fault, other: Fault, gap: int) -> bool:
    return one.start < other.end + gap and other.start < one.end + gap


def is_there(faults: Sequence[Fault], number: int, moment: int) -> bool:
    """Return whether a plan leaves a peer alive and connected at a time, the ledger's host included."""
    return not any(
        fault.start <= moment < fault.end and (fault.kind is Kind.HOST or number in fault.peers)
        for fault in faults
        if fault.kind in AWAY or fault.kind is Kind.HOST
    )


def there(faults: Sequence[Fault], numbers: Sequence[int], begin: int, end: int) -> int:
    """Return for how many milliseconds together a plan leaves peers alive and connected between two times."""
    edges = sorted({begin, end, *(t for f in faults for t in (f.start, f.end) if begin < t < end)})
    return sum(
        (later - early) * sum(is_there(faults, number, early) for number in numbers)
        for early, later in itertools.pairwise(edges)
    )
