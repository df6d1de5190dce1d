"""What every opponent is given, alike: weights, records and their order, steps, and how fast a step is.

No opponent's environment has this project's dependencies but torch and transformers, so this imports nothing else.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from os import sched_setaffinity
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import load_file, save_file

BETAS, EPSILON, DECAY = (0.9, 0.99), 1e-8, 0.01
"""AdamW's, as a job's are by default; matrices alone decay."""
CALIBRATED = 3
"""Steps by which a peer learns how long one takes where nobody waits for anybody."""
LOOK_SECONDS = 0.005
INTERFACE = "eth0"
"""What a host of the laboratory calls its link."""
PORT = 4200
RECORDS = "records"


@dataclass(frozen=True)
class Task:
    """What is trained: `rounds` of `local_steps` steps by each of so many peers, of `batch` records each.

    `step_seconds`: how long a step takes at least, 0 for as long as it takes; what it really takes less is waited for.
    `addresses` are the peers', `server` that of a host without a peer. `folder` holds what `Shared` names. `core`
    says whether each peer has a core of its own, `speeds` how many times as fast as `step_seconds` each is; without
    any all are as fast.
    """

    peers: int
    local_steps: int
    rounds: int
    batch: int
    learning_rate: float
    warmup: int
    outer_rate: float
    outer_momentum: float
    step_seconds: float
    addresses: tuple[str, ...]
    server: str
    folder: str
    cores: tuple[int, ...]
    speeds: tuple[float, ...] = ()

    def seconds_of(self, rank: int) -> float:
        """Return how long a peer's step takes at least."""
        return self.step_seconds / (self.speeds[rank] if self.speeds else 1.0)

    @property
    def steps(self) -> int:
        """Steps of each peer in all."""
        return self.local_steps * self.rounds

    def write(self, path: Path) -> None:
        """Write it for the opponents' processes."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Task":
        """Return what `write` wrote."""
        given = json.loads(path.read_text(encoding="utf-8"))
        fields: dict[str, Any] = {
            name: tuple(each) if isinstance(each, list) else each for name, each in given.items()
        }
        return cls(**fields)


class Shared:
    """Files that an opponent's peers and the bench share, in a folder that all of them see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config, self.start = folder / "config.json", folder / "start.safetensors"
        """The model's config and the seed of the records' order; weights by name, and records as `RECORDS`."""
        self.end = folder / "end.safetensors"
        """The weights after training, from the first peer."""
        self.go, self.stop = folder / "go", folder / "stop"
        """There once all may begin, and once nobody needs anybody any more."""

    def report(self, rank: int) -> Path:
        """Return where a peer reports."""
        return self.folder / f"peer-{rank}.jsonl"


def moved() -> dict[str, int]:
    """Return the bytes that this host's link has sent and received so far, by the kernel's counters."""
    for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines():
        name, _, counters = line.strip().partition(":")
        if name == INTERFACE:
            figures = counters.split()
            return {"sent": int(figures[8]), "received": int(figures[0])}
    return {"sent": 0, "received": 0}


