"""A member of a worker group that does not do what it should: `lies` from its third exchange on, or `dies` in that one.

Started as `python -m tests.integration.group_member lies|dies TICKET`.
"""

import os
import secrets
import signal
import sys

import torch

from trainer.groups.member import Member, reached
from trainer.groups.messages import Welcome
from trainer.groups.step import Exchange
from trainer.groups.ticket import GroupTicket
from trainer.programs.options import NODE_BY_NODE
from verification.errors import Unavailable

EXCHANGES = 3


class Wrong:
    """What stands between the member and the others."""

    def __init__(self, dies: bool) -> None:
        self._dies, self._exchange, self._sums = dies, None, 0
        self._exchange: Exchange | None

    def between(self, exchange: Exchange) -> Exchange:
        """Stand between."""
        self._exchange = exchange
        return self

    def greatest(self, numbers: torch.Tensor) -> torch.Tensor:
        """Exchange the truth."""
        assert self._exchange is not None
        return self._exchange.greatest(numbers)

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Exchange a lie, or leave while the others wait."""
        assert self._exchange is not None
        self._sums += 1
        if self._sums < EXCHANGES:
            return self._exchange.sum(numbers)
        if self._dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._exchange.sum(2 * numbers)


def main() -> None:
    """Take part until the leader goes."""
    manner, text = sys.argv[1:]
    ticket, wrong = GroupTicket.parse(text), Wrong(manner == "dies")
    channel = reached(ticket.address, int(ticket.port), ticket.secret, secrets.token_bytes)
    try:
        Member(channel, channel.receive(Welcome), ticket.address, NODE_BY_NODE, wrong.between).serve()
    except Unavailable as error:
        sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main()
