"""Where a job's boundaries stand in its model: behind blocks that it names, or evenly between the repeated ones."""

from torch import nn

from trainer.programs.tracing.boundaries import Boundaries
from trainer.runs.job import BoundariesSection
from verification.errors import UserError


def boundaries_of(model: nn.Module, section: BoundariesSection | None) -> Boundaries | None:
    """Return the boundaries of a job's [model.boundaries]; None where it has none.

    Raises UserError for blocks that the model lacks, and for more boundaries than stand between its blocks.
    """
    if section is None:
        return None
    after = (
        _between(model, section.count) if section.count is not None else _named(model, section.after or [])
    )
    return Boundaries(tuple(after), section.bits, section.chunk or 0, section.width or 0)


def blocks_of(model: nn.Module) -> list[str]:
    """Return the names of a model's repeated blocks: of its lists of modules of one class that with the most
    parameters; none where it has no such list."""
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        blocks = list(module.named_children()) if isinstance(module, nn.ModuleList | nn.Sequential) else []
        if len(blocks) > 1 and len({type(block) for _, block in blocks}) == 1:
            size = sum(parameter.numel() for parameter in module.parameters())
            found.setdefault(size, [f"{name}.{own}" if name else own for own, _ in blocks])
    return found[max(found)] if found and max(found) else []


def _between(model: nn.Module, count: int) -> list[str]:
    """Return after which blocks `count` boundaries stand, as evenly spaced as may be."""
    blocks = blocks_of(model)
    if not blocks:
        raise UserError(
            "model.boundaries.count: the model has no list of repeated blocks: name modules in model.boundaries.after"
        )
    if count >= len(blocks):
        raise UserError(
            f"model.boundaries.count: between {len(blocks)} blocks stand {len(blocks) - 1} boundaries at most: take "
            "fewer"
        )
    parts = count + 1
    return [blocks[(2 * place * len(blocks) + parts) // (2 * parts) - 1] for place in range(1, parts)]


def _named(model: nn.Module, after: str | list[str]) -> list[str]:
    named = [after] if isinstance(after, str) else after
    known, blocks = {name for name, _ in model.named_modules() if name}, blocks_of(model)
    hint = f"blocks are {blocks[0]} to {blocks[-1]}" if blocks else "name one that the model has"
    for name in named:
        if name not in known:
            raise UserError(f"model.boundaries.after: no module is called {name!r}; {hint}")
    if len(set(named)) < len(named):
        raise UserError("model.boundaries.after: names a module twice; one boundary stands there")
    return named
