"""Bottlenecks at a job's boundaries: how wide rows are there, and the code that an exported model brings for them."""

import inspect
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.programs.tracing import bottleneck
from trainer.programs.tracing.bottleneck import NAME, bottlenecks_in
from trainer.programs.tracing.boundaries import Boundaries, hidden_states, require_called
from trainer.runs.tasks import TASKS
from verification.errors import UserError

CODE = "modeling_bottleneck.py"
BOTTLENECKS = "bottlenecks"
"""The key of an exported config that says where they are."""
_MODEL = """

from {config.__module__} import {config.__name__}
from {model.__module__} import {model.__name__}


class BottleneckConfig({config.__name__}):
    model_type = "{model_type}"


class BottleneckModel({model.__name__}):
    config_class = BottleneckConfig

    def __init__(self, config):
        super().__init__(config)
        add_bottlenecks(self, config.{key})
"""
"""What makes of a class of transformers one with bottlenecks."""


def sizes_at(
    model: nn.Module, boundaries: Boundaries, call: Callable[[], object]
) -> dict[str, tuple[int, int]]:
    """Return how many numbers rows have behind each module of boundaries, and are to have within a bottleneck there.

    `call` has the model compute something. Raises UserError for a module that this does not call, that makes no float32
    rows or none wider than a bottleneck, and for one that cannot have a bottleneck.
    """
    wide: dict[str, int] = {}

    def noting(name: str) -> Any:
        def note(module: nn.Module, given: object, made: Any) -> None:
            wide[name] = hidden_states(name, made).shape[-1]

        return note

    with ExitStack() as hooks, torch.no_grad():
        for name in boundaries.after:
            module = model.get_submodule(name)
            _require_room(name, module)
            hooks.callback(module.register_forward_hook(noting(name)).remove)
        call()
    require_called(boundaries, wide)
    for name, numbers in wide.items():
        if numbers <= boundaries.width:
            raise UserError(
                f"model.boundaries.width: {boundaries.width} is not below the {numbers} numbers that {name} makes of a "
                "token: lower it, or leave it out"
            )
    return {name: (wide[name], boundaries.width) for name in boundaries.after}


def _require_room(name: str, module: nn.Module) -> None:
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        raise UserError(
            f"model.boundaries.width: {name} is a {type(module).__name__}, which would take a bottleneck for one of "
            "its parts: name a module of another class"
        )
    if hasattr(module, NAME):
        raise UserError(
            f"model.boundaries.width: {name} has a {NAME} of its own, which is the name of a bottleneck: rename it"
        )


def write_code(folder: Path, more: str = "") -> None:
    """Write the code of bottlenecks, and more behind it, into an exported model's folder."""
    (folder / CODE).write_text(inspect.getsource(bottleneck) + more, encoding="utf-8")


def write_model_code(model: nn.Module, task: str, folder: Path) -> None:
    """Write the same with a class of transformers, and name it in the config that a model was saved with.

    Its `model_type` is none that transformers has, so that nobody loads the model without its bottlenecks unawares.
    """
    of_model: Any = model
    config, path = type(of_model.config), folder / "config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    model_type = f"{saved['model_type']}-bottleneck"
    write_code(
        folder, _MODEL.format(config=config, model=type(model), model_type=model_type, key=BOTTLENECKS)
    )
    module = CODE.removesuffix(".py")
    saved |= {
        "model_type": model_type,
        "architectures": ["BottleneckModel"],
        "auto_map": {
            "AutoConfig": f"{module}.BottleneckConfig",
            TASKS[task].auto_class: f"{module}.BottleneckModel",
        },
        BOTTLENECKS: bottlenecks_in(model),
    }
    path.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
