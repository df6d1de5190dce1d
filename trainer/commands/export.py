"""`export`: a run's model as a Hugging Face folder, with its tokenizer and a card that says where it comes from.

A module of the creator's own comes out as its tensors: its code is not run for that.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from trainer.commands.following import entries_of
from trainer.commands.report import read_state
from trainer.folder import RunFolder
from trainer.runs.bottlenecks import CODE
from trainer.runs.drafts import check_new, draft_of
from trainer.runs.facts import ModelFacts
from trainer.runs.rebuilding import ADAPTER, rebuilt, write_tensors
from trainer.runs.states import Kept, Missing, kept_state
from trainer.runs.tasks import TASKS
from verification.effects import RoundSealed
from verification.errors import UserError
from verification.state import State
from verification.units import Digest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CARD = """---
{library}tags: [proofswarm]
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

LORA = """
What was trained is a LoRA adapter of rank {rank} and alpha {alpha:g}: `{folder}/` holds it, the numbers of the state in
float32, for `PeftModel.from_pretrained`. The weights here are the frozen ones with the adapter merged in by PyTorch.
"""

MODULE = """
`model.safetensors` holds the model's parameters and buffers by name. The model itself is what `{function}` in `{file}`
makes, SHA-256 `{digest}`, a file of whoever made the run:

    model = {function}()
    model.load_state_dict(safetensors.torch.load_file("model.safetensors"))
"""


BOTTLENECKS = """
Rows of hidden states have {narrow} numbers behind {places}: they go through learned projections there, which
transformers does not know. `{code}` has them, a few lines for PyTorch, to be read before they run:

    model = transformers.{auto_class}.from_pretrained(FOLDER, trust_remote_code=True)
"""

MODULE_BOTTLENECKS = """
Before its tensors are loaded the model gets learned projections behind some of its modules, by a function in `{code}`:

    add_bottlenecks(model, {sizes})
"""


def export_run(folder: RunFolder, out: Path, number: int | None, dtype: str) -> str:
    """Write the model after a round, or the newest, to a new or empty folder; return what to say of it.

    `dtype` is one of `DTYPES`. Raises UserError for another, for a round without a state, a state that nobody keeps
    here any more, and what a folder lacks.
    """
    _check(dtype)
    check_new(out)
    facts, state = ModelFacts.read(folder), read_state(folder)
    kept = kept_state(folder, state, number)
    _write(folder, facts, state, kept, out, dtype)
    trusted = ", trust_remote_code=True" if facts.bottlenecks else ""
    load = (
        f"load it with from_pretrained({str(out)!r}{trusted})"
        if facts.module is None
        else "README.md says how to load it"
    )
    return f"model of run {state.run.hex()[:16]}, {kept.place}, is in {out}: {load}"


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
            _write(folder, facts, state, kept, place, dtype)
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
    """Make a folder of a state's model; nothing is left behind when that fails."""
    card = card_of(state, facts, kept.ref.digest, kept.place, dtype)
    files = folder.tokenizer if folder.tokenizer.is_dir() else None
    with draft_of(out) as draft:
        if facts.module is None:
            model = rebuilt(folder, facts)
            model.load(kept.bundle)
            model.save(draft, files, DTYPES[dtype])
        else:
            write_tensors(folder, facts, kept.bundle, draft, DTYPES[dtype])
            if files is not None:
                shutil.copytree(files, draft / files.name)
        (draft / "README.md").write_text(card, encoding="utf-8")


def card_of(state: State, facts: ModelFacts, digest: Digest, place: str, dtype: str) -> str:
    """Return the model card of a run's state."""
    manifest = state.manifest
    card = CARD.format(
        library="library_name: transformers\n" if facts.module is None else "",
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
    if facts.module is not None:
        card += MODULE.format(**asdict(facts.module))
    if facts.bottlenecks:
        card += _of_bottlenecks(facts, facts.bottlenecks)
    return card if facts.lora is None else card + LORA.format(folder=ADAPTER, **facts.lora)


def _of_bottlenecks(facts: ModelFacts, sizes: Mapping[str, tuple[int, int]]) -> str:
    """Return what a card says of a model's bottlenecks: how to load it with them."""
    if facts.module is not None:
        return MODULE_BOTTLENECKS.format(code=CODE, sizes=sizes)
    narrow = ", ".join(dict.fromkeys(str(narrow) for _, narrow in sizes.values()))
    places = ", ".join(f"`{name}`" for name in sizes)
    return BOTTLENECKS.format(
        code=CODE, narrow=narrow, places=places, auto_class=TASKS[facts.task].auto_class
    )
