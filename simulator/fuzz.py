"""Worlds whose hostile members drop, alter, delay, double and invent statements of every kind.

A seed fixes everything: the run's parameters, who plays what, the network, and each thing that is said. Every fourth
run is made again from the same job with the same keys, and the second time the hostile ones hold all that was said in
the first.
"""

import dataclasses
import random
import types
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.network import CALM, ROUGH
from simulator.toy import minimal
from simulator.world import World
from trainer.rounds.cheats import CHEATS, conduct_named
from verification import codec
from verification.adversaries import Act, Behaviour, Collude, Forge, Ring, Throw, View, Whisper
from verification.adversaries.playbook import PLAYS
from verification.effects import DisputeEnded
from verification.errors import Violation
from verification.honest.actions import Say
from verification.manifest import Manifest, Place
from verification.signed import open_statement
from verification.state import Stage
from verification.statements import KINDS, VERIFIER, WORKER, Body, Contradiction, Join, Withdraw
from verification.tensors import Tensor
from verification.units import MILLION, Address, Digest

SPARED = (Join, Withdraw)
"""Said as they are: without them there is no member to fuzz, and no end to wait for."""

INVENTED = 4
"""Most inventions of one member a round: bounds a world's length, not what may be said."""

PATIENCE = 2_000_000
"""Milliseconds of a world's time within which its run must end."""


@dataclass
class Hearsay:
    """What everyone can know: the statements of the log and of runs before, and what stands in them.

    `said` are signed bytes by author, `placed` by author, round and slot, `bodies` what they say, `digests` and
    `addresses` all that occur.
    """

    said: dict[Address, list[bytes]] = field(default_factory=dict)
    placed: dict[tuple[Address, int, str], list[bytes]] = field(default_factory=dict)
    bodies: list[Body] = field(default_factory=list)
    digests: list[Digest] = field(default_factory=lambda: [Digest(bytes(32))])
    addresses: list[Address] = field(default_factory=lambda: [Address(bytes(20))])
    heard: int = 0

    def listen(self, log: Sequence[Any]) -> None:
        """Take in what a log holds since the last time."""
        for entry in log[self.heard :]:
            if entry.kind == "statement":
                self.note(entry.data)
        self.heard = len(log)

    def note(self, data: bytes) -> None:
        """Take in one statement."""
        opened = open_statement(data)
        self.said.setdefault(opened.sender, []).append(data)
        place = opened.sender, int(opened.body.round), opened.body.slot
        self.placed.setdefault(place, []).append(data)
        self.bodies.append(opened.body)
        self.addresses.append(opened.sender)
        self._collect(opened.body)

    def _collect(self, value: object) -> None:
        if isinstance(value, bytes) and len(value) == 32:
            self.digests.append(Digest(value))
        elif isinstance(value, tuple):
            for item in value:
                self._collect(item)
        elif dataclasses.is_dataclass(value):
            for each in dataclasses.fields(value):
                self._collect(getattr(value, each.name))


