"""What a run's folder keeps about its model (model.json), for whoever exports or judges it."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from trainer.folder import RunFolder
from trainer.runs.tasks import Marks
from verification.errors import UserError


@dataclass(frozen=True)
class ModuleFacts:
    """The name of a Python file, its SHA-256 in hex, its function and the seed that make a model, which names of
    parameters stand for the same one as another: {name: the other}, and of LoRA's targets those that are transposed."""

    file: str
    digest: str
    function: str
    seed: int
    shared: dict[str, str]
    transposed: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """The task, the Hugging Face config, the parameters' names in the order of a state, the records' width and dtype,
    what tokens mean to the loss, and how many bytes of text a token stands for where text is known. `lora` is the job's
    [training.lora], `frozen` the digest of the parameters that are not trained, `module` the file that makes the model,
    `bottlenecks` how many numbers a row has outside and inside of those behind some of its modules; None for none."""

    task: str
    config: dict[str, Any]
    parameter_names: tuple[str, ...]
    width: int
    dtype: str
    marks: Marks
    bytes_per_token: float | None
    lora: dict[str, Any] | None = None
    frozen: str | None = None
    module: ModuleFacts | None = None
    bottlenecks: dict[str, tuple[int, int]] | None = None

    @classmethod
    def read(cls, folder: RunFolder) -> "ModelFacts":
        """Return the facts in a run's folder; raises UserError where it has none."""
        if not folder.model.is_file():
            raise UserError(
                f"{folder.path} lacks model.json: only who made the run has it; copy it and tokenizer/ from there"
            )
        facts = json.loads(folder.model.read_text(encoding="utf-8"))
        module, sizes = facts.get("module"), facts.get("bottlenecks")
        parsed = {
            "parameter_names": tuple(facts["parameter_names"]),
            "marks": Marks(**facts["marks"]),
            "module": None if module is None else ModuleFacts(**module),
            "bottlenecks": None if sizes is None else {name: tuple(each) for name, each in sizes.items()},
        }
        return cls(**{**facts, **parsed})

    def write(self, folder: RunFolder) -> None:
        """Write the facts into a run's folder."""
        folder.model.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
