"""Programs as bytes: decoding inverts encoding, and arbitrary bytes raise Malformed and nothing else."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verification.errors import Malformed
from verification.program import (
    VERSION,
    Node,
    Output,
    Port,
    Program,
    decode_program,
    encode_program,
    peak_bytes,
    program_digest,
    tables,
    work_units,
)
from verification.tensors import ITEM_BYTES, Tensor

DTYPES = st.sampled_from(sorted(ITEM_BYTES))
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
ATTRIBUTES = st.dictionaries(
    st.text(max_size=4), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3).map(tuple), max_size=3
).map(lambda named: tuple(sorted(named.items())))


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype, shape = draw(DTYPES), draw(SHAPES)
    size = math.prod(shape) * ITEM_BYTES[dtype]
    data = draw(st.binary(min_size=size, max_size=size))
    return Tensor(dtype, shape, bytes(byte & 1 for byte in data) if dtype == "bool" else data)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    inputs = tuple(Port(f"i{n}", draw(DTYPES), draw(SHAPES)) for n in range(draw(st.integers(1, 3))))
    constants = tuple(draw(st.lists(tensors(), max_size=2)))
    nodes: list[Node] = []
    for _ in range(draw(st.integers(0, 6))):
        known = len(inputs) + len(constants) + len(nodes)
        sources = draw(st.lists(st.integers(0, known - 1), max_size=3).map(tuple))
        nodes.append(Node(draw(st.text(max_size=8)), sources, draw(ATTRIBUTES), draw(DTYPES), draw(SHAPES)))
    last = len(inputs) + len(constants) + len(nodes) - 1
    outputs = tuple(Output(f"o{n}", draw(st.integers(0, last))) for n in range(draw(st.integers(1, 3))))
    return Program(VERSION, "exact-14/1", draw(st.text(max_size=8)), inputs, constants, tuple(nodes), outputs)


@given(programs())
def test_decoding_inverts_encoding(program: Program) -> None:
    encoded = encode_program(program)
    assert decode_program(encoded) == program
    assert encode_program(decode_program(encoded)) == encoded
    assert program_digest(encoded) == program_digest(encode_program(program))


@given(programs())
def test_costs_are_defined_for_every_program(program: Program) -> None:
    assert work_units(program) >= len(program.nodes)
    held = [port for number, port in enumerate(program.inputs) if number not in tables(program)]
    assert peak_bytes(program) >= sum(math.prod(p.shape) * ITEM_BYTES[p.dtype] for p in held)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode_program(data)


@given(programs(), st.data())
def test_a_damaged_program_is_malformed_or_another_program(program: Program, data: st.DataObject) -> None:
    encoded = bytearray(encode_program(program))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        found = decode_program(bytes(encoded))
    except Malformed:
        return
    assert encode_program(found) == bytes(encoded)


@given(programs(), st.integers(1, 40))
def test_a_program_cut_short_is_malformed(program: Program, missing: int) -> None:
    encoded = encode_program(program)
    with pytest.raises(Malformed):
        decode_program(encoded[: max(0, len(encoded) - missing)])
