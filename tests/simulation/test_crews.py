"""Crews: shards of several owners in one worker's place. The guilty pays, and nobody else."""

import random
from collections.abc import Callable, Collection, Sequence

import pytest

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import ToyEngine, ToyLibrary
from simulator.toy_crew import with_crews
from simulator.world import World
from trainer.rounds.engine import Engine, Job
from verification.adversaries import Mute, Since, TwoFaced
from verification.adversaries.playbook import PLAYS, Ending, behaviours
from verification.causes import Cause
from verification.effects import AuditEnded, DisputeEnded, Slashed, StandingChanged
from verification.evidence.collect import convictions
from verification.evidence.file import pack
from verification.evidence.retrial import verify
from verification.manifest import Manifest, Place, Post
from verification.program import Node, Program
from verification.state import Audit, Ruling, Stage
from verification.statements import VERIFIER, WORKER, Commit
from verification.tensors import Tensor
from verification.units import Count

SHARDS = 2


def post(shard: int) -> Post:
    return Post(Count(0), Count(shard))


def crew(name: str, **shards: Callable[..., Worker]) -> list[Worker]:
    """A worker for each shard."""
    return [Worker(f"{name}{shard}", post=post(shard)) for shard in range(SHARDS)]


def world_of(actors: list[Actor], manifest: Manifest, seed: int = 0, gone: Collection[Actor] = ()) -> World:
    """A world in which no honest actor pays, but for who is `gone` for good and opens nothing any more."""
    honest = [actor for actor in actors if actor.is_honest and actor not in gone]
    return World(manifest, actors, random.Random(seed), check=Invariants(honest))


@pytest.mark.parametrize("seed", range(3))
def test_crews_and_whole_workers_train_one_run(seed: int) -> None:
    actors: list[Actor] = [*crew("a"), *crew("b"), Worker("whole"), Verifier("v0"), Verifier("v1")]
    world = world_of(actors, with_crews(min_workers=3, min_verifiers=2), seed)
    world.run()
    state = world.state
    assert state.stage is Stage.ENDED
    assert not world.seen(Slashed)
    assert not world.seen(StandingChanged)
    assert {audit.outcome for audit in world.seen(AuditEnded)} == {Audit.PASSED}
    assert all(len(worked.included) == 3 for worked in state.rounds)
    assert all(world.gain(actor) > 0 for actor in actors)


