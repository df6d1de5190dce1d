"""Frozen attacks on every kind of statement: refused by name with nothing changed, or their author convicted.

`tests/law_vectors.py` says what a vector is. The log pins the law too: what was admitted must be admitted again.
"""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from simulator.memory import MemoryLedger
from simulator.toy import minimal
from simulator.toy_crew import with_crews
from tests.law_vectors import CREWS, FOLDER, OF_CREWS, replay
from verification import law
from verification.effects import Slashed
from verification.errors import Violation
from verification.signed import open_statement
from verification.statements import KINDS
from verification.units import Millis

minimal(chain=70, wide=20, slots=10), with_crews(slots=6)  # makes the toy programs known
VECTORS = [
    (folder, kind, vector)
    for folder, kinds in ((FOLDER, sorted(set(KINDS) - {"Receipt", "Stuck"})), (CREWS, OF_CREWS))
    for kind in kinds
    for vector in json.loads((folder / f"{kind}.json").read_text())
]


@cache
def ledgers(folder: Path) -> dict[int, MemoryLedger]:
    """Return a run's ledger after as many entries as any vector asks for."""
    wanted = {vector["after"] for owner, _, vector in VECTORS if owner == folder}
    log: list[dict[str, Any]] = json.loads((folder / "log.json").read_text())
    return {n: copy.deepcopy(ledger) for n, ledger in enumerate(replay(log), 1) if n in wanted}


@pytest.mark.parametrize(
    ("folder", "kind", "vector"),
    VECTORS,
    ids=lambda part: (
        part["attack"] if isinstance(part, dict) else part if isinstance(part, str) else part.name
    ),
)
def test_an_attack_is_refused_by_name(folder: Path, kind: str, vector: dict[str, Any]) -> None:
    ledger = copy.deepcopy(ledgers(folder)[vector["after"]])
    data, now = bytes.fromhex(vector["data"]), Millis(vector["at"])
    ledger.clock.now = now
    ledger.tick()
    before, effects = copy.deepcopy(ledger.state), len(ledger.effects)
    if vector["expect"] in ("", "guilty"):
        assert ledger.submit(data)
        said = open_statement(data)
        author = said.sender
        assert said.statement.kind == kind
        slashed = {e.address for e in ledger.effects[effects:] if isinstance(e, Slashed)}
        assert (author in slashed) == (vector["expect"] == "guilty")
        return
    with pytest.raises(Violation) as caught:
        law.apply(ledger.state, open_statement(data), now, ledger.library)
    assert type(caught.value).__name__ == vector["expect"]
    assert vector["words"] in str(caught.value)
    assert ledger.state == before


def test_every_kind_has_its_attacks() -> None:
    assert {kind for _, kind, _ in VECTORS} == set(KINDS)
    for kind in KINDS:
        attacks = {vector["attack"] for _, owner, vector in VECTORS if owner == kind}
        assert {"right", "trailing-bytes", "another-runs-signature", "unknown-peer"} <= attacks
    assert sum(vector["expect"] == "guilty" for *_, vector in VECTORS) >= 6
