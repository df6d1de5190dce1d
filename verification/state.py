"""The law's state: plain data that the `process_*` functions change. It is a pure fold over the ledger's log."""

from collections.abc import KeysView
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from verification.causes import Cause
from verification.debts import Debt, MoveDebt
from verification.digest import ZERO
from verification.game import Game, PostedList
from verification.manifest import BundleRef, Manifest, Place, Post
from verification.placed import ExecutionRef
from verification.statements import Commit, Opening, Reveal
from verification.units import NOTHING, PPM, Address, Amount, Count, Digest, Millis, Round

RECENT_ROUNDS = 2
"""The last so many rounds are sealed late, contested and served, whatever is open. (SPEC.md 4.7, 4.13, 6.2)"""

BEGINNING = Millis(0)
"""When nothing has been said."""

MOST_ROUNDS_OUT = 16
"""Who comes back from away waits 1, 2, 4 rounds and so on, so many at most. (SPEC.md 3.5)"""

GRACE = 20
"""Who missed its last round is waited for a twentieth of a window. (SPEC.md 3.8)"""

PATIENCE = 2
"""Once most are there, the others are waited for half as long again as those took. (SPEC.md 3.8)"""

AuditKey = tuple[Address, Round, Address]
"""(verifier, work round, worker)"""


class Stage(Enum):
    """Where a run stands."""

    GATHERING = "gathering"
    RUNNING = "running"
    DRAINING = "draining"
    ENDED = "ended"


class Phase(Enum):
    """Where a round stands."""

    COMMIT = "commit"
    ATTEST = "attest"
    SEAL = "seal"
    SEALED = "sealed"


class Watch(Enum):
    """Where the audits drawn in a round stand."""

    VERDICT = "verdict"
    OPENING = "opening"
    REVEAL = "reveal"
    DONE = "done"


class Standing(StrEnum):
    """A member's standing. Only ACTIVE members get work and count in the denominator."""

    ACTIVE = "active"
    AWAY = "away"
    SUSPENDED = "suspended"
    EXCLUDED = "excluded"


class Turn(Enum):
    """Whose move a dispute waits for."""

    LIST = "list"
    POINT = "point"
    EVIDENCE = "evidence"
    CLOSED = "closed"


class Ruling(Enum):
    """How a dispute ended. VOID decides nothing and finalises nothing."""

    GUILTY = "guilty"
    INNOCENT = "innocent"
    VOID = "void"


class Audit(Enum):
    """How one audit ended."""

    WAITING = "waiting"
    PASSED = "passed"
    MISMATCH = "mismatch"
    LOST = "lost"
    VOID = "void"


@dataclass
class Member:
    """A staked participant. `escrow` maps a round to its reward until it matures, `owes` a debt to its beginning.

    `capacity` is how many inner steps the rounds that it has delivered so far warrant, `missed` how many rounds in a
    row it missed, `idle` in how many sessions in a row a verifier left a duty undone, `lapses` how often it went away,
    last at `away_at`. A worker with a `post` works in crews.
    """

    address: Address
    role: str
    stake: Amount
    speed: int
    tip: Digest
    endpoint: str
    joined: Round
    capacity: int = 0
    idle: int = 0
    lapses: int = 0
    away_at: Millis | None = None
    links: int = 0
    escrow: dict[Round, Amount] = field(default_factory=dict)
    standing: Standing = Standing.ACTIVE
    owes: dict[Debt, Millis] = field(default_factory=dict)
    convictions: int = 0
    missed: int = 0
    post: Post | None = None
    rewards: Amount = NOTHING
    slashed: Amount = NOTHING

    @property
    def suspended_at(self) -> Millis | None:
        """Return since when the oldest debt is owed; None without one. Every debt has its own time to be paid."""
        return min(self.owes.values(), default=None)


@dataclass(frozen=True)
class Assignment:
    """What a worker does in a round: `steps` inner steps on the records that its draw gives, in slot `slot`.

    `stake` is what it had bonded when the round opened: its weight in the median norm. The members of a crew share a
    slot, and each has its `post` there.
    """

    slot: int
    steps: int
    stake: Amount
    post: Post | None = None


