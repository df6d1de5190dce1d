"""The engine of a worker whose machines hold the model in parts: for its digests, one machine's.

A working state lives at the stages, and this engine knows what it came of: the prologue's inputs and a number of inner
steps. Whatever is lost with a machine is made again from there. Outer steps, and executions of which every node is
told, are the leader's own: where they do not fit its memory, out of files.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from trainer.exact import Products
from trainer.groups.stages import Give, Gone, Stages
from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import Tap
from trainer.programs.options import RunOptions
from trainer.rounds.engine import Unread, read
from trainer.rounds.torch_engine import TorchEngine
from trainer.shards.cut import INNER
from trainer.shards.frugal import fitting
from trainer.shards.worker import EPILOGUE, OUTER, PROLOGUE, ROLES
from verification.errors import BadEvidence, Unavailable, Unsound
from verification.library import StepFailed
from verification.program import MAX_PROGRAM, Program, check_program, decode_program
from verification.tensors import Bundle, Tensor, bundle_digest
from verification.units import Digest

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Working:
    """A working state by what it came of: the prologue's inputs and how many inner steps; or drawn, of nothing."""

    begun: tuple[Any, ...]
    steps: int
    is_drawn: bool = False


@dataclass(frozen=True)
class Placed:
    """A tensor of a working state, which lives at whatever machine holds its place."""

    working: Working
    place: int


MakeStages = Callable[[Sequence[bytes], RunOptions, Products], Stages]
"""Makes the group from the encoded programs of a round."""
Execute = Callable[[int], object]
"""Has the stages execute a program, or where the number is not 0 what stands before that node."""


