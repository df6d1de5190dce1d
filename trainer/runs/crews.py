"""How a run is divided for crews: each number of members that the job names gets shards of about equal work."""

from collections.abc import Callable, Sequence

from p2p.bundles import StoredTensor
from trainer.programs.options import peer_options
from trainer.programs.tracing.capture import TracedRun
from trainer.rounds.engine import Job
from trainer.rounds.torch_engine import TorchEngine
from trainer.shards.conventions import require_sound_parts
from trainer.shards.crew import Crews
from trainer.shards.cut import Machine, cut_for
from trainer.shards.parts import parts_of
from trainer.shards.programs import Part, Parts
from verification.digest import ZERO
from verification.errors import UserError
from verification.manifest import Cut, Manifest, Place, ProgramRef, Shard, WorkUnits
from verification.program import Program, encode_program, program_digest, work_units
from verification.sizes import PlacedPrograms
from verification.tensors import Bundle
from verification.units import Address, Count, Round

ANY = Machine(1 << 62, 1)
"""A member whose memory nobody knows."""
Tell = Callable[[str], None]
Publish = Callable[[Program], ProgramRef]


def divided_among(traced: TracedRun, members: int, tell: Tell) -> Parts:
    """Return a run's programs for a crew of so many members; tell how much work its largest shard is.

    Raises UserError for more members than the model has places to be cut at.
    """
    programs = (traced.prologue, traced.inner, traced.epilogue, traced.outer)
    parts = parts_of(traced, cut_for(programs, [ANY] * members))
    require_sound_parts(parts)
    whole, work = work_units(traced.inner), [work_units(part.inner) for part in parts.shards]
    tell(
        f"a crew of {members}: a member does {min(work) / whole:.0%} to {max(work) / whole:.0%} of a step, "
        f"all together {sum(work) / whole:.1%}; {len(parts.crossings)} tensors cross"
    )
    return parts


def cut_of(parts: Parts, publish: Publish) -> Cut:
    """Return parts as a manifest names them, once their programs are published."""
    return Cut(tuple(_shard(part, publish) for part in parts.shards), parts.crossings)


def placed_in(divided: Sequence[Parts]) -> list[PlacedPrograms]:
    """Return the programs of every post of a run, in order."""
    parts = [part for parts in divided for part in parts.shards]
    return [dict(zip(Place, _programs(part), strict=False)) for part in parts]


def try_crews(
    manifest: Manifest, divided: Sequence[Parts], data: Bundle, start: Sequence[StoredTensor], tell: Tell
) -> None:
    """Try a step of each of a run's crews, all members in this process; raises UserError where one fails.

    A whole program may go through infinities within, but none may cross.
    """
    for number, parts in enumerate(divided):
        tell(f"trying a step of a crew of {len(parts.shards)}")
        programs = [encode_program(each) for part in parts.shards for each in _programs(part)]
        engine = TorchEngine({program_digest(each): each for each in programs}, peer_options())
        job = Job(Round(0), Address(bytes(20)), ZERO, 1)
        if Crews(engine, manifest, data).audit(job, start, number).failed is not None:
            raise UserError(
                f"swarm.crews: the first step of a crew of {len(parts.shards)} fails, a whole worker's does not: "
                "take another number of members"
            )


def _shard(part: Part, publish: Publish) -> Shard:
    prologue, inner, epilogue = _programs(part)
    units = WorkUnits(*(Count(work_units(program)) for program in (prologue, inner, epilogue)))
    return Shard(publish(prologue), publish(inner), publish(epilogue), units, part.parameters)


def _programs(part: Part) -> tuple[Program, Program, Program]:
    return part.prologue, part.inner, part.epilogue
