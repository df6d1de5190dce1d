"""Reports to JSON values and back. Reading is strict: a report that was changed by hand fails here, by field."""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from verification.errors import UserError
from verification.report.schema import SCHEMA_VERSION, Report

MAX_INTEGER = 2**63 - 1
Reader = Callable[[str, Any], Any]


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON values; raises ValueError when a float is not finite."""
    return typing.cast(dict[str, Any], _plain(report))


def from_json(value: object) -> Report:
    """Return the report that JSON value `value` holds; raises UserError, one line naming the field."""
    if not isinstance(value, dict) or "schema_version" not in value:
        raise UserError("this is no proofswarm report: it has no schema_version")
    version = value["schema_version"]
    if type(version) is not int or version != SCHEMA_VERSION:
        raise UserError(
            f"the report has schema version {str(version)[:20]!r}, this proofswarm reads {SCHEMA_VERSION}: "
            "make it again with `proofswarm report`"
        )
    return typing.cast(Report, _reader(Report)("report", value))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a report holds finite numbers only: write None for an unknown one")
    return value


@functools.cache
def _reader(schema: Any) -> Reader:
    """Compile the reader of one schema; a reader takes the field's path and a JSON value."""
    if schema is float:
        return _read_float
    if schema in (int, str, bool):
        return functools.partial(_read_exactly, schema)
    if dataclasses.is_dataclass(schema):
        return functools.partial(_read_record, schema)
    origin, arguments = get_origin(schema), get_args(schema)
    if origin is Literal:
        return functools.partial(_read_choice, arguments)
    if origin is tuple:
        return functools.partial(_read_list, _reader(arguments[0]))
    if origin is dict:
        return functools.partial(_read_map, _reader(arguments[1]))
    if origin is types.UnionType and len(arguments) == 2:
        return functools.partial(_read_either, arguments)
    raise TypeError(f"no reader for {schema!r}")


def _wrong(path: str, expected: str) -> UserError:
    return UserError(f"{path}: expected {expected}: make the report again with `proofswarm report`")


def _read_exactly(kind: type, path: str, value: Any) -> Any:
    too_large = isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER
    if type(value) is not kind or too_large:
        raise _wrong(path, {int: "an integer of 64 bits", str: "text", bool: "true or false"}[kind])
    return value


def _read_float(path: str, value: Any) -> float:
    try:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise _wrong(path, "a finite number")


def _read_choice(choices: tuple[Any, ...], path: str, value: Any) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise _wrong(path, "one of " + ", ".join(choices))
    return value


def _read_either(kinds: tuple[Any, Any], path: str, value: Any) -> Any:
    """Read `T | None` or `int | str`."""
    if type(None) in kinds:
        if value is None:
            return None
        (kind,) = (kind for kind in kinds if kind is not type(None))
        return _reader(kind)(path, value)
    if type(value) not in kinds:
        raise _wrong(path, " or ".join({int: "an integer", str: "text"}[kind] for kind in kinds))
    return _read_exactly(type(value), path, value)


def _read_list(item: Reader, path: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(path, "a list")
    return tuple(item(f"{path}[{index}]", entry) for index, entry in enumerate(value))


def _read_map(item: Reader, path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise _wrong(path, "an object")
    return {name: item(f"{path}.{name[:40]!r}", entry) for name, entry in value.items()}


def _read_record(schema: Any, path: str, value: Any) -> Any:
    if not isinstance(value, dict):
        raise _wrong(path, "an object")
    hints = get_type_hints(schema)
    if set(value) != set(hints):
        odd = min(str(name)[:40] for name in set(value) ^ set(hints))
        raise _wrong(path, f"exactly the fields of {schema.__name__}, {odd!r} is missing or unknown")
    return schema(**{name: _reader(kind)(f"{path}.{name}", value[name]) for name, kind in hints.items()})
