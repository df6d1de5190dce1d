"""`proofswarm models`: which architectures of the installed transformers train exactly, each in a child process."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from trainer.commands.console import Console
from trainer.commands.progress import Stages
from trainer.lifetimes import end_with, ended_by_signals
from trainer.runs.architectures import (
    OTHERS,
    TOLERANCE,
    Outcome,
    causal_lm_architectures,
    try_architecture,
)
from verification.errors import UserError

PRELOADED = ["trainer.runs.architectures", "transformers.modeling_utils", "trainer.exact.native"]
"""What every child needs; a server of forks imports it once."""


def run_models(only: Sequence[str], json_file: Path | None, limit: float) -> int:
    """Try the named architectures, or all, print a table, and keep the outcomes in a file as they come.

    With names the file's other outcomes stay. Raises UserError for a name that transformers does not know. Returns 0.
    """
    causal = causal_lm_architectures()
    names = list(only) or [*causal, *OTHERS]
    if unknown := sorted(set(names) - {*causal, *OTHERS}):
        raise UserError(f"transformers {version('transformers')} has no causal language model {unknown[0]!r}")
    if json_file is not None and not json_file.parent.is_dir():
        raise UserError(f"{json_file}: there is no folder {json_file.parent}; make it first")
    console, outcomes = Console(), _earlier(json_file) if only else {}
    with ended_by_signals(), Stages(console, len(names)) as stages:
        for outcome in tried(names, limit, stages):
            outcomes[outcome.name] = outcome
            if json_file is not None:
                _keep(json_file, outcomes, causal)
    shown = [outcomes[name] for name in names]
    console.print(_table(shown))
    console.print(_summary(shown, causal), soft_wrap=True)
    return 0


def tried(
    names: Sequence[str],
    limit: float,
    tell: Callable[[str], None],
    attempt: Callable[[str], Outcome] = try_architecture,
) -> Iterator[Outcome]:
    """Yield the outcome of each name from a process of its own, told of before; one ends after `limit` seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    for name in names:
        tell(name)
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(attempt, name, theirs), daemon=True)
        child.start()
        theirs.close()
        try:
            yield _received(name, ours, limit)
        finally:
            child.kill()
            child.join()


def _child(attempt: Callable[[str], Outcome], name: str, answer: Connection) -> None:
    """Try one architecture; what its family prints and warns of is nobody's."""
    end_with(os.getppid())
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    torch.set_num_threads(1)
    answer.send(attempt(name))


def _received(name: str, answer: Connection, limit: float) -> Outcome:
    try:
        if not answer.poll(limit):
            return Outcome(name, False, reason=f"no answer within {limit:g} s")
        outcome: Outcome = answer.recv()
    except EOFError:
        return Outcome(name, False, reason="its process ended without an answer")
    return outcome


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("transformers", "torch")}


def _earlier(json_file: Path | None) -> dict[str, Outcome]:
    if json_file is None or not json_file.exists():
        return {}
    try:
        found = json.loads(json_file.read_text(encoding="utf-8"))
        kept = [Outcome(**entry) for entry in [*found["causal_lm"], *found["others"]]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{json_file}: no outcomes of this command; name another file") from error
    if found["versions"] != _versions():
        raise UserError(f"{json_file} is of other versions, {found['versions']}; name another file")
    return {outcome.name: outcome for outcome in kept}


def _keep(json_file: Path, outcomes: dict[str, Outcome], causal: Sequence[str]) -> None:
    """Write the file anew, whole or not at all."""
    rows = [outcomes[name] for name in sorted(outcomes)]
    text_models = [asdict(row) for row in rows if row.name not in OTHERS]
    made: dict[str, Any] = {
        "versions": _versions(),
        "tolerance": TOLERANCE,
        "causal_lm_architectures": len(causal),
        "causal_lm_exact": sum(row["exact"] for row in text_models),
        "causal_lm": text_models,
        "others": [asdict(row) for row in rows if row.name in OTHERS],
    }
    beside = json_file.with_name(json_file.name + ".part")
    beside.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    beside.replace(json_file)


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table("architecture", "exact", "how far from PyTorch, or why not", box=None)
    for row in outcomes:
        errors = f"loss {row.loss_error:.2%}, gradients {row.gradient_error:.2%}" if row.exact else ""
        table.add_row(row.name, "yes" if row.exact else "no", " ".join(filter(None, (errors, row.reason))))
    return table


def _summary(outcomes: Sequence[Outcome], causal: Sequence[str]) -> str:
    tried = [row for row in outcomes if row.name not in OTHERS]
    exact = sum(row.exact for row in tried)
    words = f"{exact} of {len(tried)} causal language models tried train exactly"
    if len(tried) < len(causal):
        words += f" (transformers {version('transformers')} has {len(causal)})"
    others = [row for row in outcomes if row.name in OTHERS]
    return words + (f"; {sum(row.exact for row in others)} of {len(others)} others" if others else "")
