"""What a job's [model] asks for: a config's model, a checkpoint's, or a Python file's; and what is trained of it."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from trainer.programs.conversion import to_torch
from trainer.programs.tracing.bottleneck import add_bottlenecks, bottlenecks_in
from trainer.programs.tracing.capture import Loss, TracedRun
from trainer.programs.tracing.parameters import trained_parameters
from trainer.runs.bottlenecks import sizes_at
from trainer.runs.boundaries import boundaries_of
from trainer.runs.checkpoints import config_in, load_checkpoint
from trainer.runs.data.tokenizing import loads_beside
from trainer.runs.facts import ModelFacts
from trainer.runs.frozen import frozen_digest
from trainer.runs.inputs import RunData
from trainer.runs.job import JobFile
from trainer.runs.lora import add_lora, all_called
from trainer.runs.models import build_model, config_of, read_config
from trainer.runs.modules import ModuleFile, read_module
from trainer.runs.tasks import TASKS, Marks


@dataclass(frozen=True)
class ChosenModel:
    """A job's model; the config that it is built from, {} where the Python file `file` makes it."""

    job: JobFile
    model: nn.Module
    config: dict[str, Any]
    file: ModuleFile | None

    def loss(self, marks: Marks) -> Loss:
        """Return what the model is trained on."""
        return TASKS[self.job.model.task].loss(config_of(self.model), marks)

    def blamed(self) -> AbstractContextManager[None]:
        """Raise UserError for an error of a Python file's code; others pass."""
        return nullcontext() if self.file is None else self.file.blamed("the model")

    def try_on(self, data: RunData) -> None:
        """Let a model of a Python file compute the loss of the record with the largest label, as PyTorch does.

        Raises UserError for a target of LoRA's that this does not call.
        """
        if self.file is not None:
            records = to_torch(data.train.tensor())
            with all_called(self.model):
                self.loss(data.marks)(self.model, records[records[:, -1].argmax()][None].long())

    def narrow(self, data: RunData) -> None:
        """Put bottlenecks into the model where the job's boundaries have a width; raises UserError."""
        boundaries = boundaries_of(self.model, self.job.model.boundaries)
        if boundaries is not None and boundaries.width:
            record = to_torch(data.train.tensor())[:1].long()
            sizes = sizes_at(self.model, boundaries, lambda: self.loss(data.marks)(self.model, record))
            add_bottlenecks(self.model, sizes)

    def let_go(self) -> None:
        """Give back the memory of the parameters that are trained, which the start state has."""
        for parameter in trained_parameters(self.model).values():
            parameter.data = parameter.data.new_empty(0)

    def goes_with(self, tokenizer: Path) -> bool:
        """Return whether transformers makes of a tokenizer's folder the same beside the exported model as alone."""
        return self.file is not None or loads_beside(config_of(self.model), tokenizer)

    def facts(self, traced: TracedRun, data: RunData) -> ModelFacts:
        """Return what exporting and judging the model needs to know."""
        lora, file = self.job.training.lora, self.file
        return ModelFacts(
            self.job.model.task,
            self.config,
            traced.parameter_names,
            data.held_out.width,
            data.held_out.dtype,
            data.marks,
            data.bytes_per_token,
            None if lora is None else lora.model_dump(),
            frozen_digest(self.model),
            None if file is None else file.facts(self.model, self.job.seed),
            bottlenecks_in(self.model) or None,
        )


def chosen_model(job: JobFile, base: Path) -> ChosenModel:
    """Return a job's model, whose relative paths start at `base`; raises UserError."""
    if job.model.module is not None:
        return _of_file(job, read_module(job.model.module, base))
    config = _config(job, base)
    if job.model.checkpoint is None:
        model = build_model(config, job.seed, job.model.task)
    else:
        model = load_checkpoint(base / job.model.checkpoint, config, job.model.task)
    if job.training.lora is not None:
        add_lora(model, job.training.lora, job.seed)
    return ChosenModel(job, model, config, None)


def _of_file(job: JobFile, file: ModuleFile) -> ChosenModel:
    model = file.build(job.seed)
    if job.data.images is None:
        file.tried(model, job.data.length)
    if job.training.lora is not None:
        add_lora(model, job.training.lora, job.seed)
    return ChosenModel(job, model, {}, file)


def _config(job: JobFile, base: Path) -> dict[str, Any]:
    if job.model.checkpoint is not None:
        return config_in(base / job.model.checkpoint) | job.model.config
    if job.model.config_file is None:
        return dict(job.model.config)
    return read_config(base / job.model.config_file)
