"""An exact inner step against the same step in native float32 PyTorch: same model, batch and optimizer, in one run.

    python -m benchmarks.step [--json FILE]

Opponents alternate step by step on one thread; figures are medians with the quartiles. Ratios are the claim, seconds
are not: machines are shared and differ.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from trainer.models import build_model
from trainer.programs.conversion import to_torch
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.optimiser import AdamW
from trainer.programs.trace import TraceConfig, trace_run
from trainer.tasks import causal_lm_loss

MODELS = {"d128": (128, 352, 4), "d192": (192, 512, 2), "d256": (256, 704, 4)}
BATCH, LENGTH, RECORDS = 4, 64, 64
WARMUP, STEPS = 2, 9
OPTIMISER = AdamW(lr=3e-3, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.01, warmup=1)


def make_model(hidden: int, inner: int, layers: int) -> torch.nn.Module:
    """Return a Llama over bytes."""
    return build_model(
        {
            "model_type": "llama", "vocab_size": 256, "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 4,
            "max_position_embeddings": LENGTH, "tie_word_embeddings": False,
        }
    )  # fmt: skip


def exact_step(model: torch.nn.Module, tokens: torch.Tensor) -> Callable[[], None]:
    """Return a function that does one exact step and keeps its state."""
    config = TraceConfig(RECORDS, LENGTH, BATCH, WARMUP + STEPS, 1, 12, OPTIMISER, 0.7, 0.6)
    traced = trace_run(model, causal_lm_loss, config)
    index = torch.zeros(WARMUP + STEPS, BATCH, dtype=torch.int64)
    inputs = [*map(to_torch, traced.start.tensors), tokens, index]
    state = LoadedProgram(traced.prologue).run(inputs)
    inner = LoadedProgram(traced.inner)

    def step() -> None:
        state[:] = inner.run(state)

    return step


def native_step(model: torch.nn.Module, tokens: torch.Tensor) -> Callable[[], None]:
    """Return a function that does one step as PyTorch comes: float32, fused AdamW's plain form."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=OPTIMISER.lr, betas=(0.9, 0.99), weight_decay=0.01)
    batch = tokens[:BATCH].to(torch.int64)

    def step() -> None:
        optimiser.zero_grad()
        causal_lm_loss(model, batch).backward()
        optimiser.step()

    return step


def compare(sizes: tuple[int, int, int]) -> dict[str, list[float]]:
    """Return seconds of alternating steps, warm-up left out."""
    tokens = torch.randint(0, 256, (RECORDS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    tokens = tokens.to(torch.uint8)
    steps = {
        "exact": exact_step(make_model(*sizes), tokens),
        "float32": native_step(make_model(*sizes).train(), tokens),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARMUP + STEPS):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if number >= WARMUP:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console, rows, summary = Console(), [], {}
    table = Table("model", "exact, ms", "float32, ms", "exact / float32")
    for name, sizes in MODELS.items():
        with console.status(f"measuring {name}"):
            seconds = compare(sizes)
        ratio = statistics.median(e / n for e, n in zip(seconds["exact"], seconds["float32"], strict=True))
        table.add_row(name, *(_spread(seconds[kind]) for kind in ("exact", "float32")), f"{ratio:.2f}")
        rows.append({"model": name, "sizes": sizes, "seconds": seconds})
        summary[f"exact_over_float32_{name}"] = round(ratio, 3)
    console.print(table)
    if arguments.json is not None:
        record = {
            "machine": _machine(),
            "commit": _commit(),
            "command": " ".join(sys.argv),
            "rows": rows,
            "summary": summary,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _spread(seconds: list[float]) -> str:
    low, middle, high = statistics.quantiles([1000 * second for second in seconds], n=4)
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def _machine() -> dict[str, Any]:
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "processor": platform.processor() or platform.machine(),
        "vector_code": capability,
        "torch": torch.__version__,
    }


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


if __name__ == "__main__":
    main()
