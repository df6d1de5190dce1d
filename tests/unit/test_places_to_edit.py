"""One new thing, one place: the examples of docs/architecture.md, taken from the page, done and taken back."""

import ast
import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from p2p.blobs import BlobStore
from simulator.toy import ToyLibrary, minimal
from tests.checkout import ROOT
from trainer.compute import frames, orders, process
from trainer.exact import native
from trainer.programs import operators
from trainer.programs.float32 import run_in_float32
from trainer.programs.interpreter import LoadedProgram
from trainer.programs.options import Loops, RunOptions
from trainer.programs.tracing.builder import Builder
from verification import bounds, codec, law, spec, statements
from verification import operators as priced
from verification.digest import ZERO
from verification.errors import Refused
from verification.program import work_units
from verification.signed import make_statement, open_statement, sign_statement
from verification.signing import address_of
from verification.state import Member
from verification.statements import WORKER
from verification.units import Amount, Millis, Round

TABLES: list[dict[Any, Any]] = [
    statements.KINDS,
    law.HANDLERS,
    priced.OPERATORS,
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
    exec(code.pop("verification/operators.py"), vars(priced))
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


def test_a_new_statement_kind_is_a_class_and_a_handler() -> None:
    """It has a slot, a bound and a row in the SPEC; it is signed, opened and admitted once, from members alone."""
    code = edits("A new statement kind")
    exec(code.pop("verification/statements.py"), names := {**vars(statements)})
    known = SimpleNamespace(**names)
    exec(code.pop("verification/law.py"), {**vars(law), "statements": known})
    assert not code
    body, member, stranger = known.Greeting(Round(0), "hello"), b"\x01" * 32, b"\x02" * 32
    account = address_of(member)
    state = law.found(minimal(), "toy", account, {}, Amount(40_000), Millis(0))
    state.members[account] = Member(account, WORKER, Amount(10_000), 1, ZERO, "", Round(0))
    assert (body.slot, bounds.most(known.Greeting, state.manifest, 3)) == ("Greeting", 1)
    assert "| Greeting | round | Greet; nothing follows |" in spec.statements()

    def say(secret: bytes, body: Any) -> list[Any]:
        statement = make_statement("toy", state.run, law.head_of(state, body.round), body)
        said = open_statement(sign_statement(secret, statement))
        return law.apply(state, said, Millis(1), ToyLibrary())

    assert say(member, body) == []
    for refused in ((member, known.Greeting(Round(0), "hello again")), (stranger, body)):
        with pytest.raises(Refused, match=r"has spoken in this slot|is no member"):
            say(*refused)


def test_every_file_and_function_that_the_page_names_is_there() -> None:
    page = " ".join((ROOT / "docs/architecture.md").read_text("utf-8").split())
    named = re.findall(r"`([\w/]+\.(?:py|h))`((?: (?:has )?`[\w.]+`)*)", page)
    assert len(named) > 50
    missing = [path for path, _ in named if not (ROOT / path).is_file()]
    for path, names in named:
        if path.endswith(".py") and path not in missing:
            there = set(_defined((ROOT / path).read_text("utf-8")))
            missing += [f"{path} {name}" for name in re.findall(r"`([\w.]+)`", names) if name not in there]
    assert missing == []
    in_picture = re.findall(r"[\[(\"]((?:peer|compute|rounds|programs|p2p)/\w+\.py)", page)
    assert len(in_picture) > 8
    assert [
        path for path in in_picture if not any((ROOT / f / path).is_file() for f in (".", "trainer"))
    ] == []


def _defined(source: str) -> Iterator[str]:
    """Yield the names of a module's functions, classes, methods and constants."""
    for item in ast.parse(source).body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield item.name
        if isinstance(item, ast.ClassDef):
            yield from (f"{item.name}.{part.name}" for part in item.body if hasattr(part, "name"))
        if isinstance(item, ast.Assign):
            yield from (target.id for target in item.targets if isinstance(target, ast.Name))
