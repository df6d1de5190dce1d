"""The page that documents the report's schema, made from the dataclasses; `make docs` writes it."""

import dataclasses
import types
from typing import Any, Literal, get_args, get_origin, get_type_hints

from verification.report import schema

INTRODUCTION = """\
# The report's schema, version {version}

<!-- Made from verification/report/schema.py by `make docs`; a test fails when the two differ. -->

`proofswarm report RUN --json FILE` writes one JSON object, a `Report`. Digests and addresses are hexadecimal text,
addresses with `0x`. Money is an integer in the ledger's smallest unit and may exceed 2^53. Times are ledger
milliseconds. Unknown numbers are `null`, never NaN. A reader refuses another `schema_version`, a missing field and
a field that it does not know.
"""


def page() -> str:
    """Return the whole page as Markdown."""
    sections = [INTRODUCTION.format(version=schema.SCHEMA_VERSION)]
    sections += [_section(record) for record in _records(schema.Report)]
    return "\n".join(sections)


def _records(root: Any) -> list[Any]:
    """Return `root` and every dataclass that it holds, each once, in order of first mention."""
    found = [root]
    for record in found:
        for kind in get_type_hints(record).values():
            found += [part for part in _parts(kind) if dataclasses.is_dataclass(part) and part not in found]
    return found


def _parts(kind: Any) -> list[Any]:
    return [kind, *(part for argument in get_args(kind) for part in _parts(argument))]


def _section(record: Any) -> str:
    lines = [f"## {record.__name__}", "", record.__doc__, "", "| field | type | meaning |", "|---|---|---|"]
    for name, kind in get_type_hints(record, include_extras=True).items():
        plain, meaning = get_args(kind)
        lines.append(f"| `{name}` | {_type_name(plain)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _type_name(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        name = kind.__name__  # type: ignore[union-attr]
        return f"[{name}](#{name.lower()})"
    if origin is Literal:
        return ", ".join(f'`"{choice}"`' for choice in arguments)
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"object of {_type_name(arguments[1])}"
    if origin is types.UnionType:
        return " or ".join(_type_name(part) for part in arguments)
    return {int: "integer", float: "number", str: "text", bool: "boolean", type(None): "null"}[kind]
