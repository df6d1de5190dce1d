"""PyTorch's DistributedDataParallel over gloo: gradients are averaged at every step, while they are still computed.

Where a step's time is stated, all of it may hide messages, though of a real step only the backward pass does: that is
in its favour.
"""

import os
from datetime import timedelta

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.opponents.task import INTERFACE, PORT, Local, play

TIMEOUT = timedelta(hours=1)
"""No link is so slow that this one ends a step."""


def train(local: Local) -> None:
    """Train as one rank."""
    task = local.task
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    dist.init_process_group(
        "gloo", init_method=f"tcp://{task.addresses[0]}:{PORT}", rank=local.rank, world_size=task.peers,
        timeout=TIMEOUT,
    )  # fmt: skip
    model = DistributedDataParallel(local.model)
    optimizer = local.optimizer()
    schedule = local.schedule(optimizer)
    local.begin()
    for _ in range(task.steps):
        with local.step() as made:
            optimizer.zero_grad()
            loss = local.loss(model, local.batch())
            loss.backward()
            optimizer.step()
            schedule.step()
            made(loss)
        local.synced(local.done)


if __name__ == "__main__":
    play(train)
