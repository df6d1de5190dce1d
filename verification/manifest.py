"""What a run is: the public, hashed parameters that every peer computes with. (SPEC.md 3.1)

Consensus parameters live here; ports, devices and folders are a peer's own business and live with the peer.
"""

from dataclasses import dataclass
from enum import StrEnum

from verification import codec
from verification.digest import tagged
from verification.units import PPM, Amount, Count, Digest, Millis, Round

PROTOCOL_VERSION = 2
ON_CONVICTION = ("continue", "subtract")
MAX_COMMITTEE = 2048
MAX_ROUNDS = 1_000_000
"""A verifier's chain has as many links, and economics are computed over as many rounds."""
MAX_SLOTS = 1 << 16
MAX_VERIFIERS = 1024
MAX_RECORDS = 1 << 24
"""Records that a worker's round may read: the law draws them again where their index is disputed."""
MAX_WINDOW = 1 << 36
"""Milliseconds, some two years."""
MAX_GRADES = 64
MAX_SHARDS = 256


@dataclass(frozen=True)
class BundleRef:
    """A bundle by its meaning (`digest`, SPEC.md 2.3) and by its bytes (`blob`, the address of its encoding)."""

    digest: Digest
    blob: Digest


@dataclass(frozen=True)
class ProgramRef:
    """A program by its digest and the blob that holds its encoding."""

    digest: Digest
    blob: Digest


class Place(StrEnum):
    """Where in a round an execution stands, and so which of the run's programs it runs."""

    PROLOGUE = "prologue"
    STEP = "inner step"
    EPILOGUE = "epilogue"
    OUTER = "outer step"


@dataclass(frozen=True)
class Programs:
    """The four programs of a run. (SPEC.md 2.4)"""

    prologue: ProgramRef
    inner: ProgramRef
    epilogue: ProgramRef
    outer: ProgramRef

    def all(self) -> tuple[ProgramRef, ...]:
        """Return the four in the order in which they run."""
        return self.prologue, self.inner, self.epilogue, self.outer

    def at(self, place: Place) -> ProgramRef:
        """Return the program that runs at a place."""
        return dict(zip(Place, self.all(), strict=True))[place]


@dataclass(frozen=True)
class DataRef:
    """The training records: a tensor of integers [records, width] of the dtype that the prologue reads; `root` is its
    tensor digest."""

    root: Digest
    blob: Digest
    records: Count
    width: Count

    def __post_init__(self) -> None:
        if self.records < 1 or self.width < 2:
            raise ValueError("data needs a record of two tokens")


@dataclass(frozen=True)
class WorkUnits:
    """What one execution of a worker's programs costs, as `verification.program.work_units` counts it.

    A peer counts the programs that it loads itself and does not stake on a manifest that says otherwise. (SPEC.md 7.2)
    """

    prologue: Count
    inner: Count
    epilogue: Count

    def __post_init__(self) -> None:
        if self.inner < 1:
            raise ValueError("an inner step costs at least one work unit")


@dataclass(frozen=True)
class Shard:
    """What one member of a crew computes: its own programs, and what they cost. (SPEC.md 4.17)

    `parameters` are the places in a state of those that it holds, ascending.
    """

    prologue: ProgramRef
    inner: ProgramRef
    epilogue: ProgramRef
    units: WorkUnits
    parameters: tuple[Count, ...]

    def all(self) -> tuple[ProgramRef, ...]:
        """Return the three programs in the order in which they run."""
        return self.prologue, self.inner, self.epilogue

    def at(self, place: Place) -> ProgramRef:
        """Return the program that runs at a place of a worker's round."""
        return {Place.PROLOGUE: self.prologue, Place.STEP: self.inner, Place.EPILOGUE: self.epilogue}[place]


@dataclass(frozen=True)
class Crossing:
    """A tensor that shard `maker` makes in every inner step and the shards `takers` read, ascending."""

    maker: Count
    takers: tuple[Count, ...]


