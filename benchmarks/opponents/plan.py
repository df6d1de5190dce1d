"""What `bench wan` measures: one training, the same for every opponent."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.opponents import ours
from benchmarks.opponents.starting import Start
from benchmarks.opponents.task import Task
from benchmarks.trainers import MODELS
from trainer.hosts.net import Host
from trainer.runs.job import OUTER
from verification.errors import UserError

SEED = 20_261_130
WARMUP = 10
RATE = 1e-3
AUDIT_RATE = 0.05


@dataclass(frozen=True)
class Plan:
    """A model's name in `benchmarks.trainers`, and what is trained, as the command's options say.

    A step takes `step_seconds` at least; 0 is as long as it takes. An opponent is stopped after `limit` seconds.
    `speeds`: how many times as fast each peer is. Of ours a leaf stands after every `leaf_every` steps, by default at a
    round's end, and shares follow speed by whole leaves.
    """

    model: str
    peers: int
    batch: int
    length: int
    local_steps: int
    rounds: int
    step_seconds: float
    limit: float
    speeds: tuple[float, ...] = ()
    leaf_every: int = 0

    def require_cores(self) -> None:
        """Raise UserError where peers would share a core and no step's time is stated."""
        if not self.step_seconds and len(os.sched_getaffinity(0)) < self.peers:
            raise UserError(
                f"{self.peers} peers cannot have a core each of {len(os.sched_getaffinity(0))}: state how long a step "
                "takes with --step-seconds"
            )

    @property
    def cores(self) -> tuple[int, ...]:
        """Return a core for each peer; none where a step's time is stated."""
        return () if self.step_seconds else tuple(sorted(os.sched_getaffinity(0))[: self.peers])

    @property
    def warmup(self) -> int:
        """Return over how many of the first steps the rate grows."""
        return min(WARMUP, self.local_steps * self.rounds // 2)

    @property
    def tokens_of_a_step(self) -> int:
        """Return how many tokens one peer's step has."""
        return self.batch * self.length

    @property
    def described(self) -> dict[str, Any]:
        """Return what every row says of it."""
        return asdict(self) | {"leaf_every": self.leaf_every or self.local_steps}

    def start(self, variant: str, out: Path) -> Start:
        """Make a run of a variant of ours, and return what everybody starts from. Raises UserError."""
        recipe = replace(MODELS[self.model], length=self.length)
        settings = {
            **self.described, "config": recipe.config, "seed": SEED, "learning_rate": RATE, "warmup": self.warmup,
            "audit_rate": AUDIT_RATE,
        }  # fmt: skip
        return Start(ours.make_run(ours.job_text(settings, variant), out), SEED)

    def task(self, folder: Path, hosts: Sequence[Host]) -> Task:
        """Return what peers on the first of the hosts are given; the last has none."""
        addresses = tuple(host.ipv4 for host in hosts[: self.peers])
        return Task(
            self.peers, self.local_steps, self.rounds, self.batch, RATE, self.warmup, *OUTER[False],
            self.step_seconds, addresses, hosts[-1].ipv4, str(folder), self.cores, self.speeds,
        )  # fmt: skip
