"""`export`: a run's model as a Hugging Face folder, with its tokenizer and a card that says where it comes from."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from trainer.commands.following import entries_of
from trainer.commands.report import read_state
from trainer.folder import RunFolder
from trainer.runs.facts import ModelFacts
from trainer.runs.models import build_model, export_model
from trainer.runs.states import Kept, Missing, kept_state
from verification.effects import RoundSealed
from verification.errors import UserError
from verification.state import State
from verification.units import Digest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CARD = """---
library_name: transformers
tags: [proofswarm]
---

# {title}

Trained by proofswarm: every number follows from the run's public record, and whoever holds what it names can compute
it again.

| | |
|---|---|
| run | `{run}` |
| state | `{state}`, {place} |
| training data | root `{data}`, {records:,} records of {width:,} tokens |
| inner step | program `{program}` |
| parameters | {dtype}{rounded} |
"""
"""Of the digests, `state` is that of the parameters and the outer momentum in float32, before any rounding."""


def export_run(folder: RunFolder, out: Path, number: int | None, dtype: str) -> str:
    """Write the model after a round, or the newest, to a new or empty folder; return what to say of it.

    `dtype` is one of `DTYPES`. Raises UserError for another, for a round without a state, a state that nobody keeps
    here any more, and what a folder lacks.
    """
    _check(dtype)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is in use: choose another folder with --out, or delete it")
    facts, state = ModelFacts.read(folder), read_state(folder)
    kept = kept_state(folder, state, number)
    _write(folder, facts, state, kept, out, dtype)
    return f"model of run {state.run.hex()[:16]}, {kept.place}, is in {out}: load it with from_pretrained({str(out)!r})"


def export_rounds(
    folder: RunFolder, out: Path, every: int, follow: bool, dtype: str, tell: Callable[[str], None]
) -> None:
    """Write the model after every so many rounds to `out`/round-NUMBER; with `follow` go on until the run has ended.

    What is there of the run already stays. A state that nobody keeps here any more is told of. Raises UserError as
    `export_run` does.
    """
    _check(dtype)
    facts = ModelFacts.read(folder)
    for entries, state in entries_of(folder, follow):
        sealed = (
            effect.number for entry in entries for effect in entry.effects if isinstance(effect, RoundSealed)
        )
        for number in (number for number in sealed if (number + 1) % every == 0):
            place = out / f"round-{number}"
            if _is_there(place, state):
                continue
            try:
                kept = kept_state(folder, state, number)
            except Missing as missing:
                tell(f"round {number} is left out: {missing}")
                continue
            draft = out / f".round-{number}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            _write(folder, facts, state, kept, draft, dtype)
            draft.rename(place)
            tell(f"{kept.place}: {place}")


def _check(dtype: str) -> None:
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype} is none of {', '.join(DTYPES)}")


def _is_there(place: Path, state: State) -> bool:
    """Return whether a model of the run lies in a place; raises UserError where something else does."""
    if not place.exists():
        return False
    card = place / "README.md"
    if card.is_file() and state.run.hex() in card.read_text(encoding="utf-8", errors="replace"):
        return True
    raise UserError(f"{place} holds something else: choose another folder with --out, or move it away")


def _write(folder: RunFolder, facts: ModelFacts, state: State, kept: Kept, out: Path, dtype: str) -> None:
    model = build_model(facts.config, task=facts.task)
    files = folder.tokenizer if folder.tokenizer.is_dir() else None
    export_model(model, facts.parameter_names, kept.bundle, out, files, DTYPES[dtype])
    (out / "README.md").write_text(card_of(state, kept.ref.digest, kept.place, dtype), encoding="utf-8")


def card_of(state: State, digest: Digest, place: str, dtype: str) -> str:
    """Return the model card of a run's state."""
    manifest = state.manifest
    return CARD.format(
        title=" ".join(manifest.title.split()) or "a run",
        run=state.run.hex(),
        state=digest.hex(),
        place=place,
        data=manifest.data.root.hex(),
        records=manifest.data.records,
        width=manifest.data.width,
        program=manifest.programs.inner.digest.hex(),
        dtype=dtype,
        rounded="" if dtype == "float32" else ", rounded once from float32",
    )
