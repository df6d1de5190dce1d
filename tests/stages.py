"""Stages of one model in threads of this process, whose letters go from memory to memory."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random

import torch

from tests.shards import digest, whole
from trainer.programs.devices import products_for
from trainer.programs.interpreter import part_options
from trainer.programs.options import NODE_BY_NODE
from trainer.shards.cut import Machine, cut_for
from trainer.shards.mail import Mail
from trainer.shards.run import Crossing, ShardStep, Values
from trainer.shards.segments import Pieces, Segment
from trainer.shards.stage import Execution, Stage
from verification.errors import Unavailable
from verification.units import Digest

MUCH = 1 << 40
ROOM = 1 << 14


def inner_of(name: str, stages: int) -> Pieces:
    """A model's inner step over equal machines."""
    return cut_for(tuple(whole(name).programs.values()), [Machine(MUCH, 1)] * stages).pieces["inner"]


def runners_of(pieces: Pieces, lead: int = 1) -> list[ShardStep]:
    """Each shard's part, ready to run."""
    options, products = part_options(pieces.program, NODE_BY_NODE), products_for(NODE_BY_NODE)
    return [ShardStep(pieces, shard, options, products, lead) for shard in pieces.layout.shards]


def divided(pieces: Pieces, inputs: Sequence[torch.Tensor]) -> list[Values]:
    """Each shard's own inputs."""
    return [{n: inputs[n] for n in pieces.inputs_of(shard)} for shard in pieces.layout.shards]


def joined(pieces: Pieces, made: Sequence[Values]) -> list[torch.Tensor]:
    """The whole program's outputs in their order."""
    pairs = zip(pieces.program.outputs, pieces.layout.homes, strict=True)
    return [made[home][int(output.source)] for output, home in pairs]


@dataclass
class Threads:
    """Stages that run at once, and threads between each two of them."""

    pieces: Pieces
    room: int = ROOM
    lead: int = 1
    mails: list[Mail] = field(init=False)

    def __post_init__(self) -> None:
        shards = self.pieces.layout.shards
        self.mails = [Mail(set(shards) - {shard}, self.room) for shard in shards]

    def trained(self, inputs: Sequence[torch.Tensor], steps: int) -> list[Digest]:
        """The digests after each of some steps; every stage goes on as soon as it can."""
        shards, runners = self.pieces.layout.shards, runners_of(self.pieces, self.lead)
        own = divided(self.pieces, inputs)
        with ThreadPoolExecutor(len(shards) ** 2) as pool:
            for giver in shards:
                for taker in set(shards) - {giver}:
                    pool.submit(self.mails[giver].deliver, taker, self.mails[taker].arrive)
            running = [pool.submit(self._stage, runners[n], own[n], self.mails[n], steps) for n in shards]
            made = [each.result() for each in running]
            for mail in self.mails:
                mail.close(Unavailable("the test is over"))
        return [digest(joined(self.pieces, [each[step] for each in made])) for step in range(steps)]

    def _stage(self, runner: ShardStep, inputs: Values, mail: Mail, steps: int) -> list[Values]:
        stage, made = Stage(mail), list[Values]()
        for number in range(steps):
            outputs = stage.execute(number, runner, inputs)
            made.append(outputs)
            inputs = as_inputs(self.pieces, outputs)
        return made


def as_inputs(pieces: Pieces, outputs: Values) -> Values:
    """What a stage's outputs are to its next step."""
    sources = [int(output.source) for output in pieces.program.outputs]
    return {n: outputs[source] for n, source in enumerate(sources) if source in outputs}


def shuffled(pieces: Pieces, inputs: Sequence[torch.Tensor], steps: int, random: Random) -> list[Digest]:
    """The digests of some steps in which what is on its way arrives in an order that is drawn, and who can goes on."""
    runners, own, found = runners_of(pieces), divided(pieces, inputs), list[Digest]()
    for _ in range(steps):
        executions = [Execution(*each) for each in zip(runners, own, strict=True)]
        way = [crossing for each in executions for crossing in each.begun]
        while True:
            ready = [each for each in executions if not each.is_over and not each.lacking()]
            if not ready and not way:
                break
            chosen = random.randrange(len(ready) + len(way))
            if chosen < len(ready):
                way += ready[chosen].go_on()
            else:
                _arrived(executions, way.pop(chosen - len(ready)))
        made = [each.outputs() for each in executions]
        found.append(digest(joined(pieces, made)))
        own = [as_inputs(pieces, each) for each in made]
    return found


def _arrived(executions: Sequence[Execution[Segment]], crossing: Crossing) -> None:
    executions[crossing.taker].take(crossing.number, crossing.tensor)
