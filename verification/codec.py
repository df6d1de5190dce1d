"""Canonical msgpack: a message is a frozen dataclass, its encoding the array of its fields in declared order.

A StrEnum is encoded as its value. A union is read as the first of its parts that fits, so its parts must not overlap.

msgpack alone is not canonical (`cc 01` and `01` both decode to 1), so `decode` re-encodes what it read and refuses
bytes that differ. Hash and sign received bytes, never a re-encoding. (SPEC.md 1.2)
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgpack

from verification import units
from verification.errors import Malformed

T = TypeVar("T")
MAX_MESSAGE = 1 << 20
"""Bytes that a message may have unless its reader says otherwise."""

MAX_ITEMS = 1 << 22
"""Items in all arrays of a message: a byte may stand for a whole object, so bytes alone do not bound memory."""

_INT_RANGES: dict[Any, tuple[int, int]] = {
    int: (-(2**63), 2**63 - 1),
    units.Amount: (0, units.MAX_AMOUNT),
    units.Count: (0, 2**53),
    units.Round: (0, 2**31),
    units.Millis: (0, 2**53),
    units.PPM: (0, units.MILLION),
}
_BYTE_LENGTHS: dict[Any, int] = {units.Digest: 32, units.Address: 20, units.Signature: 65}


def encode(value: object) -> bytes:
    """Return the canonical encoding of a dataclass instance (or a plain value)."""
    return typing.cast(bytes, msgpack.packb(_to_plain(value), use_bin_type=True))


def decode(schema: type[T], data: bytes, limit: int = MAX_MESSAGE) -> T:
    """Return the instance of dataclass `schema` that `data` encodes.

    Raises Malformed when the bytes are longer than `limit`, do not match the schema, or are not canonical.
    """
    value = _read(typing.cast(Any, schema))(unpack(data, limit))
    if encode(value) != data:
        raise Malformed("encoding is not canonical")
    return typing.cast(T, value)


def unpack(data: bytes, limit: int = MAX_MESSAGE) -> Any:
    """Return the plain msgpack value in `data`; raises Malformed. The caller still owes the canonicity check."""
    if len(data) > limit:
        raise Malformed(f"message of {len(data)} bytes is over the limit of {limit}")
    room = MAX_ITEMS

    def counted(items: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal room
        room -= len(items) + 1
        if room < 0:
            raise ValueError("too many items")
        return items

    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=False,
            list_hook=counted,
            object_pairs_hook=_no_map,
            max_array_len=MAX_ITEMS,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise Malformed(f"not msgpack: {type(error).__name__}") from error


def _no_map(pairs: object) -> None:
    raise ValueError("no message has maps")


def _to_plain(value: object) -> object:
    names = _field_names(typing.cast(Any, type(value)))
    if names is not None:
        return tuple([_to_plain(getattr(value, name)) for name in names])
    if isinstance(value, tuple | list):
        return tuple(_to_plain(item) for item in value)
    return value


@functools.cache
def _field_names(kind: Any) -> tuple[str, ...] | None:
    """Return a dataclass's fields in declared order; None for any other type."""
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None


@functools.cache
def _read(schema: Any) -> Callable[[Any], Any]:
    """Compile the reader of one schema; a reader takes a plain value and returns the typed one or raises Malformed."""
    if schema in _BYTE_LENGTHS:
        return functools.partial(_read_bytes, _BYTE_LENGTHS[schema])
    if schema in _INT_RANGES:
        return functools.partial(_read_int, *_INT_RANGES[schema])
    if isinstance(schema, type) and dataclasses.is_dataclass(schema):
        hints = get_type_hints(schema)
        readers = [_read(hints[field.name]) for field in dataclasses.fields(schema)]
        return functools.partial(_read_fields, schema, readers)
    origin = get_origin(schema)
    if origin is tuple:
        return functools.partial(_read_tuple, get_args(schema))
    if origin in (types.UnionType, typing.Union):
        return _union_reader(get_args(schema))
    if isinstance(schema, type) and issubclass(schema, StrEnum):
        return functools.partial(_read_enum, schema)
    if schema in (bytes, str, bool):
        return functools.partial(_read_exactly, schema)
    raise TypeError(f"no reader for schema {schema!r}")


def _union_reader(parts: Sequence[Any]) -> Callable[[Any], Any]:
    readers = [_read(part) for part in parts if part is not type(None)]
    read = readers[0] if len(readers) == 1 else functools.partial(_read_union, readers)
    return read if len(readers) == len(parts) else lambda plain: None if plain is None else read(plain)


def _read_union(readers: Sequence[Callable[[Any], Any]], plain: Any) -> Any:
    """Return what the first part makes of a value that fits; raises the last part's Malformed."""
    for reader in readers[:-1]:
        try:
            return reader(plain)
        except Malformed:
            continue
    return readers[-1](plain)


def _read_enum(schema: type[StrEnum], plain: Any) -> StrEnum:
    try:
        return schema(_read_exactly(str, plain))
    except ValueError:
        raise Malformed(f"there is no such {schema.__name__}") from None


def _read_exactly(kind: type, plain: Any) -> Any:
    if type(plain) is not kind:
        raise Malformed(f"expected {kind.__name__}, got {type(plain).__name__}")
    return plain


def _read_bytes(length: int, plain: Any) -> bytes:
    if type(plain) is not bytes or len(plain) != length:
        raise Malformed(f"expected {length} bytes")
    return plain


def _read_int(low: int, high: int, plain: Any) -> int:
    if type(plain) is not int or not low <= plain <= high:
        raise Malformed(f"expected an integer in {low}..{high}")
    return plain


def _read_tuple(arguments: tuple[Any, ...], plain: Any) -> tuple[Any, ...]:
    if type(plain) is not tuple:
        raise Malformed("expected an array")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        reader = _read(arguments[0])
        return tuple(reader(item) for item in plain)
    if len(plain) != len(arguments):
        raise Malformed(f"expected {len(arguments)} entries, got {len(plain)}")
    return tuple(_read(kind)(item) for kind, item in zip(arguments, plain, strict=True))


def _read_fields(schema: type, readers: list[Callable[[Any], Any]], plain: Any) -> Any:
    if type(plain) is not tuple or len(plain) != len(readers):
        raise Malformed(f"expected {len(readers)} fields of {schema.__name__}")
    try:
        return schema(*(reader(item) for reader, item in zip(readers, plain, strict=True)))
    except ValueError as error:
        raise Malformed(f"{schema.__name__}: {error}") from error
