"""`export`: a run's model as a Hugging Face folder, with its tokenizer and a card that says where it comes from."""

from collections.abc import Sequence
from pathlib import Path

import torch

from p2p.blobs import MAX_BLOB_BYTES, BlobStore
from trainer.commands.report import read_ledger
from trainer.folder import RunFolder
from trainer.runs.facts import ModelFacts
from trainer.runs.models import build_model, export_model
from verification.errors import Unavailable, UserError
from verification.manifest import BundleRef
from verification.state import State
from verification.tensors import Bundle, decode_bundle, digest_of
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
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype} is none of {', '.join(DTYPES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is in use: choose another folder with --out, or delete it")
    if not folder.model.is_file():
        raise UserError(
            f"{folder.path} lacks model.json: only who made the run has it; copy it and tokenizer/ from there"
        )
    ledger = read_ledger(folder)
    state = ledger.state
    ledger.close()
    chosen, place = _chosen(state, number)
    bundle = stored_bundle([folder.blobs, *folder.stores()], chosen.blob)
    if digest_of(bundle) != chosen.digest:
        raise UserError(f"state {chosen.digest.hex()} is not what its blob holds: take another round")
    facts = ModelFacts.read(folder)
    model = build_model(facts.config, task=facts.task)
    files = folder.tokenizer if folder.tokenizer.is_dir() else None
    export_model(model, facts.parameter_names, bundle, out, files, DTYPES[dtype])
    (out / "README.md").write_text(card_of(state, chosen.digest, place, dtype), encoding="utf-8")
    return f"model of run {state.run.hex()[:16]}, {place}, is in {out}: load it with from_pretrained({str(out)!r})"


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


def _chosen(state: State, number: int | None) -> tuple[BundleRef, str]:
    sealed = {int(worked.number): worked.sealed for worked in state.rounds if worked.sealed is not None}
    if number is None and not sealed:
        return state.manifest.start, "before the first round"
    wanted = max(sealed) if number is None else number
    if wanted not in sealed:
        known = f"0 to {max(sealed)}" if sealed else "none"
        raise UserError(f"round {wanted} has no state; rounds with one: {known}")
    return sealed[wanted], f"after round {wanted}"


def stored_bundle(stores: Sequence[Path], blob: Digest) -> Bundle:
    """Return a bundle that one of some stores holds; raises UserError where none does."""
    for folder in stores:
        try:
            return decode_bundle(BlobStore(folder).get(blob), MAX_BLOB_BYTES)
        except Unavailable:
            continue
    raise UserError(f"no peer's folder here holds state {blob.hex()[:16]} any more: take a newer round")
