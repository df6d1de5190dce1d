"""A group whose machines hold a model in parts, as its leader sees it: who holds what, and what all are to do.

The leader holds the first shard. Orders are numbered, as the executions that they begin are; every member does them one
after another and answers each. A member may still be at a step when the leader is done with its own part of it.
"""

import contextlib
import queue
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from trainer.exact import Products
from trainer.groups import wire
from trainer.groups.holders import NO_TIME, Answer, Heard, Holder
from trainer.groups.links import Door, Links
from trainer.groups.messages import SHARDS, Able, Deed, Hold, Trouble, Welcome
from trainer.groups.wire import Channel
from trainer.programs.options import RunOptions
from trainer.rounds.machine import GroupMember, HeldShard
from trainer.shards.cut import INNER, Cut, Machine, cut_for
from trainer.shards.describe import Shard, described
from trainer.shards.mail import Abandoned, Mail
from trainer.shards.speed import speed_of
from trainer.shards.stage import Spent
from trainer.shards.worker import EPILOGUE, PROLOGUE, ROLES, ShardWorker, memory_left, room_in
from verification.errors import Unavailable, Unsound, UserError, Violation
from verification.layout import PROLOGUE as GATHERED
from verification.layout import Home
from verification.library import StepFailed
from verification.program import Program, decode_program
from verification.units import Count, Digest

LOADING_SECONDS = 600.0
"""How long a newcomer may take to load the programs and to measure itself."""
LEADS = (2, 1)
"""Parts of a batch that a shard begins more than the next one, the first for which there is memory: with 2 what is on
its way keeps nobody waiting (`proofswarm bench shards`)."""
Tell = Callable[[str], None]
Give = Mapping[int, Callable[[], torch.Tensor]]
"""What gives an input of a program, by its place; zeros have nothing that does."""
TRIES = 3
"""How often machines try to reach each other before people are told."""


class Gone(Exception):
    """A member, or a connection between two, is gone; the working state with it."""


