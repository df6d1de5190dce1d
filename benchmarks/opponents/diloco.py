"""DiLoCo of torchft over gloo: peers train alone for a while, then average by how much they moved.

As its documentation has it: a replica group a peer, a lighthouse on a host of its own, and a quorum of all.
"""

import os
from datetime import timedelta

import torch.distributed as dist
from torch.optim import SGD
from torchft import Manager, ProcessGroupGloo
from torchft.local_sgd import DiLoCo

from benchmarks.opponents.task import INTERFACE, PORT, Local, play

LIGHTHOUSE = 29510
"""The port that a lighthouse has by default."""
TIMEOUT = timedelta(hours=1)
"""Of quorum and collectives: links are slow here, and the bench itself ends what does not come to an end."""


def manager_of(local: Local) -> Manager:
    """Return what finds this peer's partners, by a store and at a port that are reached at the peer's own address."""
    task, own = local.task, local.task.addresses[local.rank]
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    return Manager(
        pg=ProcessGroupGloo(timeout=TIMEOUT), load_state_dict=local.model.load_state_dict,
        state_dict=local.model.state_dict, min_replica_size=task.peers, use_async_quorum=False, timeout=TIMEOUT,
        quorum_timeout=TIMEOUT, rank=0, world_size=1, store_addr=own, store_port=PORT,
        lighthouse_addr=f"http://{task.server}:{LIGHTHOUSE}", replica_id=f"peer_{local.rank}", hostname=own,
        init_sync=False,
    )  # fmt: skip


def train(local: Local) -> None:
    """Train as one replica group."""
    task = local.task
    store = dist.TCPStore(task.addresses[local.rank], PORT, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    manager = manager_of(local)
    optimizer = local.optimizer()
    schedule = local.schedule(optimizer)
    outer = SGD(local.model.parameters(), lr=task.outer_rate, momentum=task.outer_momentum, nesterov=True)
    local.begin()
    with DiLoCo(manager, [local.model], optimizer, outer, task.local_steps):
        while manager.current_step() < task.rounds:
            before = manager.current_step()
            with local.step() as made:
                optimizer.zero_grad()
                loss = local.loss(local.model, local.batch())
                loss.backward()
                made(loss)
            optimizer.step()  # every local_steps-th one is a sync, so it is no part of the step that is timed
            schedule.step()
            if manager.current_step() > before:
                local.synced(
                    manager.current_step() * task.local_steps
                )  # a sync that fails takes its steps back
    local.end()
    manager.shutdown()
    del store


if __name__ == "__main__":
    play(train)