class Clumsy(ToyEngine):
    """A machine that gets the lowest bit wrong of all that one operator makes in some programs."""

    def __init__(self, operator: str, roles: tuple[str, ...]) -> None:
        super().__init__()
        self._operator, self._roles = operator, roles
        self.faults = 0

    def execute(self, program: Program, number: int, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        made = super().execute(program, number, node, inputs)
        if node.operator != self._operator or program.role not in self._roles:
            return made
        self.faults += 1
        return Tensor(made.dtype, made.shape, bytes([made.data[0] ^ 1]) + made.data[1:])


def clumsy(engine: Clumsy) -> Callable[[Engine, Job], Engine]:
    """A conduct that uses that machine from round 1 on."""
    return lambda own, job: engine if job.number >= 1 else own


STEP = ("inner", "leg")


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize(
    ("operator", "roles"),
    [
        ("gather", ("prologue",)), ("product", STEP), ("sum", STEP), ("multiply", STEP),
        ("subtract", STEP), ("add", STEP), ("subtract", ("epilogue",)), ("sum", ("epilogue",)),
    ],
)  # fmt: skip
def test_a_shard_that_computes_wrongly_is_convicted_alone(
    shard: int, operator: str, roles: tuple[str, ...]
) -> None:
    machine = Clumsy(operator, roles)
    cheat, mate = (
        Worker("cheat", post=post(shard), conduct=clumsy(machine)),
        Worker("mate", post=post(1 - shard)),
    )
    actors: list[Actor] = [cheat, mate, Worker("whole"), Verifier("v0"), Verifier("v1")]
    world = world_of(actors, with_crews(min_workers=2, audit_rate=1_000_000))
    world.run()
    guilty = [ended for ended in world.seen(DisputeEnded) if ended.ruling is Ruling.GUILTY]
    assert bool(machine.faults) == bool(guilty)
    assert (
        {ended.accused for ended in guilty}
        == {each.address for each in world.seen(Slashed)}
        <= {cheat.address}
    )
    assert {ended.cause for ended in guilty} <= {Cause.WRONG_NUMBER, Cause.WRONG_RANGE}
    assert world.gain(mate) > 0
    if (shard, operator) != (1, "product"):
        assert machine.faults  # shard 1 has no product


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("shard", range(SHARDS))
def test_who_commits_to_something_else_than_its_receipt_says_is_convicted_alone(
    shard: int, frames: bool
) -> None:
    liar = TwoFaced(frames)
    cheat, mate = Worker("cheat", Since(1, liar), post=post(shard)), Worker("mate", post=post(1 - shard))
    world = world_of([cheat, mate, Worker("whole"), Verifier("v0")], with_crews(min_workers=2))
    world.run()
    (slashed,) = world.seen(Slashed)
    assert (slashed.address, slashed.reason.cause) == (cheat.address, Cause.CONTRADICTION)
    assert liar.faults == 1
    assert not world.seen(DisputeEnded)
    worked = world.state.rounds[1]
    assert cheat.address in worked.commits
    assert not worked.was_included(mate.address)
    assert slashed.rewarded > 0
    assert world.gain(mate) >= slashed.rewarded  # it alone found it, and was paid for the first round


def test_who_denies_a_delivery_is_not_paired_again_with_who_has_others_and_loses_no_stake() -> None:
    cheat, mate = Worker("cheat", post=post(0)), Worker("mate", post=post(1))
    spare = [Worker("spare0", post=post(0), speed=50), Worker("spare1", post=post(1), speed=50)]
    cheat.denies = True
    world = world_of([cheat, mate, *spare, Verifier("v0")], with_crews(min_workers=2))
    world.run()
    assert not world.seen(Slashed)
    first, second = world.state.rounds[0], world.state.rounds[1]
    assert first.stuck[mate.address] == cheat.address
    assert world.state.parted.keys() == {
        tuple(sorted((cheat.address, each.address))) for each in (mate, spare[1])
    }
    assert mate.address in second.crews[spare[0].address]
    assert not first.was_included(mate.address)
    assert second.assignments[mate.address].steps >= first.assignments[mate.address].steps
    assert all(worked.was_included(mate.address) for worked in world.state.rounds[2:])


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_crew_whose_member_dies_goes_on_with_a_spare(shard: int) -> None:
    dead, mate = Worker("dead", post=post(shard)), Worker("mate", post=post(1 - shard))
    spare = Worker("spare", post=post(shard), speed=50)
    actors: list[Actor] = [dead, mate, spare, Worker("whole"), Verifier("v0")]
    world = world_of(actors, with_crews(min_workers=2), gone=[dead])
    world.crash_when(dead, lambda now: len(now.state.rounds) == 2, None)
    world.run()
    assert {each.address for each in world.seen(Slashed)} <= {dead.address}
    assert mate.address in world.state.rounds[1].stuck
    assert all(worked.was_included(mate.address) for worked in world.state.rounds[2:])
    assert world.state.rounds[-1].crews[mate.address] == world.state.rounds[-1].crews[spare.address]


@pytest.mark.parametrize("shard", range(SHARDS))
def test_who_takes_everything_and_never_commits_has_no_mate_again(shard: int) -> None:
    cheat, mate = Worker("cheat", Mute(Commit), post=post(shard)), Worker("mate", post=post(1 - shard))
    spare = Worker("spare", post=post(shard), speed=50)
    world = world_of(
        [cheat, mate, spare, Worker("whole"), Verifier("v0")], with_crews(min_workers=2, miss_limit=9)
    )
    world.run()
    first, *others = world.state.rounds
    assert mate.address in first.commits and not first.stuck
    assert world.state.parted.keys() == {tuple(sorted((cheat.address, mate.address)))}
    assert others and all(worked.was_included(mate.address) for worked in others)
    assert not world.seen(Slashed)
    attests = world.state.rounds[0].deadline - world.state.manifest.windows.attest
    assert 0 < attests - first.opened_at < world.state.manifest.windows.commit // 2


@pytest.mark.parametrize("name", sorted(name for name, play in PLAYS.items() if WORKER in play.roles))
def test_what_anyone_may_do_wrong_harms_nobody_else_in_a_crew(name: str) -> None:
    cheat, mate = Worker("cheat", *behaviours([name], 1), post=post(0)), Worker("mate", post=post(1))
    actors: list[Actor] = [cheat, mate, Worker("whole"), *(Verifier(f"v{i}") for i in range(3))]
    world = world_of(actors, with_crews(min_workers=2, min_verifiers=3, audit_rate=1_000_000))
    world.run()
    assert {each.address for each in world.seen(Slashed)} <= {cheat.address}
    if name not in ("vandal", "copy-work"):  # a forged attestation contradicts its own; a copy has no post
        assert bool(world.seen(Slashed)) == (PLAYS[name].ending is Ending.CONVICTED)
    assert world.gain(mate) > 0


@pytest.mark.parametrize("name", sorted(name for name, play in PLAYS.items() if VERIFIER in play.roles))
def test_no_verifier_harms_a_crew(name: str) -> None:
    cheat = Verifier("cheat", *behaviours([name], 0))
    actors: list[Actor] = [*crew("a"), Worker("whole"), cheat, *(Verifier(f"v{i}") for i in range(2))]
    world = world_of(actors, with_crews(min_workers=2, min_verifiers=3, audit_rate=1_000_000))
    world.run()
    assert {each.address for each in world.seen(Slashed)} <= {cheat.address}
    if name != "vandal":
        assert bool(world.seen(Slashed)) == (PLAYS[name].ending >= Ending.FINED)


def test_every_conviction_of_a_shard_stands_by_its_file_alone() -> None:
    kinds = set()
    for operator, roles in (
        ("gather", ("prologue",)),
        ("product", STEP),
        ("add", STEP),
        ("sum", ("epilogue",)),
    ):
        machine = Clumsy(operator, roles)
        cheat = Worker("cheat", post=post(0), conduct=clumsy(machine))
        actors: list[Actor] = [cheat, Worker("mate", post=post(1)), Worker("whole"), Verifier("v0")]
        world = world_of(actors, with_crews(min_workers=2, audit_rate=1_000_000))
        world.run()
        statements = [line.data for line in world.ledger.log[1:]]
        found = convictions(world.state, statements, world.ledger.effects, ToyLibrary().program)
        assert found
        for conviction in found.values():
            finding = verify(pack(conviction))
            assert finding.accused == cheat.address
            kinds.add((finding.place, finding.is_proven))
    assert kinds == {(Place.PROLOGUE, False), (Place.STEP, True), (Place.EPILOGUE, True)}
