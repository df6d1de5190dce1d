"""Frozen bytes, one file per attack: each is refused by the error it names, or convicts its author.

The files are made by `python -m tests.make_vectors`, which nobody runs but to add an attack: old bytes must go on being
judged as they were.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from simulator.toy import minimal
from verification import codec, errors, merkle
from verification.evidence.retrial import verify
from verification.signed import open_statement

FOLDER = Path(__file__).parents[1] / "vectors" / "disputes"
VECTORS: list[dict[str, Any]] = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
minimal()  # makes the toy programs known


def check(vector: dict[str, Any]) -> str:
    """Return the verdict on a vector's bytes."""
    data = bytes.fromhex(vector["data"])
    if vector["check"] == "statement":
        open_statement(data)
        return ""
    if vector["check"] == "path":
        purpose, root, leaf, index, count, path = codec.unpack(data)
        merkle.verify_path(purpose, root, leaf, index, count, path)
        return ""
    verify(data)
    return "guilty"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["attack"]))
def test_an_attack_is_refused_by_name(vector: dict[str, Any]) -> None:
    expected = vector["expect"]
    if expected in ("", "guilty"):
        assert check(vector) == expected
        return
    with pytest.raises(errors.Violation) as caught:
        check(vector)
    assert type(caught.value).__name__ == expected


def test_the_vectors_are_all_there() -> None:
    assert len(VECTORS) == 49
    assert all((FOLDER / f"{vector['attack']}.json").is_file() for vector in VECTORS)
    assert sum(vector["expect"] in ("", "guilty") for vector in VECTORS) == 8