class Reporter:
    """Writes a peer's report: a line of JSON each, with the time on the machine's monotonic clock."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)

    def tell(self, kind: str, **fields: Any) -> None:
        """Append a line of a kind: ready (seconds), begun, step (seconds, loss), sync (steps), ended, failed (reason).

        Beginning and syncs have what `moved` gives.
        """
        self._file.write(json.dumps({"kind": kind, "at": time.monotonic(), **fields}) + "\n")


def wait_until(moment: float) -> None:
    """Return when the monotonic clock shows a moment."""
    if (left := moment - time.monotonic()) > 0:
        time.sleep(left)


def own_core(cores: tuple[int, ...], rank: int) -> None:
    """Stay on the core that a peer has to itself, if it has one."""
    if cores:
        sched_setaffinity(0, {cores[rank]})


class Local:
    """One peer's training without anybody else: the model, its optimizer, its batches, and the pace of its steps."""

    def __init__(self, task: Task, rank: int) -> None:
        """Build the model and take its weights."""
        own_core(task.cores, rank)
        torch.set_num_threads(1)
        self.task, self.rank, self.shared = task, rank, Shared(Path(task.folder))
        self.reporter = Reporter(self.shared.report(rank))
        given, tensors = json.loads(self.shared.config.read_text("utf-8")), load_file(self.shared.start)
        self._records = tensors.pop(RECORDS)
        self.model = _model_of(given["config"])
        for name, parameter in self.model.named_parameters():  # one that is tied is there once
            parameter.data.copy_(tensors[name])
        order = torch.Generator().manual_seed(given["seed"])
        self._order = torch.randperm(len(self._records), generator=order)
        self.done, self._has_finished = 0, False

    def optimizer(self, parameters: Any = None) -> torch.optim.AdamW:
        """Return AdamW over the model's parameters; of groups that are given where a library makes its own."""
        groups = self.groups() if parameters is None else parameters
        return torch.optim.AdamW(groups, lr=self.task.learning_rate, betas=BETAS, eps=EPSILON)

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters as groups: matrices, which decay, and the others, which do not."""
        matrices = [each for each in self.model.parameters() if each.dim() > 1]
        others = [each for each in self.model.parameters() if each.dim() <= 1]
        return [
            {"params": matrices, "weight_decay": DECAY},
            {"params": others, "weight_decay": 0.0},
        ]

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        """Return the rate's growth over the first steps."""
        warmup = max(1, self.task.warmup)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))

    def batch(self) -> torch.Tensor:
        """Return the peer's next batch, int64 [batch, length + 1]: peers share each step's records out in order."""
        task = self.task
        first = (self.done * task.peers + self.rank) * task.batch
        places = torch.arange(first, first + task.batch) % len(self._order)
        chosen: torch.Tensor = self._records[self._order[places]].to(torch.int64)
        return chosen

    def loss(self, model: Any, batch: torch.Tensor) -> torch.Tensor:
        """Return the mean cross entropy of the next token."""
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def calibrate(self) -> None:
        """Tell how long a step takes here by itself, all peers at once, on a copy of the model."""
        kept, self.model = self.model, deepcopy(self.model)
        optimizer, taken = self.optimizer(), []
        for _ in range(CALIBRATED + 1):
            began = time.monotonic()
            optimizer.zero_grad()
            self.loss(self.model, self.batch()).backward()
            optimizer.step()
            taken.append(time.monotonic() - began)
        self.model = kept
        self.reporter.tell("ready", seconds=statistics.median(taken[1:]))

    def begin(self) -> None:
        """Calibrate, and wait until everybody is as far."""
        self.calibrate()
        while not self.shared.go.exists():
            time.sleep(LOOK_SECONDS)
        self.reporter.tell("begun", **moved())

    @contextmanager
    def step(self) -> Iterator[Callable[[torch.Tensor], None]]:
        """Have a step take as long as the task says: the block really runs, and what is left is waited for.

        What is yielded takes the step's loss. What the block leaves running goes on meanwhile.
        """
        began, losses = time.monotonic(), list[torch.Tensor]()
        yield losses.append
        seconds = time.monotonic() - began
        wait_until(began + self.task.seconds_of(self.rank))
        self.done += 1
        self.reporter.tell("step", seconds=seconds, loss=float(losses[0].detach()))

    def synced(self, steps: int) -> None:
        """Tell how many of the steps so far are everybody's."""
        self.reporter.tell("sync", steps=steps, **moved())

    def finish(self) -> None:
        """Keep the first peer's weights, and tell that all is trained, once."""
        if self._has_finished:
            return
        if self.rank == 0:
            begun = self.shared.end.with_suffix(".part")
            save_file({name: each.detach() for name, each in self.model.named_parameters()}, begun)
            begun.replace(self.shared.end)
        self.reporter.tell("ended")
        self._has_finished = True

    def end(self) -> None:
        """Finish, and stay until nobody needs this peer."""
        self.finish()
        while not self.shared.stop.exists():
            time.sleep(LOOK_SECONDS)


def _model_of(config: dict[str, Any]) -> Any:
    """Return transformers' model of a config, as transformers comes: attention by PyTorch's own fused operator."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {key: value for key, value in config.items() if key != "model_type"}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **settings)).train()


def play(train: Callable[[Local], None]) -> None:
    """Be one peer of an opponent: `python -m benchmarks.opponents.NAME TASK RANK`; what fails is reported in a line."""
    path, rank = sys.argv[1:]
    local = Local(Task.read(Path(path)), int(rank))
    try:
        train(local)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        local.reporter.tell("failed", reason=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        raise
    local.end()
