"""The side of a machine that holds a shard for a leader: it holds nothing of the run but what its leader gives it."""

import socket
import threading
from dataclasses import dataclass
from queue import SimpleQueue

import torch

from trainer.groups import wire
from trainer.groups.holders import Tensors
from trainer.groups.links import Door, Links, receive_value, send_value
from trainer.groups.messages import Able, Deed, Hold, StageDone, StageOrder, Trouble, Welcome
from trainer.groups.stages import neighbours_of
from trainer.groups.wire import Channel
from trainer.programs.devices import products_for
from trainer.programs.options import RunOptions
from trainer.shards.cut import cut_at
from trainer.shards.mail import Abandoned, Letter, Mail
from trainer.shards.speed import speed_of
from trainer.shards.stage import Spent
from trainer.shards.worker import ShardWorker, memory_left, room_in
from verification.errors import Unavailable, Unsound, Violation
from verification.library import StepFailed
from verification.program import MAX_PROGRAM, decode_program
from verification.units import Count, Digest

NOTHING = Spent(0, 0, 0, 0)


@dataclass(frozen=True)
class Task:
    """An order, with what came after it."""

    order: StageOrder
    hold: Hold | None
    given: dict[int, torch.Tensor]


class StageMember:
    """A machine that holds a shard of a leader's model."""

    def __init__(
        self, channel: Channel, welcome: Welcome, secret: bytes, draw: wire.Draw, options: RunOptions
    ) -> None:
        """Take the programs that the leader gave, and tell it what this machine can do within the options' memory."""
        assert options.memory is not None
        self._channel, self._options, self._memory = channel, options, int(options.memory)
        self._programs = [decode_program(each, MAX_PROGRAM) for each in welcome.programs]
        self._products = products_for(options)
        self._door = Door(socket.create_server((channel.own_address, 0)), secret, draw)
        speed = speed_of(options, self._products)
        channel.send(Able(Count(memory_left(self._memory)), Count(speed), Count(self._door.port)))
        channel.lasting()
        self._tasks: SimpleQueue[Task | Unavailable] = SimpleQueue()
        self._mail, self._links = Mail((), 1), Links(Mail((), 1), {})
        self._worker: ShardWorker | None = None
        self.steps = 0
        """How many orders it has done."""
        threading.Thread(target=self._listen, daemon=True).start()

    def serve(self) -> None:
        """Do what the leader says until it goes, which raises Unavailable."""
        try:
            while not isinstance(task := self._tasks.get(), Unavailable):
                self._answer(task)
                self.steps += 1
            raise task
        finally:
            self._links.close()
            self._door.close()

    def _listen(self) -> None:
        """Take in orders, and end at once what is to be abandoned."""
        try:
            while True:
                order = self._channel.receive(StageOrder)
                hold = self._channel.receive(Hold) if order.deed is Deed.HOLD else None
                values = [receive_value(self._channel) for _ in order.given]
                if order.deed is Deed.ABANDON:
                    self._mail.abandon(int(order.number))
                self._tasks.put(Task(order, hold, {value.number: value.tensor for value in values}))
        except (Unavailable, Violation) as error:
            reason = error if isinstance(error, Unavailable) else Unavailable(f"the leader says: {error}")
            self._mail.close(reason)
            self._tasks.put(reason)

    def _answer(self, task: Task) -> None:
        """Do an order and say what came of it; raises Unavailable where nobody hears it."""
        trouble, node = Trouble.NONE, 0
        digests: dict[int, Digest] = {}
        given: Tensors = {}
        try:
            digests, given = self._done(task)
        except StepFailed as failure:
            trouble, node = Trouble.FAILED, failure.node
        except Abandoned:
            trouble = Trouble.ABANDONED
        except Unsound:
            trouble = Trouble.UNSOUND
        except Unavailable:
            trouble = Trouble.GONE
        spent = NOTHING if self._worker is None else self._worker.spent
        self._channel.send(
            StageDone(
                task.order.number,
                trouble,
                Count(node),
                (Count(spent.computed), Count(spent.waited), Count(spent.sent), Count(spent.received)),
                tuple((Count(place), digest) for place, digest in digests.items()),
                tuple(Count(place) for place in given),
            )
        )
        for place, tensor in given.items():
            send_value(self._channel, Letter(int(task.order.number), place, tensor))

    def _done(self, task: Task) -> tuple[dict[int, Digest], Tensors]:
        """Do an order; return the digests and the tensors that it asks for."""
        number, before, given = int(task.order.number), int(task.order.before), task.given
        if task.hold is not None:
            self._hold(task.hold)
            return {}, {}
        worker = self._worker
        assert worker is not None
        match task.order.deed:
            case Deed.BEGIN:
                worker.begin(number, given, before)
            case Deed.STEP:
                worker.step(number, before)
            case Deed.CHECK:
                worker.check(number)
            case Deed.REPLACE:
                worker.replace(given)
            case Deed.TELL:
                return worker.digests(), {}
            case Deed.SHOW:
                return {}, dict(worker.working)
            case Deed.END:
                return {}, worker.end(number, given, before)
        return {}, {}

    def _hold(self, hold: Hold) -> None:
        """Load a shard in the place of the one before, and meet the stages around it; raises Unavailable."""
        self._links.close()
        self._worker = None
        shard = int(hold.shard)
        is_ring = len(hold.ends) == len(hold.places)
        ends, lead = [int(end) for end in hold.ends], int(hold.lead)
        cut = cut_at(self._programs, ends, lead=lead, is_ring=is_ring)
        others = neighbours_of(cut, shard)
        self._mail = Mail(others, room_in(self._memory))
        self._worker = ShardWorker(cut, shard, self._mail, self._options, self._products)
        places = {n: (address, int(port)) for n, (address, port) in enumerate(hold.places)}
        self._links = Links(self._mail, self._door.meet(int(hold.generation), shard, places, others))
