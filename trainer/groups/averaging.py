"""The process in which hivemind averages for one member of a group: nothing else of ours may be in it.

It listens at an address, tells where, and then does the orders that come on standard input until that ends. Started as
`python -m trainer.groups.averaging ADDRESS [MULTIADDR ...]`, the multiaddrs being those of the group's leader.
"""

import os
import sys
from typing import Any

from trainer.loading import loading

with loading():
    import hivemind
    import numpy as np
    import torch

    from trainer.groups import limbs
    from trainer.groups.messages import Average, Averaged, Averaging, Part
    from trainer.groups.pipes import read, write
    from verification import codec
    from verification.errors import Malformed
    from verification.units import Count

SENDER_SECONDS, REDUCER_SECONDS = 10.0, 20.0
ALLREDUCE_SECONDS = 60.0
"""All three are needed: without the last a survivor may wait for a dead member for ever."""
MATCHMAKING_SECONDS = 120.0
"""How long a member may keep the others waiting."""


class Averagers:
    """One averager for each set of members and length of numbers."""

    def __init__(self, dht: Any) -> None:
        self._dht = dht
        self._averagers: dict[int, Any] = {}
        self._generation = -1

    def sum(self, order: Average) -> Averaged:
        """Return the sums of all members' numbers, unless what came is not that."""
        own = limbs.to_limbs(np.frombuffer(order.numbers, dtype="<i8"))
        averager = self._averager(order, len(own))
        weight = limbs.weight_of(int(order.place), int(order.members))
        with averager.get_tensors() as tensors:
            tensors[0][:] = torch.from_numpy(own / np.float32(weight))
        part = Part(order.exchange, order.place, Count(limbs.checksum(own)))
        gathered = averager.step(
            gather=codec.encode(part), weight=float(weight), timeout=MATCHMAKING_SECONDS, allow_retries=False
        )
        if gathered is None:
            return _failed("the members did not find each other")
        with averager.get_tensors() as tensors:
            sums = tensors[0].numpy() * np.float32(limbs.total_weight(int(order.members)))
        if not _agrees(order, list(gathered.values()), sums):
            return _failed("what came is not the sum of what the members gave")
        return Averaged(True, limbs.of_limbs(sums).astype("<i8").tobytes(), "")

    def _averager(self, order: Average, length: int) -> Any:
        if order.generation != self._generation:
            self.close()
            self._generation = int(order.generation)
        if length not in self._averagers:
            members = int(order.members)
            self._averagers[length] = hivemind.DecentralizedAverager(
                [torch.zeros(length)],
                self._dht,
                start=True,
                prefix=f"group-{order.generation}-{length}",
                target_group_size=members,
                min_group_size=members,
                allow_state_sharing=False,
                sender_timeout=SENDER_SECONDS,
                reducer_timeout=REDUCER_SECONDS,
                allreduce_timeout=ALLREDUCE_SECONDS,
            )
        return self._averagers[length]

    def close(self) -> None:
        """End all averagers."""
        for averager in self._averagers.values():
            averager.shutdown()
        self._averagers.clear()


def _failed(reason: str) -> Averaged:
    return Averaged(False, b"", reason)


def _agrees(order: Average, gathered: list[bytes], sums: Any) -> bool:
    """Return whether every member took part in this very exchange, and the checksums add up to the sums'."""
    try:
        parts = [codec.decode(Part, each) for each in gathered]
    except Malformed:
        return False
    if sorted(int(part.place) for part in parts) != list(range(int(order.members))):
        return False
    if any(part.exchange != order.exchange for part in parts):
        return False
    return sum(int(part.checksum) for part in parts) % limbs.MODULUS == limbs.checksum(sums)


def main() -> None:
    """Do orders until standard input ends; what a library prints goes to standard error."""
    address, *leader = sys.argv[1:]
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    dht = hivemind.DHT(
        initial_peers=leader or None,
        start=True,
        host_maddrs=[f"/ip4/{address}/tcp/0"],
        nat_port_map=False,
        auto_nat=False,
        use_relay=False,
    )
    write(sink, Averaging(tuple(map(str, dht.get_visible_maddrs()))))
    averagers = Averagers(dht)
    try:
        while (order := read(sys.stdin.buffer, Average)) is not None:
            try:
                write(sink, averagers.sum(order))
            except Exception as error:  # noqa: BLE001  # task's edge: hivemind raises what its tasks raised
                write(sink, _failed(f"{type(error).__name__}: {error}"))
    finally:
        averagers.close()
        dht.shutdown()


if __name__ == "__main__":
    main()
