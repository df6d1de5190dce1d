"""hivemind.Optimizer: peers collect one global batch, average its gradients, step, and average parameters.

As its guide has it, synchronous and as float16 on the wire, with the global batch that the others have. In its favour
it is told how many peers there are, so that a group which is whole does not wait for more.
"""

import time
from functools import partial

import hivemind
from hivemind.compression import Float16Compression
from hivemind.optim.grad_averager import GradientAverager

from benchmarks.opponents.task import LOOK_SECONDS, PORT, Local, play

ALONE = {"nat_port_map": False, "auto_nat": False, "use_relay": False}
"""Nothing is looked for outside the laboratory."""
MATCHMAKING_SECONDS = 5.0
"""Its guide has 3 to 5 for small local runs; above the 3 of a request there is no danger of deadlocks, it warns."""
HEARING_SECONDS = 0.1
"""Between two looks at how far the others are, at least; half a second by default, which short steps would wait for."""
AVERAGING_SECONDS = 1800.0
"""Longest all-reduce: slower than any link here."""


def dht_of(local: Local) -> hivemind.DHT:
    """Return a peer of the table in which peers find each other; the first one's addresses lie in the shared folder."""
    known, own = local.shared.folder / "dht", local.task.addresses[local.rank]
    while local.rank and not known.exists():
        time.sleep(LOOK_SECONDS)
    initial = known.read_text().split() if local.rank else []
    listen = [f"/ip4/{own}/tcp/{PORT}"]
    dht = hivemind.DHT(host_maddrs=listen, initial_peers=initial, start=True, **ALONE)
    if not local.rank:
        part = known.with_suffix(".part")
        part.write_text(" ".join(map(str, dht.get_visible_maddrs())))
        part.replace(known)
    return dht


def optimizer_of(local: Local, dht: hivemind.DHT) -> hivemind.Optimizer:
    """Return the optimizer, once it knows of all peers."""
    task, whole = local.task, {"target_group_size": local.task.peers}
    optimizer = hivemind.Optimizer(
        dht=dht, run_id="wan", target_batch_size=task.peers * task.batch, batch_size_per_step=task.batch,
        params=local.groups(), optimizer=local.optimizer, scheduler=local.schedule,
        matchmaking_time=MATCHMAKING_SECONDS, averaging_timeout=AVERAGING_SECONDS,
        grad_compression=Float16Compression(), state_averaging_compression=Float16Compression(),
        grad_averager_factory=partial(GradientAverager, **whole), averager_opts=whole,
        tracker_opts={"min_refresh_period": HEARING_SECONDS}, verbose=True,
    )  # fmt: skip
    tracker = optimizer.tracker
    tracker.report_local_progress(
        0, 1
    )  # who has no sample yet is told to nobody, and peers would begin alone
    while tracker.global_progress.num_peers < task.peers:
        time.sleep(LOOK_SECONDS)
    tracker.report_local_progress(0, 0)
    return optimizer


def wait_for_batch(local: Local, optimizer: hivemind.Optimizer) -> None:
    """Tell that this peer has done its part of the global batch, and wait until all have.

    Otherwise it would do another part meanwhile, for it hears of the others late, and the batch would be up to twice
    as large as everybody else's.
    """
    tracker = optimizer.tracker
    tracker.report_local_progress(optimizer.local_epoch, local.task.batch)
    while not (tracker.ready_to_update_epoch or local.shared.stop.exists()):
        time.sleep(LOOK_SECONDS)


def train(local: Local) -> None:
    """Train as one peer, and go on for the others' sake when all is trained."""
    optimizer = optimizer_of(local, dht_of(local))
    local.begin()
    while not local.shared.stop.exists():
        before = optimizer.local_epoch
        with local.step() as made:
            optimizer.zero_grad()
            loss = local.loss(local.model, local.batch())
            loss.backward()
            made(loss)
        wait_for_batch(local, optimizer)
        optimizer.step()
        if optimizer.local_epoch > before:
            local.synced(local.done)
            if local.done >= local.task.steps:
                local.finish()


if __name__ == "__main__":
    play(train)