class Stages:
    """A group of `size` machines, the leader's own included, that come to a listening socket."""

    def __init__(
        self,
        listener: socket.socket,
        secret: bytes,
        size: int,
        draw: wire.Draw,
        tell: Tell,
        programs: Sequence[bytes],
        options: RunOptions,
        products: Products,
    ) -> None:
        """Let machines come, which get the `programs` of a round; `tell` hears lines for people."""
        self._listener, self._secret, self._size = listener, secret, size
        self._draw, self._tell, self._options, self._products = draw, tell, options, products
        self._welcome = Welcome(tuple(programs), SHARDS, "")
        self._programs = [decode_program(each) for each in programs]
        assert options.memory is not None
        self._memory = int(options.memory)
        self._own = Machine(memory_left(self._memory), speed_of(options, products))
        self._door = Door(
            socket.create_server((listener.getsockname()[0], 0)), secret, draw
        )  # where nobody comes: the leader's shard is the first
        self._arrivals: queue.SimpleQueue[Holder] = queue.SimpleQueue()
        self._holders: list[Holder] = []
        self._heard: Heard = queue.SimpleQueue()
        self._is_complete = False
        self._number = self._generation = self._tries = 0
        self._cut: Cut | None = None
        self._records = _records_of(self._programs[ROLES.index(PROLOGUE)])
        self._shards: list[Shard] = []
        self._mail, self._links = Mail((), 1), Links(Mail((), 1), {})
        self._worker: ShardWorker | None = None
        wire.let_in(listener, self._greet)

    @property
    def cut(self) -> Cut:
        """Who holds what now."""
        assert self._cut is not None
        return self._cut

    @property
    def members(self) -> tuple[GroupMember, ...]:
        """Those who hold the model, the leader first, with what each computed in the last execution that it told of."""
        own = NO_TIME if self._worker is None else self._worker.spent
        spent = [own, *(holder.spent for holder in self._holders)]
        return tuple(
            GroupMember(self._records, Count(took.computed), _held(shard, took))
            for shard, took in zip(self._shards, spent, strict=True)
        )

    def gather(self) -> None:
        """Have those who are there hold the model; wait where they cannot. The working state is lost where that is new.

        Raises UserError where all of the group cannot, and Gone where one goes meanwhile.
        """
        missing = self._size - 1 - len(self._holders)
        if not self._is_complete and missing:
            self._tell(f"the group waits for {missing} more: proofswarm group --ticket TICKET on each")
        while not self._is_complete and len(self._holders) < self._size - 1:
            self._admit(self._arrivals.get())
        with contextlib.suppress(queue.Empty):
            while len(self._holders) < self._size - 1:
                self._admit(self._arrivals.get_nowait())
        if self._cut is None:
            self._divide()
        self._is_complete = True

    def begin(self, give: Give, before: int = 0) -> None:
        """Make a working state by the prologue, or what stands `before` a node of it; raises StepFailed, Gone."""
        number = self._tell_all(Deed.BEGIN, before, PROLOGUE, give)
        own = self._given(PROLOGUE, give)
        self._do(number, lambda worker: worker.begin(number, own, before))
        self._settle(number)

    def step(self, before: int = 0) -> None:
        """Make an inner step, the leader's part to its end; raises StepFailed, Unsound, Gone, of earlier ones too."""
        self._raise_for(self._number, is_patient=False)
        number = self._tell_all(Deed.STEP, before=before)
        self._do(number, lambda worker: worker.step(number, before))

    def check(self) -> None:
        """Make an inner step in two ways; raises as `step`, and Unsound where they differ at some stage."""
        number = self._tell_all(Deed.CHECK)
        self._do(number, lambda worker: worker.check(number))
        self._settle(number)

    def settle(self) -> None:
        """Wait until all are done with what was ordered; raises as `step`."""
        self._settle(self._number)

    def replace(self, place: int, tensor: torch.Tensor) -> None:
        """Put another tensor in a place of the working state; raises as `step`."""
        number, shard = self._next(), self.cut.pieces[INNER].layout.owners[place]
        if shard:
            self._holders[shard - 1].order(number, Deed.REPLACE, given={place: lambda: tensor})
        else:
            self._do(number, lambda worker: worker.replace({place: tensor}))

    def digests(self) -> list[Digest]:
        """Return the digest of each tensor of the working state; raises as `step`."""
        number = self._tell_all(Deed.TELL)
        found: dict[int, Digest] = {}
        self._do(number, lambda worker: found.update(worker.digests()))
        for answer in self._settle(number):
            found.update((int(place), digest) for place, digest in answer.done.digests)
        return [found[place] for place in range(len(found))]

    def show(self) -> list[torch.Tensor]:
        """Return the tensors of the working state; raises as `step`."""
        number = self._tell_all(Deed.SHOW)
        found: dict[int, torch.Tensor] = {}
        self._do(number, lambda worker: found.update(worker.working))
        return self._joined(found, self._settle(number))

    def end(self, give: Give, before: int = 0) -> list[torch.Tensor]:
        """Return what the epilogue makes of a start and the working state, which is lost; or nothing, and only what
        stands `before` a node is made. Raises as `step`."""
        number = self._tell_all(Deed.END, before, EPILOGUE, give)
        own, found = self._given(EPILOGUE, give), dict[int, torch.Tensor]()
        self._do(number, lambda worker: found.update(worker.end(number, own, before)))
        return self._joined(found, self._settle(number))

    def recover(self) -> None:
        """Find out who is left after something went wrong, and forget who holds what."""
        self._abandon()
        for holder in [holder for holder in self._holders if holder.is_gone]:
            holder.close()
            self._holders.remove(holder)
            self._tell(f"a machine has left the group, which has {1 + len(self._holders)} of {self._size}")
        self._cut = None

    def close(self) -> None:
        """Let everybody go."""
        self._links.close()
        self._door.close()
        self._listener.close()
        for holder in self._holders:
            holder.close()

    def _divide(self) -> None:
        """Cut the model over those who are there, and have each hold its shard; raises UserError, Gone."""
        self._tries += 1
        if self._tries > TRIES:
            raise UserError("the group's machines do not reach each other: let them connect at any port")
        while True:
            machines = [self._own, *(holder.machine for holder in self._holders)]
            try:
                cut = _cut_over(self._programs, machines)
                break
            except UserError as error:
                if not self._is_complete:
                    raise
                self._tell(f"{error}; the group waits for a machine: proofswarm group --ticket TICKET on it")
                self._admit(self._arrivals.get())
        self._links.close()
        self._generation += 1
        places = (
            ("", Count(0)),
            *((address, Count(port)) for address, port in (s.place for s in self._holders)),
        )
        number, ends = self._next(), tuple(Count(end) for end in cut.ends)
        for shard, holder in enumerate(self._holders, 1):
            hold = Hold(Count(self._generation), Count(shard), Count(cut.lead), ends, places)
            holder.order(number, Deed.HOLD, hold=hold)
        reached = {n: (address, int(port)) for n, (address, port) in enumerate(places)}
        others = neighbours_of(cut, 0)
        self._mail = Mail(others, room_in(self._memory))
        self._worker = ShardWorker(cut, 0, self._mail, self._options, self._products)
        try:
            self._links = Links(self._mail, self._door.meet(self._generation, 0, reached, others))
        except Unavailable as error:
            raise Gone from error
        self._settle(number)
        self._cut, self._tries = cut, 0
        self._shards = described(cut)
        parts = (f"{each.share:.0%} in {each.memory / 1e6:.0f} MB" for each in self._shards)
        self._tell(f"{len(self._shards)} machines hold the model, of each step {', '.join(parts)}")

    def _admit(self, holder: Holder) -> None:
        self._holders.append(holder)
        self._cut = None
        self._tell(f"the group has {1 + len(self._holders)} of {self._size} machines")

    def _greet(self, connection: socket.socket) -> None:
        """Give the programs to one that proves to be a member, and take it in when it says what it can do."""
        try:
            channel: Channel = wire.as_leader(wire.at_once(connection), self._secret, self._draw)
            channel.send(self._welcome)
            able = channel.receive(Able, LOADING_SECONDS)
            holder = Holder(channel, able, self._heard, self._wake)
        except (Unavailable, Violation, UserError) as error:
            connection.close()
            self._tell(f"a machine did not become a member of the group: {error}")
        else:
            self._arrivals.put(holder)
            self._tell("a machine has come to the group")

    def _next(self) -> int:
        """Return the number of a new order; that after it is a checked step's second execution."""
        self._number += 2
        return self._number

    def _tell_all(self, deed: Deed, before: int = 0, role: str = "", give: Give | None = None) -> int:
        """Order all members to do something, with what a program of a `role` reads of theirs; return its number."""
        number = self._next()
        for shard, holder in enumerate(self._holders, 1):
            given = {} if give is None else self._needed(role, shard, give)
            holder.order(number, deed, before, given=given)
        return number

    def _needed(self, role: str, shard: int, give: Give) -> Give:
        """Return what gives those of a program's inputs that a shard owns and that are read."""
        pieces = self.cut.pieces[role]
        reads = {number for segment in pieces.of(shard) for number in segment.reads}
        reads.update(pieces.outputs_at(shard))
        reads.update(number for number, giver, _ in pieces.crossings() if giver == shard)
        return {n: give[n] for n in pieces.inputs_of(shard) if n in reads and n in give}

    def _given(self, role: str, give: Give) -> dict[int, torch.Tensor]:
        """Return what the leader's own shard is given."""
        return {place: each() for place, each in self._needed(role, 0, give).items()}

    def _do(self, number: int, own: Callable[[ShardWorker], object]) -> None:
        """Do the leader's own part of an order; raises as `step`."""
        assert self._worker is not None
        try:
            own(self._worker)
        except StepFailed:
            self._abandon()
            raise
        except Unsound:
            self._abandon()
            raise
        except Abandoned:
            self._raise_for(number, is_patient=True)
            raise Gone from None
        except Unavailable as error:
            raise Gone from error

    def _settle(self, number: int) -> list[Answer]:
        """Return all members' answers to an order, once they are there; raises as `step`."""
        return self._raise_for(number, is_patient=True)

    def _raise_for(self, number: int, is_patient: bool) -> list[Answer]:
        """Hear what members say until all have answered an order; return those answers.

        Raises the first trouble, which ends what the others are doing: they may wait for the one that has it. Only what
        has been said already is heard where it is not patient.
        """
        found = []
        for answer in self._answers(number, is_patient):
            match answer.done.trouble:
                case Trouble.FAILED:
                    self._abandon()
                    raise StepFailed(int(answer.done.node), "a member's part of it fails")
                case Trouble.UNSOUND:
                    self._abandon()
                    raise Unsound("computed in another way it has another digest at a member of the group")
                case Trouble.GONE | Trouble.ABANDONED:
                    raise Gone
            if answer.done.number == number:
                found.append(answer)
        if any(holder.is_gone for holder in self._holders):
            raise Gone
        return found

    def _answers(self, number: int, is_patient: bool) -> Iterator[Answer]:
        """Yield what members say, until each that is not gone has answered an order."""
        while any(holder.answered < number and not holder.is_gone for holder in self._holders):
            try:
                holder, answer = self._heard.get(is_patient)
            except queue.Empty:
                return
            if holder in self._holders:
                if answer is None:
                    holder.is_gone = True
                    return
                holder.answered = int(answer.done.number)
                spent = Spent(*map(int, answer.done.spent))
                holder.spent = spent if spent.computed else holder.spent
                yield answer

    def _abandon(self) -> None:
        """End what all are doing, and wait until they have."""
        self._mail.abandon(self._number + 1)
        number = self._next()
        for holder in self._holders:
            holder.order(number, Deed.ABANDON)
        while any(holder.answered < number and not holder.is_gone for holder in self._holders):
            for _ in self._answers(number, is_patient=True):
                pass
        self._mail.abandon(number + 1)

    def _wake(self) -> None:
        """Have the leader's own part end, where it waits for one that will not come."""
        self._mail.abandon(self._number + 1)

    def _joined(self, own: Mapping[int, torch.Tensor], answers: Sequence[Answer]) -> list[torch.Tensor]:
        found = dict(own)
        for answer in answers:
            found.update(answer.given)
        return [found[place] for place in range(len(found))]


def _cut_over(programs: Sequence[Program], machines: Sequence[Machine]) -> Cut:
    """Return the cut with the first lead for which there is memory; raises UserError where there is for none."""
    for lead in LEADS[:-1]:
        with contextlib.suppress(UserError):
            return cut_for(programs, machines, lead)
    return cut_for(programs, machines, LEADS[-1])


def neighbours_of(cut: Cut, shard: int) -> set[int]:
    """Return the shards with which a shard exchanges values in any program of a round."""
    pairs = ({giver, taker} for pieces in cut.pieces.values() for _, giver, taker in pieces.crossings())
    return {other for pair in pairs if shard in pair for other in pair} - {shard}


def _held(shard: Shard, took: Spent) -> HeldShard:
    first, last = (shard.parameters[0], shard.parameters[-1]) if shard.parameters else ("", "")
    exchanged = Count(took.waited), Count(took.sent), Count(took.received)
    return HeldShard(Count(shard.elements), first, last, *exchanged)


def _records_of(prologue: Program) -> Count:
    """Return how many records an inner step reads."""
    index = prologue.inputs[len(prologue.inputs) - len(GATHERED) + GATHERED.index(Home.INDEX)]
    return index.shape[1]
