"""The schema: strict reading with one-line errors, and a page of documentation that cannot drift."""

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sample_report import sample
from verification.errors import UserError
from verification.report.encoding import from_json, to_json
from verification.report.reference import page

ROOT = Path(__file__).resolve().parents[2]


def test_a_report_survives_json_text() -> None:
    assert from_json(json.loads(json.dumps(to_json(sample()), allow_nan=False))) == sample()


def test_the_documentation_is_the_one_the_dataclasses_give() -> None:
    written = (ROOT / "docs" / "report-schema.md").read_text("utf-8")
    assert written == page(), "run `make docs`"


Change = Callable[[dict[str, Any]], object]
WRONG: list[tuple[Change, str]] = [
    (lambda value: value.update(schema_version=1), "schema version '1'"),
    (lambda value: value.update(schema_version=True), "schema version"),
    (lambda value: value.pop("schema_version"), "no schema_version"),
    (lambda value: value.pop("run"), "'run' is missing"),
    (lambda value: value.update(extra=1), "'extra' is missing or unknown"),
    (lambda value: value.update(rounds={}), "report.rounds: expected a list"),
    (lambda value: value["rounds"][3].update(loss="1.0"), "report.rounds[3].loss: expected a finite number"),
    (lambda value: value["rounds"][3].update(loss=math.inf), "expected a finite number"),
    (lambda value: value["rounds"][3].update(loss=10**400), "expected a finite number"),
    (lambda value: value["rounds"][0].update(number=1.0), "report.rounds[0].number: expected an integer"),
    (lambda value: value["rounds"][0].update(number=2**63), "number: expected an integer of 64 bits"),
    (lambda value: value["parameters"].update(x=2**63), "'x': expected an integer of 64 bits"),
    (lambda value: value["rounds"][0].update(number=True), "report.rounds[0].number: expected an integer"),
    (lambda value: value["disputes"][0].update(verdict="maybe"), "expected one of guilty"),
    (lambda value: value["disputes"][0].update(verdict=[]), "expected one of guilty"),
    (lambda value: value["disputes"][0].update(moves=[None]), "moves[0]: expected an object"),
    (lambda value: value.update(money=None), "report.money: expected an object"),
    (lambda value: value["parameters"].update(x=1.5), "report.parameters.'x': expected an integer or text"),
    (lambda value: value.update(parameters=[]), "report.parameters: expected an object"),
    (lambda value: value["result"].update(ok=1), "report.result.ok: expected true or false"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_changed_report_is_refused_in_one_line(change: Change, message: str) -> None:
    value = copy.deepcopy(to_json(sample()))
    change(value)
    with pytest.raises(UserError) as caught:
        from_json(value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "x", 3, {}])
def test_what_is_no_report_is_refused(value: object) -> None:
    with pytest.raises(UserError, match="no proofswarm report"):
        from_json(value)


def test_numbers_that_are_not_finite_never_leave() -> None:
    report = sample()
    broken = dataclasses.replace(report, rounds=(dataclasses.replace(report.rounds[0], loss=math.nan),))
    with pytest.raises(ValueError, match="finite"):
        to_json(broken)
