"""The model before and after, in plain PyTorch float32: for people to look at, no part of what is proven."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer.commands.report import read_state
from trainer.commands.results import write_json
from trainer.folder import RunFolder
from trainer.programs.kernels import TORCH_DTYPES
from trainer.programs.tracing.capture import Loss
from trainer.runs.data.tokenizing import load_wrapped
from trainer.runs.facts import ModelFacts
from trainer.runs.models import config_of
from trainer.runs.rebuilding import rebuilt
from trainer.runs.states import Missing, kept_state, start_state
from trainer.runs.tasks import TASKS, causal_lm_loss
from verification.errors import UserError
from verification.tensors import Bundle

PROMPT = "The statement "
SAMPLE_TOKENS = 120
MAX_RECORDS = 128
TEMPERATURE = 0.7
PART_RECORDS = 8


def export_and_evaluate(folder: RunFolder, before: Bundle, after: Bundle) -> dict[str, Any]:
    """Write the trained model to `model/` and return held-out losses and samples of the first and the last state."""
    judge = HeldOut(folder)
    facts, whole = judge.facts, judge.whole
    model = whole.model
    files = folder.tokenizer if folder.tokenizer.is_dir() else None
    tokenizer = load_wrapped(files) if files is not None and facts.task == "causal-lm" else None
    figures: dict[str, Any] = {"sample_prompt": PROMPT if tokenizer else ""}
    figures["bytes_per_token"] = facts.bytes_per_token
    for name, state in (("before", before), ("after", after)):
        figures[f"loss_{name}"] = judge.loss(state)
        figures[f"sample_{name}"] = continue_text(model, tokenizer, PROMPT) if tokenizer else ""
    whole.save(folder.path / "model", files)
    return figures


def evaluate_run(
    folder: RunFolder,
    every: int,
    tell: Callable[[str], None],
    json_file: Path | None = None,
    module: Path | None = None,
) -> "list[Evaluated]":
    """Return the held-out loss of the start and after every so many rounds, and the newest, as far as their states are
    kept here; raises UserError where none is. `module` is the Python file that makes the model, where one does."""
    judge, state = HeldOut(folder, module), read_state(folder)
    last = max((int(each.number) for each in state.rounds if each.sealed is not None), default=-1)
    rounds = [number for number in range(last + 1) if (number + 1) % every == 0 or number == last]
    found, gone = list[Evaluated](), 0
    for look in (
        partial(start_state, folder, state),
        *(partial(kept_state, folder, state, n) for n in rounds),
    ):
        try:
            kept = look()
        except Missing:
            gone += 1
            continue
        found.append(Evaluated(kept.round, judge.loss(kept.bundle), judge.facts.bytes_per_token))
        tell(found[-1].sentence)
    if gone:
        tell(
            f"{gone} states of those rounds are kept by no peer here any more: evaluate while the run goes on"
        )
    if json_file is not None:
        write_json(json_file, [asdict(each) for each in found])
    return found


class HeldOut:
    """Judges states of a folder's run by its held-out records; the model is that of the state that was judged last."""

    def __init__(self, folder: RunFolder, module: Path | None = None) -> None:
        """Read what the folder holds of model and records; `module` is the Python file that makes the model, where one
        does. Raises UserError where the folder lacks them, or the file is another."""
        self.facts = ModelFacts.read(folder)
        self._records = held_out_records(folder.held_out, self.facts)
        self.whole = rebuilt(folder, self.facts, module)
        self._loss = TASKS[self.facts.task].loss(config_of(self.whole.model), self.facts.marks)

    def loss(self, state: Bundle) -> float:
        """Return the mean loss that a state's model makes, in nats; of text a token."""
        self.whole.load(state)
        return held_out_loss(self.whole.model, self._records, self._loss)


@dataclass(frozen=True)
class Evaluated:
    """The mean loss on held-out records after a round, in nats a token of text; None before the first round."""

    round: int | None
    loss: float
    bytes_per_token: float | None

    @property
    def sentence(self) -> str:
        """Return it for people."""
        where = "before the first round" if self.round is None else f"after round {self.round}"
        per_byte = f", {self.loss / self.bytes_per_token:.4f} a byte" if self.bytes_per_token else ""
        return f"{where}: held-out loss {self.loss:.4f}{per_byte}"


def held_out_loss(model: torch.nn.Module, records: torch.Tensor, loss: Loss = causal_lm_loss) -> float:
    """Return the mean loss over records, int64 [n, width]; for text in nats a token.

    A few records are computed at a time: the logits of a large vocabulary take gigabytes.
    """
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for part in records.split(PART_RECORDS):
            total += float(loss(model, part)) * len(part)
    return total / len(records)


def continue_text(model: torch.nn.Module, tokenizer: Any, prompt: str) -> str:
    """Return what the model writes after `prompt`, drawn at a fixed temperature from a fixed seed."""
    tokens = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
    begun = tokens.shape[1]
    generator = torch.Generator().manual_seed(0)
    model.eval()
    with torch.inference_mode():
        for _ in range(SAMPLE_TOKENS):
            window = tokens[:, -model.config.max_position_embeddings :]  # type: ignore[union-attr, operator]
            chances = torch.softmax(model(input_ids=window).logits[:, -1] / TEMPERATURE, dim=-1)
            tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=generator)], dim=1)
    written: str = tokenizer.decode(tokens[0, begun:].tolist())
    return written


def held_out_records(path: Path, facts: ModelFacts) -> torch.Tensor:
    """Return the first records that no worker trained on; raises UserError where there are none."""
    kind = TORCH_DTYPES[facts.dtype]
    try:
        with path.open("rb") as file:
            data = bytearray(file.read(MAX_RECORDS * facts.width * kind.itemsize))
    except OSError as error:
        raise UserError(
            f"{path}: cannot read held-out records: {error.strerror}; copy the file from where the run was made"
        ) from error
    return torch.frombuffer(data, dtype=kind).reshape(-1, facts.width).to(torch.int64)