@dataclass(frozen=True)
class Cut:
    """The model in shards, one for each member of a crew; `crossings` come in the order in which a step makes them.

    A shard's inner program reads its working state, then what it takes; it makes its working state, then what it gives:
    both in the order of the crossings. (SPEC.md 4.17)
    """

    shards: tuple[Shard, ...]
    crossings: tuple[Crossing, ...]

    def __post_init__(self) -> None:
        count = len(self.shards)
        if not 2 <= count <= MAX_SHARDS:
            raise ValueError(f"a cut has 2 to {MAX_SHARDS} shards")
        held = [place for shard in self.shards for place in shard.parameters]
        if sorted(held) != list(range(len(held))) or not all(shard.parameters for shard in self.shards):
            raise ValueError("every parameter has one shard, and every shard a parameter")
        if any(list(shard.parameters) != sorted(shard.parameters) for shard in self.shards):
            raise ValueError("a shard's parameters ascend")
        for crossing in self.crossings:
            takers = crossing.takers
            is_ordered = list(takers) == sorted(set(takers)) and takers
            if not is_ordered or max(crossing.maker, *takers) >= count or crossing.maker in takers:
                raise ValueError("a crossing goes from one shard to others of the cut, ascending")


@dataclass(frozen=True)
class Post:
    """A worker's place in a crew: shard `shard` of the run's cut number `cut`. (SPEC.md 4.17)"""

    cut: Count
    shard: Count


@dataclass(frozen=True)
class WorkRules:
    """How much a worker does in a round: at most `max_steps` inner steps, a leaf after every `leaf_every`.

    With `overlap` the next round's work begins before a round is decided. Above `committee` members, so many seats
    drawn by stake attest and seal; 0 lets everyone do so. Contributions are clipped at `clip` thousandths of the median
    norm, 0 for never; a convict's stays in the state ("continue") or is taken out again ("subtract").
    """

    rounds: Count
    max_steps: Count
    leaf_every: Count
    batch: Count
    slots: Count
    max_verifiers: Count
    min_workers: Count
    min_verifiers: Count
    audit_rate: PPM
    miss_limit: Count
    committee: Count
    clip: Count
    on_conviction: str
    overlap: bool

    def __post_init__(self) -> None:
        if not 1 <= self.leaf_every <= self.max_steps:
            raise ValueError("leaf_every must lie between 1 and max_steps")
        if self.rounds < 1 or self.batch < 1 or self.miss_limit < 1:
            raise ValueError("rounds, batch and miss_limit must be at least 1")
        if not 1 <= self.min_workers <= self.slots:
            raise ValueError("min_workers must lie between 1 and slots")
        if self.on_conviction not in ON_CONVICTION:
            raise ValueError(f"on_conviction must be one of {', '.join(ON_CONVICTION)}")
        if self.committee > MAX_COMMITTEE:
            raise ValueError(f"committee must be at most {MAX_COMMITTEE}")
        if self.rounds > MAX_ROUNDS or self.slots > MAX_SLOTS or self.max_verifiers > MAX_VERIFIERS:
            raise ValueError(
                f"rounds must be at most {MAX_ROUNDS}, workers {MAX_SLOTS}, verifiers {MAX_VERIFIERS}"
            )
        if self.max_steps * self.batch > MAX_RECORDS:
            raise ValueError(f"max_steps times batch must be at most {MAX_RECORDS}")
        if not 0 <= self.min_verifiers <= self.max_verifiers:
            raise ValueError("min_verifiers must lie between 0 and max_verifiers")

    @property
    def subtracts(self) -> bool:
        """Return whether a convict's contribution is taken out of the state again."""
        return self.on_conviction == "subtract"


@dataclass(frozen=True)
class Windows:
    """Durations on the ledger's clock. `clock` is one party's time for a whole dispute, `stall` ends a dead run,
    `silence` is how long a suspended party may still answer before it is convicted."""

    commit: Millis
    attest: Millis
    seal: Millis
    verdict: Millis
    opening: Millis
    reveal: Millis
    clock: Millis
    stall: Millis
    silence: Millis

    def __post_init__(self) -> None:
        short = (self.commit, self.attest, self.seal, self.verdict, self.opening, self.reveal, self.clock)
        if min(*short, self.silence) < 1:
            raise ValueError("every window must be at least one millisecond")
        if max(*short, self.silence, self.stall) > MAX_WINDOW:
            raise ValueError(f"every window must be at most {MAX_WINDOW} milliseconds")
        if self.stall <= self.commit + 2 * (self.attest + self.seal):
            raise ValueError("stall must be longer than commit and twice attest and seal together")


