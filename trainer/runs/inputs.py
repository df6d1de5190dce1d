"""What a run's model is trained on: the job's data, checked against the model before much of it is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from trainer.runs.data.chosen import chosen_tokenizer, plan_of, prepared, vocabulary_of
from trainer.runs.data.prepare import Tell
from trainer.runs.data.records import Records
from trainer.runs.data.tokenizing import Tokenizer
from trainer.runs.images import image_records
from trainer.runs.job import JobFile
from trainer.runs.models import config_of, positions_of, reads_ahead, rows_of
from trainer.runs.tasks import TASKS, Marks
from verification.errors import UserError


@dataclass(frozen=True)
class RunData:
    """Records to train on and held out, what their tokens mean to the loss, bytes of text a token where text is known,
    and the tokenizer that goes with the model."""

    train: Records
    held_out: Records
    marks: Marks
    bytes_per_token: float | None = None
    tokenizer: Tokenizer | None = None


@contextmanager
def run_data(job: JobFile, base: Path, model: nn.Module, beside: Path, tell: Tell) -> Iterator[RunData]:
    """Give a job's data, whose relative paths start at `base`; what is made for it lies in `beside` meanwhile.

    Raises UserError for data that cannot be read or that the model cannot take.
    """
    config = config_of(model)
    if job.data.images is not None:
        with image_records(base / job.data.images, job.data.held_out, config, beside) as images:
            yield RunData(images.train, images.held_out, Marks(image=images.shape))
        return
    tokenizer = chosen_tokenizer(job.data, base)
    known = vocabulary_of(job.data, tokenizer, rows_of(model, _read_at_once(job)))
    marks = Marks(known.mask, known.separator if job.data.packing == "cut" else None)
    TASKS[job.model.task].loss(config, marks)  # refuses what the task cannot do with these
    _check_length(job, model)
    if job.model.task == "causal-lm" and reads_ahead(model, job.data.length):
        raise UserError(
            "model.task: causal-lm asks for tokens that this model reads while it is asked: give it a causal mask, set "
            "model.config.is_decoder = true, or take masked-lm"
        )
    with prepared(plan_of(job.data, job.seed, base, tokenizer, known), beside, tell) as made:
        yield RunData(made.train, made.held_out, marks, made.bytes_per_token, tokenizer)


def _read_at_once(job: JobFile) -> int:
    return job.data.length + (job.model.task == "masked-lm")


def _check_length(job: JobFile, model: nn.Module) -> None:
    read = _read_at_once(job)
    if (positions := positions_of(model)) is not None and read > positions:
        raise UserError(
            f"data.length: the model would read {read} tokens at once, its config is for {positions}: lower it, or "
            "raise model.config.max_position_embeddings"
        )
