"""What every figure is written with: machine, commit, command, rows and a flat summary."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from trainer.commands.console import Console
from trainer.compute.memory import usable_memory
from verification.errors import UserError

Draw = Callable[[Sequence[dict[str, Any]], Path], None]
"""Draws the rows into a file."""

NOTHING_MORE: Mapping[str, list[dict[str, Any]]] = {}

INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
"""Processor flags that decide which kernels a product may use."""


def publish(
    rows: list[dict[str, Any]],
    summary: dict[str, Any],
    console: Console,
    json: Path | None = None,
    plot: Path | None = None,
    draw: Draw | None = None,
    more: Mapping[str, list[dict[str, Any]]] = NOTHING_MORE,
) -> None:
    """End a benchmark: print its summary, write the record into `json`, and have `draw` make `plot` of the rows.

    `more` are rows of another kind, by their key in the record.
    Raises UserError where a file cannot be written, or without matplotlib, but then the record is there.
    """
    for name, value in summary.items():
        console.print(f"{name}: {'not measured' if value is None else value}")
    if json is not None:
        write_record(json, rows, summary, more)
    if plot is not None and draw is not None:
        draw(rows, plot)


def write_record(
    path: Path,
    rows: list[dict[str, Any]],
    summary: dict[str, Any],
    more: Mapping[str, list[dict[str, Any]]] = NOTHING_MORE,
) -> None:
    """Write one benchmark's JSON, with `more` rows by key; raises UserError where `path` cannot be written."""
    record = {
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "command": " ".join(["proofswarm bench", *(word for word in sys.argv[1:] if word != "bench")]),
        "rows": rows,
        **more,
        "summary": summary,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot write the figures: {error.strerror}; choose another file") from error


def machine() -> dict[str, Any]:
    """Return the processor, its instructions that matter here, memory in bytes, and the software."""
    facts = {
        "processor": _cpu_line("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if name in _cpu_line("flags").split()],
        "memory": usable_memory(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vector_code": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        facts["device"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.cuda
    return facts


def commit() -> str:
    """Return the checkout's commit, with "+" when tracked files differ from it; empty outside a checkout."""
    folder = Path(__file__).parent
    found = _git(folder, "rev-parse", "HEAD")
    return found + "+" if found and _git(folder, "status", "--porcelain", "-uno") else found


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_line(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
