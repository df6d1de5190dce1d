"""Random values of every schema that the codec reads."""

import dataclasses
import enum
import types
import typing
from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from trainer.programs.options import Loops, RunOptions
from verification import statements, units
from verification.manifest import Post
from verification.tensors import ITEM_BYTES, Bundle, Tensor
from verification.units import Count

INTEGERS = {
    units.Amount: 2**62, units.Count: 2**53, units.Round: 2**31, units.Millis: 2**53, units.PPM: units.MILLION,
}  # fmt: skip
BYTES = {units.Digest: 32, units.Address: 20, units.Signature: 65}


@st.composite
def tensors(draw: st.DrawFn, dtype: str | None = None) -> Tensor:
    """Return a small tensor of any dtype and shape."""
    chosen = dtype or draw(st.sampled_from(sorted(ITEM_BYTES)))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = ITEM_BYTES[chosen]
    for size in shape:
        count *= size
    data = draw(st.binary(min_size=count, max_size=count))
    body = bytes(byte & 1 for byte in data) if chosen == "bool" else data
    return Tensor(chosen, tuple(Count(size) for size in shape), body)


bundles = st.lists(tensors(), min_size=1, max_size=3).map(lambda parts: Bundle(tuple(parts)))


def of(schema: Any) -> st.SearchStrategy[Any]:
    """Return values of a schema."""
    if schema in BYTES:
        return st.binary(min_size=BYTES[schema], max_size=BYTES[schema])
    if schema in INTEGERS:
        return st.integers(0, INTEGERS[schema])
    if schema is Bundle:
        return bundles
    if schema is Tensor:
        return tensors()
    if schema in (bool, type(None)):
        return st.booleans() if schema is bool else st.none()
    if schema is RunOptions:
        devices = st.sampled_from(["cpu", "cuda", "cuda:7"])
        return st.builds(RunOptions, devices, of(Count | None), of(Loops), st.text(max_size=9))
    if schema is statements.Join:
        alike = of(units.Amount), st.integers(1, 2**53), of(units.Digest), st.text(max_size=20)
        verifiers = st.builds(statements.Join, st.just(statements.VERIFIER), *alike)
        workers = st.builds(statements.Join, st.just(statements.WORKER), *alike, of(Post | None))
        return st.one_of(workers, verifiers)
    if isinstance(schema, type) and issubclass(schema, enum.StrEnum):
        return st.sampled_from(schema)
    if dataclasses.is_dataclass(schema):
        hints = get_type_hints(schema)
        fields = [of(hints[field.name]) for field in dataclasses.fields(schema)]
        return st.builds(typing.cast(Any, schema), *fields)
    if get_origin(schema) is tuple:
        first, *rest = get_args(schema)
        if rest == [Ellipsis]:
            return st.lists(of(first), max_size=3).map(tuple)
        return st.tuples(of(first), *map(of, rest))
    if schema is type(None):
        return st.none()
    if get_origin(schema) in (types.UnionType, typing.Union):
        return st.one_of(*(of(part) for part in get_args(schema)))
    return {bytes: st.binary(max_size=40), str: st.text(max_size=20), int: st.integers(-(2**63), 2**63 - 1)}[
        schema
    ]


bodies = st.one_of(*(of(kind) for kind in statements.KINDS.values()))
