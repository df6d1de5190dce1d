"""A crew's round in a simulation: all members on their own machines, by turns, and what each has of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.toy import DATA
from trainer.rounds.engine import Engine, Job
from trainer.rounds.training import Start
from trainer.shards.crew import CrewOutcome, Crews
from verification.crews import items_of, made_by, roots_of_shared, taken_by
from verification.manifest import Manifest
from verification.units import Digest


@dataclass(frozen=True)
class Share:
    """What one member has of a crew's round, by digest: its items, those that it took, and the roots over both."""

    made: tuple[Digest, ...]
    taken: tuple[Digest, ...]
    shared: tuple[Digest, ...]


@dataclass(frozen=True)
class Together:
    """A crew's round on its members' machines. `crews` computes any of it again, as it was."""

    crews: Crews
    outcome: CrewOutcome
    shares: tuple[Share, ...]


def compute_together(
    manifest: Manifest, number: int, job: Job, start: Start, engines: Sequence[Engine]
) -> Together:
    """Have the members of a crew of cut `number`, each on its engine, compute a round."""
    cut = manifest.cuts[number]
    crews = Crews(engines[0], manifest, DATA, dict(enumerate(engines)))
    outcome = crews.audit(job, start, number)
    known = dict(
        zip(items_of(cut, job.steps), (item for step in outcome.items for item in step), strict=True)
    )
    shares = []
    for shard in range(len(engines)):
        made, taken = (tuple(known[item] for item in of(cut, shard, job.steps)) for of in (made_by, taken_by))
        shares.append(Share(made, taken, roots_of_shared(cut, shard, job.steps, known)))
    return Together(crews, outcome, tuple(shares))
