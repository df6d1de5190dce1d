"""One new thing, one place: the examples of docs/architecture.md, taken from the page, done and taken back."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from p2p.blobs import BlobStore
from tests.checkout import ROOT
from trainer.compute import frames, orders, process
from trainer.exact import native
from trainer.programs import operators
from trainer.programs.float32 import run_in_float32
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.options import Loops, RunOptions
from trainer.programs.tracing.builder import Builder
from verification import codec
from verification import operators as law
from verification.program import work_units

TABLES: list[dict[Any, Any]] = [
    law.OPERATORS,
    operators.OPERATORS,
    orders.ORDERS,
    orders.REPLIES,
    process.HANDLERS,
]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What an example adds is gone after it."""
    before = [table.copy() for table in TABLES]
    yield
    for table, old in zip(TABLES, before, strict=True):
        table.clear()
        table.update(old)


def edits(heading: str) -> dict[str, str]:
    """Return the code that the page shows under a heading, by the file that it names."""
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    (block,) = re.findall(rf"^### {heading}\n.*?^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    parts = re.split(r"^# (\S+\.py).*\n", block, flags=re.MULTILINE)
    assert parts[0] == ""
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_a_new_operator_is_a_record_on_either_side() -> None:
    """It is checked, priced, built and run by them: node by node, in loops, and beside PyTorch's own."""
    code = edits("A new operator")
    exec(code.pop("verification/operators.py"), vars(law))
    exec(code.pop("trainer/programs/operators.py"), vars(operators))
    assert not code
    b = Builder()
    x, y = b.port("x", "float32", (6, 40)), b.port("y", "float32", (1, 40))
    program = b.finish("inner", [("z", b.emit("squared_gap", x, b.expand(y, (6, 40))))])
    assert len(program.nodes) == 1  # the expansion was left out
    assert work_units(program) == 1 + 2 * 240
    inputs = [torch.randn(6, 40), torch.randn(1, 40)]
    expected = (inputs[0] - inputs[1]) * (inputs[0] - inputs[1])
    ways = [LoadedProgram(program)]
    if native.compiler() is not None:
        ways.append(LoadedProgram(program, RunOptions(loops=Loops.ALWAYS)))
    for way in ways:
        assert torch.equal(way.run(inputs)[0], expected) and torch.equal(way.run(inputs)[0], expected)
        assert way.is_compiled == (way is not ways[0])
    assert torch.equal(run_in_float32(program, inputs)[0], torch.square(inputs[0] - inputs[1]))


def test_a_new_order_is_a_class_and_a_method(tmp_path: Path) -> None:
    """It is read from a frame, done by its method, and its reply is known to the node."""
    code = edits("A new order")
    exec(code.pop("trainer/compute/orders.py"), names := {**vars(orders)})
    known = SimpleNamespace(**names)
    exec(code.pop("trainer/compute/process.py"), {**vars(process), "orders": known})
    assert not code
    store = BlobStore(tmp_path)
    for blob, here in ((store.put(b"blob"), True), (bytes(32), False)):
        frame = frames.read(io.BytesIO(frames.pack(1, known.HasBlob(blob))))
        assert frame is not None
        order = codec.decode(orders.ORDERS[frame.kind], frame.body)
        reply = process.HANDLERS[type(order)](SimpleNamespace(store=store), order)
        assert reply == known.Found(here)
        answer = frames.read(io.BytesIO(frames.pack(1, reply)))
        assert answer is not None and codec.decode(orders.REPLIES[answer.kind], answer.body) == reply
