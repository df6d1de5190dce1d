"""Any report survives JSON text unchanged, and every view takes it."""

import dataclasses
import io
import json
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from verification.errors import UserError
from verification.report import html, terminal
from verification.report.encoding import from_json, to_json
from verification.report.schema import SCHEMA_VERSION, Report

STEADY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
text = st.text(max_size=12)
number = st.integers(-(2**63) + 1, 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)


def of(kind: Any) -> st.SearchStrategy[Any]:
    """Return the values of a type as the schema uses it: bounded integers, finite floats, short lists."""
    plain = {str: text, int: number, float: finite, bool: st.booleans(), type(None): st.none()}
    if kind in plain:
        return plain[kind]
    if dataclasses.is_dataclass(kind):
        return st.builds(kind, **{name: of(inner) for name, inner in get_type_hints(kind).items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(of(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(text, of(arguments[1]), max_size=3)
    return st.one_of(*map(of, arguments))


reports = of(Report).map(lambda report: dataclasses.replace(report, schema_version=SCHEMA_VERSION))
json_values = st.recursive(
    st.none() | st.booleans() | number | finite | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@STEADY
@given(reports)
def test_reading_inverts_writing(report: Report) -> None:
    written = json.dumps(to_json(report), allow_nan=False)
    assert from_json(json.loads(written)) == report


@pytest.mark.slow
@STEADY
@given(reports)
def test_every_view_takes_every_report(report: Report) -> None:
    page = html.render(report)
    page.encode("utf-8")
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(terminal.tables(report))


@STEADY
@given(json_values, st.sampled_from(["", "rounds", "parameters", "money", "result", "evaluation"]))
def test_any_json_value_is_read_or_refused(value: object, field: str) -> None:
    whole: object = {"schema_version": SCHEMA_VERSION, field: value} if field else value
    complaint = ""
    try:
        from_json(whole)
    except UserError as error:
        complaint = str(error)
    assert len(complaint.splitlines()) <= 1