@dataclass(frozen=True)
class MoneyRules:
    """Stakes to join, pay per inner step, and what a conviction takes (SPEC.md 7)."""

    worker_stake: Amount
    verifier_stake: Amount
    reward_per_step: Amount
    fee_per_step: Amount
    accuser_bond: Amount
    slash_grades: tuple[PPM, ...]
    burned_share: PPM
    excluded_after: Count
    escrow_rounds: Count
    chunk_price: Amount

    def __post_init__(self) -> None:
        if not 1 <= len(self.slash_grades) <= MAX_GRADES:
            raise ValueError(f"slash_grades needs 1 to {MAX_GRADES} entries")
        if self.accuser_bond > self.verifier_stake:
            raise ValueError("accuser_bond must not exceed verifier_stake")
        if self.excluded_after < 1:
            raise ValueError("excluded_after must be at least 1")
        if self.escrow_rounds > MAX_ROUNDS:
            raise ValueError(f"escrow_rounds must be at most {MAX_ROUNDS}")


@dataclass(frozen=True)
class Assumptions:
    """What the submitter assumes of adversaries: `verification.economics` says from it what cheating costs.

    `colluding`: share of the verifiers that pass a partner's work, and of the stake; `sabotage`: what a wrong round is
    worth to someone.
    No rule of the law reads them; they are here so that everyone computes the same table before it stakes.
    """

    colluding: PPM
    sabotage: Amount


@dataclass(frozen=True)
class Origin:
    """The run and the round after which a run goes on, and how many rounds were trained until then, in all.

    No rule of the law reads it: that `start` is that round's state shows to whoever has that run's ledger.
    """

    run: Digest
    round: Round
    trained: Count


@dataclass(frozen=True)
class Manifest:
    """Everything that a run's results depend on, besides the ledger's record and the included contributions.

    `golden` is the state digest after one inner step from `start` on record 0: a peer reproduces it before it stakes.
    `origin` tells from which run `start` is, where it is a run's. `cuts` are the ways in which crews may share a
    worker's round.
    """

    version: Count
    arithmetic: str
    title: str
    seed: Digest
    programs: Programs
    units: WorkUnits
    data: DataRef
    start: BundleRef
    golden: Digest
    work: WorkRules
    windows: Windows
    money: MoneyRules
    assumptions: Assumptions
    origin: Origin | None = None
    cuts: tuple[Cut, ...] = ()

    def __post_init__(self) -> None:
        if self.version != PROTOCOL_VERSION:
            raise ValueError(f"protocol version {self.version} is not {PROTOCOL_VERSION}")
        if self.cuts and self.work.leaf_every != 1:
            raise ValueError("a run with cuts has a leaf after every inner step")

    def posts(self) -> tuple[Post, ...]:
        """Return every post of every cut, in order."""
        cuts = enumerate(self.cuts)
        return tuple(Post(Count(n), Count(s)) for n, cut in cuts for s in range(len(cut.shards)))

    def all_programs(self) -> tuple[ProgramRef, ...]:
        """Return all programs of the run, each once: the whole model's, then those of the shards."""
        shards = (ref for cut in self.cuts for shard in cut.shards for ref in shard.all())
        return tuple(dict.fromkeys([*self.programs.all(), *shards]))

    def shard(self, post: Post) -> Shard:
        """Return the shard of a post; IndexError for one that the run has not."""
        return self.cuts[post.cut].shards[post.shard]

    def units_of(self, post: Post | None) -> WorkUnits:
        """Return what a worker's executions cost: a whole one's, or its shard's."""
        return self.units if post is None else self.shard(post).units

    def programs_of(self, post: Post | None) -> Programs | Shard:
        """Return the programs of a worker's round: a whole one's, or its shard's."""
        return self.programs if post is None else self.shard(post)