@dataclass
class RoundState:
    """One round. Its work starts from `start`, `beacon` drew its assignments; `members` are those who decide it, with
    their stake or, while a drawn committee decides (`is_committee`), their seats; `weight` is the sum.

    `allowed` is how long nobody's work is late: twice as long as the longest takes at its claimed speed. `heard_at`
    is when the last commitment or attestation came, or its phase began. `reserve` is what the deposit set aside for
    it and has not been paid yet, `subtracts` the convicted contributions of earlier rounds that its outer step
    takes back; `asked` are the workers who must open because a verdict is in, `failures` the failures in which
    opened rounds end, `audited` the verifiers that had a worker's audit, `fees` how many were paid for them.
    `attested` is the weight of those who attested, `held` that of those who hold a worker's contribution, `backing`
    that behind each sealed state: kept, so that a statement takes the same time however many members there are.
    `crews` gives for each worker all that share its slot, their lead first; of a whole worker it is the only one.
    `stuck` says who could not go on for want of whom.
    """

    number: Round
    start: BundleRef
    beacon: Digest
    head: Digest
    opened_at: Millis
    deadline: Millis
    members: dict[Address, int]
    assignments: dict[Address, Assignment]
    heard_at: Millis = BEGINNING
    allowed: Millis = BEGINNING
    weight: int = 0
    is_committee: bool = False
    phase: Phase = Phase.COMMIT
    reserve: Amount = NOTHING
    subtracts: tuple[tuple[Round, Address], ...] = ()
    commits: dict[Address, Commit] = field(default_factory=dict)
    attests: dict[Address, frozenset[Address]] = field(default_factory=dict)
    included: tuple[Address, ...] = ()
    attested: int = 0
    held: dict[Address, int] = field(default_factory=dict)
    seals: dict[Address, BundleRef] = field(default_factory=dict)
    backing: dict[BundleRef, int] = field(default_factory=dict)
    sealed: BundleRef | None = None
    asked: set[Address] = field(default_factory=set)
    openings: dict[Address, Opening] = field(default_factory=dict)
    failures: dict[Address, Digest] = field(default_factory=dict)
    audited: dict[Address, set[Address]] = field(default_factory=dict)
    fees: dict[Address, int] = field(default_factory=dict)
    lists: dict[tuple[Address, str], PostedList] = field(default_factory=dict)
    crews: dict[Address, tuple[Address, ...]] = field(default_factory=dict)
    stuck: dict[Address, Address] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.crews = crews_in(self.assignments)

    def lead(self, worker: Address) -> Address:
        """Return under whose address a worker's round is audited and counts: its own, or its crew's first member's."""
        return self.crews[worker][0]

    def was_included(self, worker: Address) -> bool:
        """Return whether a worker's part of the round counts."""
        return worker in self.crews and self.lead(worker) in self.included

    def is_stuck(self, worker: Address) -> bool:
        """Return whether a worker's crew cannot go on."""
        return any(member in self.stuck for member in self.crews[worker])

    @property
    def awaited(self) -> set[Address]:
        """The workers whose commitments may still come: not those of a crew that cannot go on."""
        return {worker for worker in self.assignments if not self.stuck or not self.is_stuck(worker)}


def crews_in(assignments: dict[Address, Assignment]) -> dict[Address, tuple[Address, ...]]:
    """Return for each worker all that share its slot, by their shards."""
    found: dict[int, list[Address]] = {}
    for worker, assigned in assignments.items():
        found.setdefault(assigned.slot, []).append(worker)
    crews = {}
    for members in found.values():
        crew = sorted(members, key=lambda each: shard_of(assignments[each].post))
        crews.update(dict.fromkeys(crew, tuple(crew)))
    return crews


def shard_of(post: Post | None) -> int:
    """Return the shard of a post, 0 of a whole worker."""
    return 0 if post is None else int(post.shard)


@dataclass(frozen=True)
class Duty:
    """An audit that the public beacon gave to a named verifier: a last round's, or one drawn again.

    Here and below `worker` is a crew's lead, under whose address all of it is audited.
    """

    work: Round
    worker: Address
    verifier: Address


