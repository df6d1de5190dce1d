"""A machine that holds a shard until it is killed at its Nth step.

Started as `python -m tests.integration.stage_member TICKET N MEMORY`.
"""

import os
import secrets
import signal
import sys

from trainer.groups.member import reached
from trainer.groups.messages import Deed, Welcome
from trainer.groups.stage_member import StageMember, Task
from trainer.groups.ticket import GroupTicket
from trainer.programs.options import RunOptions
from verification.units import Count


class Dying(StageMember):
    """Ends as a machine does whose plug is pulled."""

    left = 0

    def _answer(self, task: Task) -> None:
        self.left -= task.order.deed is Deed.STEP
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._answer(task)


def main() -> None:
    """Hold a shard until then, in as much memory as is said."""
    text, left, memory = sys.argv[1:]
    ticket = GroupTicket.parse(text)
    channel = reached(ticket.address, int(ticket.port), ticket.secret, secrets.token_bytes)
    options = RunOptions(memory=Count(int(memory)))
    member = Dying(channel, channel.receive(Welcome), ticket.secret, secrets.token_bytes, options)
    member.left = int(left)
    member.serve()


if __name__ == "__main__":
    main()
