"""One machine's shard of a run: its parts of the programs and of the working state, and what it does with them."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from trainer import exact
from trainer.programs.conversion import seen_by_law
from trainer.programs.interpreter import part_options
from trainer.programs.kernels import TORCH_DTYPES
from trainer.programs.options import Loops, RunOptions
from trainer.shards.cut import INNER, Cut
from trainer.shards.mail import Mail
from trainer.shards.run import ShardStep, Values, pieces_before
from trainer.shards.segments import Pieces
from trainer.shards.stage import Spent, Stage
from verification.errors import Unsound
from verification.tensors import tensor_digest
from verification.units import Count, Digest

PROLOGUE, EPILOGUE, OUTER = "prologue", "epilogue", "outer"
ROLES = (PROLOGUE, INNER, EPILOGUE)
"""The programs of a round, which shards execute together."""


def room_in(memory: int) -> int:
    """Return how many bytes of a machine's memory may be values on their way, in and out by each link."""
    return max(1, memory // 16)


def memory_left(memory: int) -> int:
    """Return how many bytes of a machine's memory are left for its shard."""
    return max(1, memory - 2 * room_in(memory))


class ShardWorker:
    """Executes one shard's part of a round's programs with the stages that hold the others.

    `working` are the shard's tensors of the working state, by their places in it. Executions are numbered alike by all.
    """

    def __init__(
        self, cut: Cut, shard: int, mail: Mail, options: RunOptions, products: exact.Products
    ) -> None:
        """Load the shard's parts; raises as `LoadedProgram`."""
        self._cut, self._shard, self._options, self._products = cut, shard, options, products
        self._stage = Stage(mail)
        self._runners = {role: self._runner(cut.pieces[role], products) for role in ROLES}
        self.working: dict[int, torch.Tensor] = {}

    @property
    def spent(self) -> Spent:
        """What the last execution took."""
        return self._stage.spent

    def begin(self, number: int, given: Values, before: int = 0) -> None:
        """Execute the prologue; of its inputs, what is not given is zeros. Raises as `Stage.execute`.

        Here and below only what stands `before` a node where that is not 0, which leaves no state.
        """
        self.working = {}
        self.working = self._executed(number, PROLOGUE, self._filled(PROLOGUE, given), before)

    def step(self, number: int, before: int = 0) -> None:
        """Execute an inner step; raises as `Stage.execute`."""
        inputs, self.working = self.working, {}
        self.working = self._executed(number, INNER, inputs, before)

    def check(self, number: int) -> None:
        """Execute an inner step in two ways, as `number` node by node with the trusted product, and as the next number.

        Raises Unsound where they differ, and as `Stage.execute`.
        """
        trusted = exact.Products(self._products.device, exact.TRUSTED)
        runner = self._runner(self._cut.pieces[INNER], trusted, replace(self._options, loops=Loops.NEVER))
        other = self._stage.execute(number, runner, self.working)
        expected = _digests(self._placed(INNER, other))
        del runner, other
        self.step(number + 1)
        if _digests(self.working) != expected:
            raise Unsound("computed in another way it has another digest")

    def replace(self, given: Values) -> None:
        """Put other tensors in their places in the working state."""
        self.working.update(given)

    def digests(self) -> dict[int, Digest]:
        """Return the digest of each tensor of the working state, by its place."""
        return _digests(self.working)

    def end(self, number: int, given: Values, before: int = 0) -> dict[int, torch.Tensor]:
        """Execute the epilogue on the start that is given and the working state, which it takes; return what it makes
        by its place among the outputs. Raises as `Stage.execute`."""
        program = self._cut.pieces[EPILOGUE].program
        first = len(program.inputs) - len(self._cut.pieces[INNER].program.inputs)
        inputs = dict(given) | {first + place: tensor for place, tensor in self.working.items()}
        self.working = {}
        return self._executed(number, EPILOGUE, self._filled(EPILOGUE, _taken(inputs)), before)

    def _executed(
        self, number: int, role: str, inputs: dict[int, torch.Tensor], before: int
    ) -> dict[int, torch.Tensor]:
        """Execute a program on inputs, which end where they are read; return the outputs by their places."""
        if before:
            runner = self._runner(pieces_before(self._cut.pieces[role], before), self._products)
            self._stage.execute(number, runner, _taken(inputs))
            return {}
        return self._placed(role, self._stage.execute(number, self._runners[role], _taken(inputs)))

    def _runner(
        self, pieces: Pieces, products: exact.Products, options: RunOptions | None = None
    ) -> ShardStep:
        own = part_options(self._cut.pieces[INNER].program, options or self._options)
        return ShardStep(pieces, self._shard, own, products, self._cut.lead)

    def _filled(self, role: str, given: Values) -> dict[int, torch.Tensor]:
        pieces = self._cut.pieces[role]
        ports = pieces.program.inputs
        return {
            n: given[n] if n in given else _zeros(ports[n].dtype, tuple(ports[n].shape))
            for n in pieces.inputs_of(self._shard)
        }

    def _placed(self, role: str, made: Values) -> dict[int, torch.Tensor]:
        """Return outputs by their places, of those that are the shard's."""
        layout, outputs = self._cut.pieces[role].layout, self._cut.pieces[role].program.outputs
        return {
            place: made[int(output.source)]
            for place, (output, home) in enumerate(zip(outputs, layout.homes, strict=True))
            if home == self._shard
        }


def _taken(values: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Return a mapping's values in another one, so that they end where that one does."""
    taken = dict(values)
    values.clear()
    return taken


def _digests(tensors: Mapping[int, torch.Tensor]) -> dict[int, Digest]:
    return {place: tensor_digest(seen_by_law(tensor)) for place, tensor in tensors.items()}


def _zeros(dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros((), dtype=TORCH_DTYPES[dtype]).expand(tuple(map(Count, shape)))
