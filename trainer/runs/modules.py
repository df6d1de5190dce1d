"""A model of the creator's own: a function in a Python file, which runs where a person names the file and nowhere else.

Peers get programs. A run's folder holds the file's digest and not the file, since a folder may be a stranger's.
"""

import hashlib
import importlib.util
import re
import sys
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import InspectLoader
from pathlib import Path

import torch
from torch import nn

from trainer.runs.facts import ModuleFacts
from trainer.runs.lora import transposed_in
from trainer.runs.models import MAX_REASON, logits_of
from verification.errors import ProofswarmError, UserError

_NAME = "model_of_the_run"


@dataclass(frozen=True)
class ModuleFile:
    """A Python file, as its bytes were read, and the name of the function in it that makes the model."""

    path: Path
    function: str
    source: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the source, in hex."""
        return hashlib.sha256(self.source).hexdigest()

    def facts(self, model: nn.Module, seed: int) -> ModuleFacts:
        """Return what a run's folder keeps of the file and the model that it has made."""
        first = {id(value): name for name, value in model.named_parameters()}
        every = model.named_parameters(remove_duplicate=False)
        shared = {name: first[id(value)] for name, value in every if first[id(value)] != name}
        return ModuleFacts(self.path.name, self.digest, self.function, seed, shared, transposed_in(model))

    def build(self, seed: int) -> nn.Module:
        """Run the file and return what its function makes, PyTorch's generator seeded before.

        Raises UserError, in one line, for whatever goes wrong in there, and for what is no float32 module.
        """
        with torch.random.fork_rng(devices=[]), self.blamed("the file"):
            torch.manual_seed(seed)
            module = _executed(self)
            if not callable(function := getattr(module, self.function, None)):
                raise UserError(
                    f"model.module: {self.path} has no function {self.function!r}; name one that it has"
                )
            made = function()
        if not isinstance(made, nn.Module):
            raise UserError(
                f"model.module: {self.function} in {self.path} returns {type(made).__name__}; it must return a "
                "torch.nn.Module"
            )
        for name, parameter in made.named_parameters():
            if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
                raise UserError(
                    f"model.module: parameter {name!r} is {parameter.dtype} on {parameter.device}; make it "
                    "torch.float32 on cpu"
                )
        return made.train()

    @contextmanager
    def blamed(self, what: str) -> Iterator[None]:
        """Raise UserError, with the file's line where one is known, for an error of somebody else's code."""
        try:
            yield
        except ProofswarmError:
            raise
        except (Exception, SystemExit) as error:  # task's edge
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == str(self.path)]
            if isinstance(error, SyntaxError) and error.filename == str(self.path):
                lines.append(error.lineno)
            where = f", line {lines[-1]}" if lines else ""
            reason = " ".join(str(error).split())[:MAX_REASON]
            raise UserError(
                f"model.module: {self.path}{where}: {what} raises {type(error).__name__}: {reason}"
            ) from error

    def tried(self, model: nn.Module, length: int) -> None:
        """Let a model of text read a record of its smallest and its largest token; raises UserError."""
        with self.blamed("forward, on int64 tokens [batch, length],"):
            rows = logits_of(model, torch.zeros(1, length, dtype=torch.int64)).shape[-1]
            logits_of(model, torch.full((1, length), rows - 1))


def read_module(named: str, base: Path) -> ModuleFile:
    """Return what FILE.py:FUNCTION names, relative to `base`; raises UserError."""
    if not (found := re.fullmatch(r"(.+\.py):([^\W\d]\w*)", named)):
        raise UserError(f"model.module: {named!r} names no function of a file: write it as model.py:build")
    path = base / found[1]
    try:
        return ModuleFile(path, found[2], path.read_bytes())
    except OSError as error:
        raise UserError(
            f"model.module: {path}: cannot be read: {error.strerror}; correct the name"
        ) from error


def rebuilt_module(facts: ModuleFacts, path: Path | None) -> nn.Module:
    """Return the model of a run again, from its creator's file; raises UserError unless that is given, unchanged."""
    if path is None:
        raise UserError(
            f"the run's model is made by {facts.function} in {facts.file}, a Python file of who made the run: name it "
            "with --module; it runs on this machine"
        )
    file = read_module(f"{path}:{facts.function}", Path())
    if file.digest != facts.digest:
        raise UserError(
            f"{path}: is not the {facts.file} that the run was made with, SHA-256 {facts.digest}: name that"
        )
    return file.build(facts.seed)


class _Source(InspectLoader):
    """Runs the bytes that were read: no compiled copy beside the file is taken or left."""

    def __init__(self, file: ModuleFile) -> None:
        self.file = file

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.file.source)

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.file.source, str(self.file.path))


def _executed(file: ModuleFile) -> types.ModuleType:
    loader = _Source(file)
    spec = importlib.util.spec_from_loader(_NAME, loader, origin=str(file.path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(file.path)
    sys.modules[_NAME] = module  # dataclasses look themselves up
    loader.exec_module(module)
    return module