@dataclass
class Session:
    """The audits drawn by the beacon of round `number`. Verdict keys are (verifier, work round, worker).

    `rates` gives each verifier's chance to audit a worker's round; `has_links` says whether secret links draw audits
    too, as they do in all sessions but those of a draining run.
    """

    number: Round
    beacon: Digest
    deadline: Millis
    rates: dict[Address, PPM]
    public: frozenset[Duty]
    has_links: bool = True
    watch: Watch = Watch.VERDICT
    verdicts: dict[tuple[Address, Round, Address], Digest] = field(default_factory=dict)
    finished: set[Address] = field(default_factory=set)
    reveals: dict[tuple[Address, Round, Address], Reveal] = field(default_factory=dict)
    links: dict[Address, Digest] = field(default_factory=dict)
    audits: dict[tuple[Address, Round, Address], Audit] = field(default_factory=dict)

    @property
    def verifiers(self) -> KeysView[Address]:
        """Return who may audit in this session, in address order."""
        return self.rates.keys()

    def verifiers_without_link(self) -> list[Address]:
        """Return whose duties are not known yet."""
        if not self.has_links or len(self.links) == len(self.rates):
            return []
        return [verifier for verifier in self.rates if verifier not in self.links]


@dataclass
class Dispute:
    """A claim of `accused` that `challenger` contests: how it was `opened`, and where the `game` stands.

    `level` counts the points; `operator` and `near` say for people at what and where in the program it has arrived.
    `right` is what the law found in place of the claim that was judged last: bits or a total, None where a step ends.
    `decided` is the dispute whose last move convicted: this one, or another about the same claim.
    """

    number: int
    round: Round
    accused: Address
    challenger: Address
    leaf: int | None
    opened: Game
    game: Game
    turn: Turn
    since: Millis
    clocks: dict[Address, int]
    level: int = 0
    operator: str = ""
    near: str = ""
    computed: Digest | None = None
    right: int | None = None
    decided: int | None = None
    ruling: Ruling | None = None
    cause: Cause | None = None
    slashed: Amount = NOTHING
    rewarded: Amount = NOTHING
    burned: Amount = NOTHING

    @property
    def place(self) -> Place:
        """Which of the run's programs it is about."""
        return self.game.place

    @property
    def execution(self) -> ExecutionRef:
        """The execution that it is about, once the interval is one step long."""
        return ExecutionRef(self.round, self.accused, self.place, Count(self.game.step))

    @property
    def debt(self) -> MoveDebt:
        """What the party whose move it is owes once its clock has run out."""
        return MoveDebt(self.number)


@dataclass
class Demanded:
    """A chunk of a contribution that `payer` has paid to see; `seed` draws it, `price` waits for who shows it."""

    number: int
    round: Round
    worker: Address
    payer: Address
    price: Amount
    seed: Digest
    deadline: Millis
    is_met: bool = False
    is_overdue: bool = False


@dataclass(frozen=True)
class Parting:
    """How often two members were parted, and the last round in which they do not work together even where they would
    not work else. (SPEC.md 4.17)"""

    times: int
    until: Round


