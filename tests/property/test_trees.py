"""Merkle trees and tensor digests: what opens is what was hashed, at its index, in a tree of its size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.strategies import tensors
from verification import merkle
from verification.arithmetic.places import BLOCK
from verification.errors import BadEvidence
from verification.tensors import Bundle, Tensor, digest_of, tensor_digest

leaves = st.lists(st.binary(max_size=5), min_size=1, max_size=20)


@given(leaves, st.data())
def test_path_verifies_and_nothing_else_does(values: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(values) - 1))
    root, path = merkle.root("p", values), merkle.path("p", values, index)
    assert merkle.verify_path("p", root, values[index], index, len(values), path) == values[index]
    flipped = [bytes([part[0] ^ 1]) + part[1:] for part in path]
    wrong = [
        ("p", root, values[index] + b"x", index, len(values), path),
        ("q", root, values[index], index, len(values), path),
        ("p", root, values[index], index, len(values) + 1, path),
        ("p", root, values[index], index, len(values), (*path, root)),
        ("p", root, values[index], len(values), len(values), path),
        *(("p", root, values[index], i, len(values), path) for i in range(len(values)) if i != index),
        *(
            ("p", root, values[index], index, len(values), (*path[:i], flipped[i], *path[i + 1 :]))
            for i in range(len(path))
        ),
        *((("p", root, values[index], index, len(values), path[:-1]),) if path else ()),
    ]
    for arguments in wrong:
        _, _, leaf, place, count, siblings = arguments
        is_twin = place != index and place < count == len(values) and values[place] == leaf
        if is_twin and merkle.path("p", values, place) == siblings:
            continue  # an equal leaf with an equal path is proven there as well
        with pytest.raises(BadEvidence):
            merkle.verify_path(*arguments)


@given(leaves, leaves)
def test_roots_bind_the_list(first: list[bytes], second: list[bytes]) -> None:
    assert (merkle.root("p", first) == merkle.root("p", second)) == (first == second)


def test_no_leaves_have_no_root() -> None:
    with pytest.raises(ValueError, match="leaf"):
        merkle.root("p", [])


@given(st.lists(st.sampled_from([0.0, -0.0, 1.5, -1.5]), min_size=1, max_size=8))
def test_negative_zero_has_the_digest_of_zero(values: list[float]) -> None:
    array = np.array(values, dtype="<f4")
    plus = array + np.float32(0)
    assert not np.signbit(plus[plus == 0]).any()
    shape = (len(values),)
    assert tensor_digest(Tensor("float32", shape, array.tobytes())) == tensor_digest(
        Tensor("float32", shape, plus.tobytes())
    )


@given(tensors(), tensors())
def test_digests_bind_dtype_shape_and_bytes(first: Tensor, second: Tensor) -> None:
    is_plain = "float32" not in (first.dtype, second.dtype)
    if is_plain:
        assert (tensor_digest(first) == tensor_digest(second)) == (first == second)


@given(st.integers(1, 3 * BLOCK), st.data())
def test_every_byte_counts(length: int, data: st.DataObject) -> None:
    tensor = Tensor("uint8", (length,), bytes(length))
    place = data.draw(st.integers(0, length - 1))
    other = bytearray(length)
    other[place] = 1
    assert tensor_digest(tensor) != tensor_digest(Tensor("uint8", (length,), bytes(other)))
    assert tensor_digest(tensor) != tensor_digest(Tensor("uint8", (1, length), bytes(length)))
    assert tensor_digest(tensor) != tensor_digest(Tensor("int8", (length,), bytes(length)))


@given(tensors(), tensors())
def test_bundles_bind_order_and_number(first: Tensor, second: Tensor) -> None:
    both = digest_of(Bundle((first, second)))
    assert both != digest_of(Bundle((first,)))
    assert (both == digest_of(Bundle((second, first)))) == (tensor_digest(first) == tensor_digest(second))


@pytest.mark.parametrize(
    ("dtype", "shape", "data"), [("float64", (1,), bytes(8)), ("int8", (1,) * 9, b"x"), ("int8", (2,), b"x")]
)
def test_impossible_tensors_are_refused(dtype: str, shape: tuple[int, ...], data: bytes) -> None:
    with pytest.raises(ValueError, match=r"dtype|dimensions|length"):
        Tensor(dtype, shape, data)