class StagedEngine(TorchEngine):
    """Executes the programs of a round with the machines of a group, each of which holds a shard."""

    def __init__(self, stages: MakeStages, programs: Mapping[Digest, bytes], options: RunOptions) -> None:
        """Raises as `TorchEngine`, and Malformed for what is no program."""
        super().__init__({}, options)
        self._programs = {digest: decode_program(each, MAX_PROGRAM) for digest, each in programs.items()}
        for program in self._programs.values():
            check_program(program)
        self._encoded, self._options, self._engines = dict(programs), options, dict[Digest, TorchEngine]()
        self._named = {program.role: digest for digest, program in self._programs.items()}
        encoded = [programs[self._named[role]] for role in ROLES]
        self._stages = stages(encoded, options, self.executor.products)
        self._held: Working | None = None

    def program(self, digest: Digest) -> Program:
        """Return a checked program, whatever memory it would take whole; raises BadEvidence for an unknown digest."""
        if digest not in self._programs:
            raise BadEvidence(f"unknown program {digest.hex()}")
        return self._programs[digest]

    def learn(self, program: Program, of: Digest, finite: Collection[int] | None = None) -> Digest:
        """Know a program made of another one's nodes, which the leader runs itself (`Engine.learn`)."""
        alone = self._alone(of)
        digest = alone.learn(program, of, finite)
        self._programs[digest], self._engines[digest] = program, alone
        return digest

    def load(self, bundle: Bundle) -> Any:
        """Return the bundle's tensors for torch."""
        return self._own.load(bundle)

    def again(self, digest: Digest, inputs: Sequence[Any]) -> list[Digest]:
        """Return the digests of a program's outputs, made in another way; raises as `TorchEngine`."""
        return self._alone(digest).again(digest, self._here(inputs))

    def compiled(self, digest: Digest) -> tuple[bool, str]:
        """Return that no program runs on loops as a whole."""
        return False, ""

    def hold(self, given: Tensor | Unread) -> Any:
        """Return what a program's machine is given when it runs."""
        return given

    def own(self, working: Iterable[Any], kept: Sequence[Any]) -> list[Any]:
        """Return a working state; tensors in it that no stage holds are put in their places, one after another."""
        made, drawn = list[Any](), False
        for place, each in enumerate(working):
            if isinstance(each, torch.Tensor):
                self._replace(place, each)
                drawn = True
            made.append(place if isinstance(each, torch.Tensor) else each)
        if not drawn:
            return made
        self._held = Working((), 0, is_drawn=True)
        return [Placed(self._held, place) for place in range(len(made))]

    def _replace(self, place: int, tensor: torch.Tensor) -> None:
        try:
            self._stages.replace(place, tensor)
        except Gone as error:
            raise Unavailable("a machine has left the group while it was tried: start again") from error

    def run(self, digest: Digest, inputs: Sequence[Sequence[Any]], tap: Tap | None = None) -> Any:
        """Execute a program on the concatenated inputs; None stands for zeros. Raises as `TorchEngine`."""
        flat, role = [each for part in inputs for each in part], self.program(digest).role
        if tap is None and role == PROLOGUE:
            begun = Working(tuple(flat), 0)
            self._surely(lambda: self._reach(begun), begun)
            return self._placed(begun)
        if tap is None and role == INNER and (before := _working_of(flat)):
            return self._advanced(before, is_checked=False)
        if tap is None and role == EPILOGUE and (working := _working_of(flat)):
            return self._ended(working, flat)
        return self._alone(digest).run(digest, [self._here(flat)], tap)

    def advance(self, digest: Digest, working: Sequence[Any], is_checked: bool) -> Any:
        """Execute an inner step with the group; what `is_checked` every machine makes in another way too.

        Raises StepFailed, Unsound. A step that fails is known at the latest when a digest is asked for.
        """
        before = _working_of(working)
        if before is None:
            return self._alone(digest).advance(digest, self._here(working), is_checked)
        return self._advanced(before, is_checked)

    def digest(self, handle: Sequence[Any]) -> Digest:
        """Return a bundle's digest; raises StepFailed where the steps to it turn out to fail."""
        return bundle_digest(self.digests(handle))

    def digests(self, handle: Sequence[Any]) -> list[Digest]:
        """Return the digest of each tensor; raises as `digest`."""
        working = _working_of(handle)
        if working is None:
            return super().digests(list(handle))
        found = self._surely(lambda: self._told(working), working)
        return [found[each.place] for each in handle]

    def dump(self, handle: Sequence[Any]) -> Any:
        """Return the bytes of tensors."""
        return self._own.dump(self._here(handle))

    def shown(self, handle: Sequence[Any]) -> Any:
        """Return tensors in this machine's memory."""
        return super().shown(self._here(handle))

    @property
    def _own(self) -> TorchEngine:
        """The engine that has the tensors which no stage holds."""
        return self._alone(self._named[OUTER])

    def _alone(self, digest: Digest) -> TorchEngine:
        """Return the engine by which the leader runs a program itself; raises Refused where a node does not fit."""
        self.program(digest)
        if digest not in self._engines:
            self._engines[digest] = fitting({digest: self._encoded[digest]}, self._options)
        return self._engines[digest]

    def _placed(self, working: Working) -> list[Placed]:
        inputs = self._stages.cut.pieces[INNER].program.inputs
        return [Placed(working, place) for place in range(len(inputs))]

    def _advanced(self, before: Working, is_checked: bool) -> list[Placed]:
        after = Working(before.begun, before.steps + 1, before.is_drawn)

        def step() -> None:
            self._reach(before)
            self._held = None
            if is_checked:
                self._stages.check()
            else:
                self._stages.step()
            self._held = after

        self._surely(step, after)
        members = self._stages.members
        self.group = members if len(members) > 1 else ()
        return self._placed(after)

    def _ended(self, working: Working, flat: Sequence[Any]) -> list[torch.Tensor]:
        def end() -> list[torch.Tensor]:
            self._reach(working)
            self._held = None
            return self._stages.end(_giving(flat))

        return self._surely(end, working, lambda before: self._stages.end(_giving(flat), before))

    def _told(self, working: Working) -> list[Digest]:
        self._reach(working)
        return self._stages.digests()

    def _here(self, handle: Sequence[Any]) -> list[Any]:
        """Return tensors in this machine's memory, None for zeros."""
        working = _working_of(handle)
        shown: list[torch.Tensor] = []
        if working is not None:

            def show() -> list[torch.Tensor]:
                self._reach(working)
                return self._stages.show()

            shown = self._surely(show, working)
        return [shown[each.place] if isinstance(each, Placed) else self._mine(each) for each in handle]

    def _mine(self, given: Any) -> torch.Tensor | None:
        return given if given is None or isinstance(given, torch.Tensor) else self._own.hold(given)

    def _reach(self, working: Working) -> None:
        """Have the stages hold a working state, by making it where they do not; raises StepFailed, Gone."""
        if self._held is working:
            return
        if working.is_drawn:
            raise Unavailable("a machine has left the group while it was tried: start again")
        self._held = None
        self._stages.gather()
        self._stages.begin(_giving(working.begun))
        for _ in range(working.steps):
            self._stages.step()
        self._held = working

    def _surely(self, action: Callable[[], R], working: Working, last: Execute | None = None) -> R:
        """Do something with the group that leads to a working state, and to what is executed `last`.

        It is done again as long as machines go. Raises StepFailed with the node at which the whole program fails.
        """
        try:
            return self._again(action)
        except StepFailed as failure:
            if working.is_drawn:  # which nobody can make again, and of which it is enough that it fails
                raise
            raise self._again(lambda: self._first(working, last)) from failure

    def _again(self, action: Callable[[], R]) -> R:
        while True:
            try:
                return action()
            except Gone:
                self._held = None
                self._stages.recover()
            except (StepFailed, Unavailable):
                self._held = None
                raise

    def _first(self, working: Working, last: Execute | None) -> StepFailed:
        """Return the failure of the first node that fails: of the first execution that does, by what stands before."""
        give, stages = _giving(working.begun), self._stages
        executions: list[Execute] = [lambda before: stages.begin(give, before)]
        executions += [stages.step] * working.steps + ([] if last is None else [last])
        place, failure = self._played(executions, 0)
        if failure is None:
            raise Unsound("a step that failed does not fail again")
        while True:
            _, earlier = self._played(executions[: place + 1], failure.node)
            if earlier is None:
                return failure
            failure = earlier

    def _played(self, executions: Sequence[Execute], before: int) -> tuple[int, StepFailed | None]:
        """Execute some programs, of the last one what stands before a node if that is not 0; return where one fails."""
        self._held = None
        self._stages.gather()
        for place, execute in enumerate(executions):
            try:
                execute(before if place == len(executions) - 1 else 0)
                self._stages.settle()
            except StepFailed as failure:
                return place, failure
        return len(executions) - 1, None


def _working_of(handle: Sequence[Any]) -> Working | None:
    """Return the working state of which there are tensors in a handle."""
    return next((each.working for each in handle if isinstance(each, Placed)), None)


def _giving(handle: Sequence[Any]) -> Give:
    """Return what gives each tensor of a handle that no stage holds."""
    return {
        place: (lambda each=each: _tensor(each))  # type: ignore[misc]
        for place, each in enumerate(handle)
        if each is not None and not isinstance(each, Placed)
    }


def _tensor(given: Any) -> torch.Tensor | None:
    return given if given is None or isinstance(given, torch.Tensor) else to_torch(read(given))
