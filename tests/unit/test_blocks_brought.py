"""What evidence may bring: blocks of an input as long as their numbers, and none of an input without numbers."""

from dataclasses import dataclass

import pytest

from verification import merkle
from verification.digest import ZERO
from verification.errors import BadEvidence
from verification.manifest import Place
from verification.narrowing import Tracing
from verification.operators import ARITHMETIC
from verification.program import VERSION, Node, Output, Port, ProgramHead
from verification.referee import Execution, Reader, result_of
from verification.statements import OpenedBlock, OpenedInput
from verification.tensors import bundle_digest, tensor_of_root
from verification.units import Count, Digest


@dataclass(frozen=True)
class Brought:
    """One node that joins two working inputs, of which the first is brought as a block with some bytes."""

    shape: tuple[int, ...]
    data: bytes

    def reader(self) -> Reader:
        """Return the reader; the agreed state holds whatever digest the bytes lead to, as two liars may agree."""
        counts = tuple(map(Count, self.shape))
        root = merkle.root("row", [merkle.root("block", [self.data])]) if self.shape[0] else None
        digests = [tensor_of_root("float32", counts, root), Digest(b"o" * 32)]
        ports = Port("a", "float32", counts), Port("b", "float32", (Count(1), Count(4)))
        outputs = (Output("a", Count(2)),)
        head = ProgramHead(VERSION, ARITHMETIC, "inner", ports, outputs, Count(0), Count(1))
        shape = (Count(self.shape[0] + 1), Count(4))
        node = Node("concatenate", (Count(0), Count(1)), (("dim", (0,)),), "float32", shape)
        execution = Execution(Place.STEP, ZERO, ZERO, bundle_digest(digests))
        tracing = Tracing(ZERO, 2, 1, ZERO, ZERO, 0, 1, (), (), None)
        block = OpenedBlock(Count(0), Count(0), self.data, (), ())
        path = merkle.path("bundle", digests, 0)
        opened = OpenedInput(Count(0), path, (block,))
        return Reader(
            execution, head, tracing, node, result_of(head, 2, node, ports), _no_constants, [opened]
        )


def _no_constants(number: int) -> Digest:
    raise AssertionError(number)


def test_a_whole_block_is_read() -> None:
    read = Brought((1, 4), b"\0\0\x80?" * 4).reader()
    assert [read(0, index) for index in range(4)] == [1.0] * 4
    read.require_all_read()


@pytest.mark.parametrize("size", [0, 1, 12, 15, 17, 20])
def test_a_block_of_another_length_is_refused(size: int) -> None:
    """Its digest may be agreed: the law must not read past its end."""
    with pytest.raises(BadEvidence, match="length"):
        Brought((1, 4), bytes(size)).reader()


def test_an_input_without_numbers_has_no_blocks() -> None:
    with pytest.raises(BadEvidence, match="no numbers"):
        Brought((0, 4), b"").reader()