@dataclass
class State:
    """Everything the ledger knows about a run.

    `redraws` holds the worker-rounds whose audit is drawn again, `convicted` those that have been paid for, `waiting`
    the audits (session, audit) that wait for a worker-round's opening, `queued` those that wait until a bond is free,
    `running` the disputes without a ruling, `debtors` the members that owe something, `joined` how many ever joined in
    each role, `committee` the seats that decide the next round (none: everyone does), `parted` the pairs, ascending,
    that were. Sets are iterated in sorted order only.
    """

    manifest: Manifest
    run: Digest
    chain: str
    submitter: Address
    head: Digest
    balances: dict[Address, Amount]
    deposit: Amount
    now: Millis
    active_at: Millis
    stage: Stage = Stage.GATHERING
    burned: Amount = NOTHING
    beacon: Digest = ZERO
    committee: dict[Address, int] = field(default_factory=dict)
    members: dict[Address, Member] = field(default_factory=dict)
    joined: dict[str, int] = field(default_factory=dict)
    debtors: set[Address] = field(default_factory=set)
    rounds: list[RoundState] = field(default_factory=list)
    sessions: dict[Round, Session] = field(default_factory=dict)
    disputes: list[Dispute] = field(default_factory=list)
    running: dict[int, Dispute] = field(default_factory=dict)
    demands: list[Demanded] = field(default_factory=list)
    redraws: set[tuple[Round, Address]] = field(default_factory=set)
    convicted: set[tuple[Round, Address]] = field(default_factory=set)
    waiting: dict[tuple[Round, Address], list[tuple[Round, AuditKey]]] = field(default_factory=dict)
    queued: set[tuple[Round, AuditKey]] = field(default_factory=set)
    fresh_links: list[Digest] = field(default_factory=list)
    parted: dict[tuple[Address, Address], Parting] = field(default_factory=dict)
    said: dict[tuple[Address, Round, str, Digest], Digest] = field(default_factory=dict)

    @property
    def current(self) -> RoundState:
        """The newest round; IndexError while the run gathers members."""
        return self.rounds[-1]

    @property
    def newest(self) -> Round:
        """The number of the newest round or draining session, 0 before the first. (SPEC.md 3.5)"""
        return Round(max(0, len(self.rounds) - 1, next(reversed(self.sessions), 0)))

    @property
    def deciding(self) -> RoundState:
        """The oldest round that has not sealed, the newest where all have; IndexError while the run gathers members.

        Without overlap it is `current`, and with it that or the one before. (SPEC.md 4.16)
        """
        return next((each for each in self.rounds[-2:] if each.phase is not Phase.SEALED), self.current)

    @property
    def recent(self) -> list[RoundState]:
        """The rounds whose inputs every member still holds: the last, with those that have begun since."""
        first = self.deciding.number + 1 - RECENT_ROUNDS if self.rounds else 0
        return self.rounds[max(0, first) :]

    def is_recent(self, number: Round) -> bool:
        """Return whether a round is one of `recent`, or later."""
        return not self.rounds or number + RECENT_ROUNDS > self.deciding.number

    def open_disputes(self) -> list[Dispute]:
        """Return the disputes that still wait for a move."""
        return list(self.running.values())


def state_before(state: State, number: Round) -> BundleRef:
    """Return the state that the rounds before `number` have made; the newest one where not all of them have sealed."""
    sealed = (worked.sealed for worked in reversed(state.rounds[:number]))
    return next((ref for ref in sealed if ref is not None), state.manifest.start)


def last_sealed(state: State) -> RoundState | None:
    """Return the newest round that has sealed; None without one."""
    return next((worked for worked in reversed(state.rounds) if worked.phase is Phase.SEALED), None)


def work_begins(state: State, number: Round) -> Round:
    """Return before which round the state was made that the work of round `number` starts from. (SPEC.md 4.16)"""
    return Round(max(0, number - state.manifest.work.overlap))


def total_money(state: State) -> int:
    """Return all money there is; constant over a run's life. (SPEC.md 7.10)"""
    held = sum(member.stake + sum(member.escrow.values()) for member in state.members.values())
    reserved = sum(worked.reserve for worked in state.rounds) + sum(demand.price for demand in state.demands)
    return sum(state.balances.values()) + held + reserved + state.deposit + state.burned


def is_convicted(state: State, number: Round, worker: Address) -> bool:
    """Return whether a worker, or one of its crew, has been convicted of a round."""
    crew = state.rounds[number].crews.get(worker, (worker,))
    return any((number, member) in state.convicted for member in crew)


def open_questions(state: State) -> set[tuple[Round, Address]]:
    """Return the rounds of a peer that an audit or a dispute may still decide: nothing about them is final."""
    questions = {(dispute.round, dispute.accused) for dispute in state.open_disputes()}
    audited = state.redraws | state.waiting.keys() | {key[1:] for _, key in state.queued}
    # Once the accused is found innocent another of its crew may be accused.
    audited |= {(d.round, d.accused) for d in state.open_disputes() if d.place is not Place.OUTER}
    for session in state.sessions.values():
        hidden = session.verifiers_without_link()
        if session.watch is not Watch.DONE or any(
            state.members[v].standing is not Standing.EXCLUDED for v in hidden
        ):
            committed = state.rounds[session.number].commits if session.number < len(state.rounds) else {}
            questions |= {(session.number, worker) for worker in committed}
            audited |= {(duty.work, duty.worker) for duty in session.public}
    members = ((number, each) for number, lead in audited for each in state.rounds[number].crews[lead])
    return questions.union(members)
