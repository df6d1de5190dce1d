"""`new`: a folder with a commented job file and data, from which `run create` makes a run as it stands."""

import json
import shlex
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import torch
from safetensors.torch import save_file

from trainer.runs.data.texts import python_reference
from trainer.runs.drafts import draft_of
from trainer.runs.job import parse_job
from trainer.runs.models import build_model, save_model
from verification.errors import UserError

BPE_TOKENS = 8192
IMAGES, SIDE = 900, 12
START = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
"""The config of the checkpoint that stands where the user's will."""


def make_folder(out: Path, kind: str) -> list[str]:
    """Write a starting point of a kind and return the commands that come next; raises UserError."""
    if kind not in KINDS:
        raise UserError(f"--kind {kind} is none of {', '.join(KINDS)}")
    if out.exists() or not out.name:
        raise UserError(f"{out} is there already: choose another name, or delete it")
    text = job_text(kind, out.name)
    parse_job(text, f"the job of --kind {kind}")
    with draft_of(out, "choose another name") as draft:
        (draft / "data").mkdir()
        KINDS[kind](draft)
        (draft / "job.toml").write_text(text, encoding="utf-8")
    run = Path("runs") / out.name
    return [
        shlex.join(["proofswarm", "run", "create", str(out / "job.toml"), "--out", str(run)]),
        shlex.join(["proofswarm", "peer", "--run", str(run), "--key", str(run / "keys" / "peer-0.key")]),
    ]


def job_text(kind: str, name: str) -> str:
    """Return the job file of a kind."""
    jobs = files("trainer.commands") / "jobs"
    both = "".join((jobs / f"{part}.toml").read_text(encoding="utf-8") for part in (kind, "swarm"))
    return Template(both).substitute(title=json.dumps(name, ensure_ascii=False))


def _text(folder: Path) -> None:
    (folder / "data" / "python-reference.txt").write_bytes(python_reference())


def _text_and_tokenizer(folder: Path) -> None:
    """A byte-level BPE as GPT-2's, trained on the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    _text(folder)
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=BPE_TOKENS,
        show_progress=False,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train([str(path) for path in sorted((folder / "data").iterdir())], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def _text_and_checkpoint(folder: Path) -> None:
    _text(folder)
    save_model(build_model(START), folder / "start", None)


def _images(folder: Path) -> None:
    """Bars that lie, stand and lean, each at a place of its own, on noise."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (IMAGES, 1, SIDE, SIDE), generator=random, dtype=torch.uint8)
    labels = torch.arange(IMAGES, dtype=torch.uint8) % 3
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    for image, label in zip(images, labels.tolist(), strict=True):
        place = int(torch.randint(0, SIDE, (), generator=random))
        across = (row, column, row + column)[label]
        image[:, across % SIDE == place] += 150
    save_file({"images": images, "labels": labels}, folder / "data" / "images.safetensors")


KINDS: Mapping[str, Callable[[Path], None]] = {
    "tiny": _text,
    "gpt2": _text_and_tokenizer,
    "checkpoint": _text_and_checkpoint,
    "images": _images,
    "lora": _text_and_checkpoint,
}
"""What each kind has beside its job file."""