class Inventor:
    """Makes bodies: of any kind from nothing, or from one that was said, with one thing changed."""

    def __init__(self, rng: random.Random, hearsay: Hearsay) -> None:
        """Draw from `rng`, and take digests and addresses from `hearsay`."""
        self._rng, self._hearsay = rng, hearsay

    def body(self) -> Body | None:
        """Return something to say; None where this try made nothing that can be encoded."""
        rng, hearsay = self._rng, self._hearsay
        roll = rng.random()
        if roll < 0.15:
            return self._contradiction()
        if roll < 0.6 and hearsay.bodies:
            return self.altered(rng.choice(hearsay.bodies))
        kind: Any = rng.choice([kind for kind in KINDS.values() if kind not in SPARED])
        return self._sound(lambda: kind(**{name: self._drawn(hint) for name, hint in _hints(kind).items()}))

    def altered(self, body: Body) -> Body | None:
        """Return `body` with one field changed."""
        return self._sound(lambda: self._changed(body))

    def _contradiction(self) -> Body | None:
        """Accuse someone by two of its statements, of whatever runs and places."""
        twice = [said for said in self._hearsay.placed.values() if len(said) > 1]
        author = self._rng.choice(self._hearsay.addresses)
        said = self._rng.choice(twice) if twice else self._hearsay.said.get(author, [])
        return Contradiction(*self._rng.sample(said, 2)) if len(said) > 1 else None

    def _sound(self, make: Any) -> Body | None:
        try:
            body: Body = make()
            codec.decode(type(body), codec.encode(body), body.limit)
        except (ValueError, TypeError, Violation):
            return None
        return body

    def _drawn(self, hint: Any) -> Any:
        """Return a value of a type."""
        rng, hearsay = self._rng, self._hearsay
        origin = get_origin(hint)
        if origin is tuple:
            return tuple(self._drawn(get_args(hint)[0]) for _ in range(rng.choice([0, 1, 2, 3, 8])))
        if origin in (Union, types.UnionType):
            return self._drawn(rng.choice(get_args(hint)))
        if hint is type(None):
            return None
        if hint is Place:
            return rng.choice(list(Place))
        if hint is Tensor:
            return Tensor("int64", (), bytes(8))
        if dataclasses.is_dataclass(hint):
            make: Any = hint
            return make(**{name: self._drawn(inner) for name, inner in _hints(hint).items()})
        if hint in (Digest, Address):
            return rng.choice(hearsay.digests if hint is Digest else hearsay.addresses)
        base = getattr(hint, "__supertype__", hint)
        if base is str:
            return rng.choice([WORKER, VERIFIER, "", "/toy/nowhere"])
        return (
            rng.randbytes(rng.choice([0, 1, 40]))
            if base is bytes
            else rng.choice([0, 1, 2, 3, 5, 12, 1 << 40])
        )

    def _changed(self, value: Any) -> Any:
        """Return a value of the same type with one thing changed."""
        rng = self._rng
        if isinstance(value, Place):
            return rng.choice(list(Place))
        if isinstance(value, bytes):
            known: dict[int, list[Any]] = {32: self._hearsay.digests, 20: self._hearsay.addresses}
            return rng.choice(known.get(len(value), [b"", value[::-1], value + b"\0"]))
        if isinstance(value, int):
            return rng.choice([value + 1, value - 1, 0, value * 2, 1 << 30])
        if isinstance(value, tuple):
            return self._reordered(value)
        if dataclasses.is_dataclass(value) and dataclasses.fields(value):
            name = rng.choice(dataclasses.fields(value)).name
            return dataclasses.replace(value, **{name: self._changed(getattr(value, name))})  # type: ignore[type-var]
        return 0 if value is None else value

    def _reordered(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a list with one entry gone, twice, changed or elsewhere."""
        if not items:
            return ()
        at, other = self._rng.randrange(len(items)), self._rng.randrange(len(items))
        made = list(items)
        match self._rng.randrange(4):
            case 0:
                del made[at]
            case 1:
                made.insert(at, items[at])
            case 2:
                made[at] = self._changed(items[at])
            case _:
                made[at], made[other] = made[other], made[at]
        return tuple(made)


def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind)}


class Fuzz(Behaviour):
    """Decides for each thing that it would say, once, whether to say, drop, alter, delay or double it; and invents."""

    FATES: ClassVar[dict[str, int]] = {"say": 70, "drop": 8, "alter": 8, "delay": 9, "double": 5}
    """How often each, in hundredths."""

    def __init__(self, rng: random.Random, hearsay: Hearsay) -> None:
        """Draw everything from `rng`."""
        super().__init__()
        self._rng, self._inventor, self._hearsay = rng, Inventor(rng, hearsay), hearsay
        self._fates: dict[tuple[int, str], tuple[int, Act | None]] = {}
        self._invented: Counter[int] = Counter()

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Say what fate leaves of it, and something of its own."""
        kept: list[Act] = []
        for act in wanted:
            if isinstance(act, Say) and not isinstance(act.body, SPARED):
                kept += self._fated(view, act)
            else:
                kept.append(act)
        return [*kept, *self._inventions(view)]

    def _fated(self, view: View, act: Say) -> list[Act]:
        place = act.body.round, act.body.slot
        if place in self._fates:
            due, instead = self._fates[place]
            return [instead] if instead is not None and view.now >= due else []
        (fate,) = self._rng.choices(list(self.FATES), list(self.FATES.values()))
        self.faults += fate != "say"
        changed = self._inventor.altered(act.body)
        windows = view.state.manifest.windows
        delay = self._rng.choice([windows.attest, windows.verdict, windows.silence, 2 * windows.silence])
        due = view.now + delay if fate == "delay" else 0
        said: Act | None = None if fate == "drop" else act
        if fate == "alter" and changed is not None:
            said = Say(changed)
        self._fates[place] = due, said
        now: list[Act] = [said] if said is not None and not due else []
        return [*now, Forge(changed)] if fate == "double" and changed is not None else now

    def _inventions(self, view: View) -> list[Act]:
        number = len(view.state.rounds)
        if self._invented[number] >= INVENTED or self._rng.random() > 0.2:
            return []
        self._invented[number] += 1
        self.faults += 1
        author = self._rng.choice(self._hearsay.addresses)
        if self._rng.random() < 0.1 and author in self._hearsay.said:
            return [Throw(self._rng.choice(self._hearsay.said[author]))]
        body = self._inventor.body()
        return [] if body is None else [Forge(body)]


@dataclass(frozen=True)
class Fuzzed:
    """What a seed's worlds came to: how many worlds, and how many of them `again`, from a job played before; entries of
    their logs, refused statements, faults of the hostile ones, disputes, and rulings by name."""

    worlds: int
    again: int
    entries: int
    refused: int
    faults: int
    disputes: int
    rulings: dict[str, int]


def fuzz(seed: int) -> Fuzzed:
    """Play a seed's run, and for every fourth seed the same job again; raises AssertionError for what must not be."""
    rng = random.Random(seed)
    manifest, again = parameters(rng), rng.random() < 0.25
    total, loot = Fuzzed(0, 0, 0, 0, 0, 0, {}), Hearsay()
    for number in range(2 if again else 1):
        loot.heard = 0
        world = _world(rng, manifest, loot, number)
        world.run(limit=PATIENCE)
        total = _counted(total, world)
    return total


def parameters(rng: random.Random) -> Manifest:
    """Return a run's parameters: committees, clipping, subtraction, grades, short and long rounds among them."""
    changes: dict[str, Any] = {
        "rounds": rng.randint(3, 9),
        "audit_rate": rng.choice([200_000, 600_000, MILLION]),
        "max_steps": rng.choice([8, 12, 12, 130]),
        "leaf_every": rng.choice([1, 4, 8]),
        "committee": rng.choice([0, 0, 4, 64]),
        "clip": rng.choice([0, 0, 2_000]),
        "on_conviction": rng.choice(["continue", "subtract"]),
        "overlap": rng.choice([False, True]),
        "slash_grades": rng.choice([(MILLION,), (100_000, 500_000, MILLION), (300_000, 300_000)]),
        "excluded_after": rng.randint(1, 2),
        "miss_limit": rng.randint(1, 3),
        "escrow_rounds": rng.choice([1, 2, 20]),
        "slots": rng.randint(3, 6),
        "min_workers": rng.randint(1, 3),
        "min_verifiers": rng.randint(1, 2),
        "max_verifiers": rng.randint(2, 5),
    }
    return minimal(**changes)


def _world(rng: random.Random, manifest: Manifest, hearsay: Hearsay, number: int) -> World:
    """Return a world of honest peers and at least two hostile ones, with some crashes that no rule punishes.

    In each run of a job, by its `number`, the same keys stand at other endpoints.
    """
    ring: Ring = {}
    honest: list[Actor] = [Worker(f"w{i}") for i in range(rng.randint(1, 3))]
    honest += [Verifier(f"v{i}") for i in range(rng.randint(1, 2))]
    hostile = [_hostile(rng, hearsay, i, ring) for i in range(rng.randint(2, 5))]
    for actor in honest:
        actor.skew = rng.randint(-100, 100)
        actor.me = dataclasses.replace(actor.me, endpoint=f"/toy/{actor.name}/{number}")
    invariants = Invariants(honest)

    def check(world: World) -> None:
        hearsay.listen(world.ledger.log)
        invariants(world)

    order = [*honest, *hostile]
    rng.shuffle(order)
    world = World(manifest, order, rng, rng.choice([CALM, CALM, ROUGH]), check)
    for actor in rng.sample(order, rng.randint(0, 3)):
        start = rng.randint(0, 4_000)
        harm = world.crash if rng.random() < 0.5 else world.cut_off
        harm(actor, start, start + rng.randint(1, 5_000))
    return world


def _hostile(rng: random.Random, hearsay: Hearsay, number: int, ring: Ring) -> Actor:
    """Return a member that cheats or plays, whispers with its ring, and fuzzes what it says."""
    first = rng.randint(0, 3)
    fuzzing = Fuzz(random.Random(rng.random()), hearsay)
    if rng.random() < 0.5:
        conduct = conduct_named(rng.choice(sorted(CHEATS)), first)
        return Worker(f"h{number}", Whisper(ring), *_play(rng, WORKER, first), fuzzing, conduct=conduct)
    partner = [Collude(ring)] if rng.random() < 0.5 else []
    return Verifier(f"h{number}", *partner, *_play(rng, VERIFIER, first), fuzzing)


def _play(rng: random.Random, role: str, first: int) -> Sequence[Behaviour]:
    names = sorted(name for name, play in PLAYS.items() if role in play.roles)
    return PLAYS[rng.choice(names)].make(first) if rng.random() < 0.5 else []


def _counted(total: Fuzzed, world: World) -> Fuzzed:
    """Add what a finished world came to; raises AssertionError for one that did not end as all must."""
    state = world.state
    assert state.stage is Stage.ENDED
    assert world.ledger.replay() == state
    rulings = Counter(total.rulings)
    rulings.update(ended.ruling.value for ended in world.seen(DisputeEnded))
    return Fuzzed(
        total.worlds + 1,
        total.again + (total.worlds > 0),
        total.entries + len(world.ledger.log),
        total.refused + sum(world.refused.values()),
        total.faults + sum(actor.faults for actor in world.actors),
        total.disputes + len(state.disputes),
        dict(rulings),
    )