def digest_of_manifest(manifest: Manifest) -> Digest:
    """Return the digest of a manifest, which runs that were made of one job share."""
    return tagged("manifest", codec.encode(manifest))


def chain_name(ledger: str, nonce: Digest) -> str:
    """Return the name of one log: the kind of its ledger and what was drawn when it was founded. (SPEC.md 3.1)"""
    return f"{ledger}/{nonce.hex()}"


def run_id(manifest: Manifest, chain: str) -> Digest:
    """Return a run's identity, its own: a manifest played again on another chain is another run. (SPEC.md 3.1)"""
    return tagged("run", chain.encode(), digest_of_manifest(manifest))


def reward_of(manifest: Manifest, steps: int, post: Post | None = None) -> Amount:
    """Return what a worker earns with a round of `steps` inner steps: by its work units. (SPEC.md 7.2)"""
    return _pay(manifest, manifest.money.reward_per_step, steps, post)


def fee_of(manifest: Manifest, steps: int, post: Post | None = None) -> Amount:
    """Return what the audit of such a round pays. (SPEC.md 7.3)"""
    return _pay(manifest, manifest.money.fee_per_step, steps, post)


def _pay(manifest: Manifest, per_step: int, steps: int, post: Post | None) -> Amount:
    return Amount(per_step * _units(manifest, steps, post) // manifest.units.inner)


def _units(manifest: Manifest, steps: int, post: Post | None = None) -> int:
    units = manifest.units_of(post)
    return units.prologue + steps * units.inner + units.epilogue


def least_stake(manifest: Manifest, post: Post | None = None) -> Amount:
    """Return what a worker must stake to be given one leaf's work. (SPEC.md 3.4)"""
    return stake_for(manifest, manifest.work.leaf_every, post)


def stake_for(manifest: Manifest, steps: int, post: Post | None = None) -> Amount:
    """Return what a worker must stake to be given so many steps; `worker_stake` is for `max_steps` of all the model.

    In proportion to the reward, so that a small stake has as much to lose for each coin that it earns. (SPEC.md 3.4)
    """
    whole = _units(manifest, manifest.work.max_steps)
    return Amount(-(-manifest.money.worker_stake * _units(manifest, steps, post) // whole))


def leaves_warranted(manifest: Manifest, stake: int, post: Post | None = None) -> int:
    """Return how many leaves' work a stake allows in a round. (SPEC.md 4.1)"""
    work, units = manifest.work, manifest.units_of(post)
    allowed = stake * _units(manifest, work.max_steps) // max(1, manifest.money.worker_stake)
    steps = (allowed - units.prologue - units.epilogue) // units.inner
    return max(0, min(work.max_steps, steps)) // work.leaf_every


def counted(manifest: Manifest, role: str, stake: int) -> int:
    """Return how much a stake weighs in a median: what is above the role's own stake buys no weight. (SPEC.md 4.10)"""
    money = manifest.money
    return min(stake, money.worker_stake if role == "worker" else money.verifier_stake)


def cost_of_work(manifest: Manifest, steps: int, post: Post | None = None) -> Amount:
    """Return the most that a worker's round can cost: its reward, and a fee for every verifier. (SPEC.md 7.1)"""
    fees = manifest.work.max_verifiers * fee_of(manifest, steps, post)
    return Amount(reward_of(manifest, steps, post) + fees)


def cost_of_round(manifest: Manifest) -> Amount:
    """Return the most that one round can cost: full work in every slot, by whom it costs the most. (SPEC.md 7.1)"""
    steps = manifest.work.max_steps
    costs = [int(cost_of_work(manifest, steps))]
    for number, cut in enumerate(manifest.cuts):
        posts = (Post(Count(number), Count(shard)) for shard in range(len(cut.shards)))
        costs.append(sum(cost_of_work(manifest, steps, post) for post in posts))
    return Amount(manifest.work.slots * max(costs))
