"""The SPEC and the code name the same rules and the same constants."""

import importlib
import re
from pathlib import Path

from verification.spec import CONSTANTS, PAGES, TABLES, renewed

ROOT = Path(__file__).resolve().parents[2]
SPEC = "".join((ROOT / "verification" / page).read_text() for page in PAGES)
RULES = re.findall(r"^\*\*(\d+\.\d+) ", SPEC, re.MULTILINE)
SECTIONS = re.findall(r"^## (\d+) ", SPEC, re.MULTILINE)


def cited() -> dict[str, set[str]]:
    """Return the rules cited in the code, with the files that cite them."""
    found: dict[str, set[str]] = {}
    for package in ("verification", "p2p", "trainer"):
        for path in (ROOT / package).rglob("*.py"):
            for numbers in re.findall(r"SPEC\.md\s+(\d+(?:\.\d+)?(?:,\s+\d+(?:\.\d+)?)*)", path.read_text()):
                for number in re.split(r",\s+", numbers):
                    found.setdefault(number, set()).add(path.name)
    return found


def test_every_cited_rule_exists() -> None:
    known = {*RULES, *SECTIONS}
    assert {number: files for number, files in cited().items() if number not in known} == {}


def test_every_rule_is_cited() -> None:
    assert [rule for rule in RULES if rule not in cited()] == []


def test_rules_are_numbered_in_order_without_gaps() -> None:
    numbers = [tuple(map(int, rule.split("."))) for rule in RULES]
    assert len(numbers) == len(set(numbers))
    for section in {section for section, _ in numbers}:
        within = [rule for s, rule in numbers if s == section]
        assert within == list(range(1, len(within) + 1))


def test_every_constant_of_the_text_is_in_the_table() -> None:
    listed = {name for names in CONSTANTS.values() for name in names}
    prose = re.sub(r"^\|.*$|<!--.*-->", "", SPEC, flags=re.MULTILINE)
    assert set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", prose)) - listed == set()


def test_ranges_and_lengths_are_the_codec_s() -> None:
    codec = importlib.import_module("verification.codec")
    limits = {kind.__name__: high for kind, (low, high) in codec._INT_RANGES.items() if low == 0}
    assert limits == {"Amount": 2**62, "Count": 2**53, "Round": 2**31, "Millis": 2**53, "PPM": 1_000_000}
    assert {kind.__name__: n for kind, n in codec._BYTE_LENGTHS.items()} == {
        "Digest": 32,
        "Address": 20,
        "Signature": 65,
    }


def test_the_tables_are_the_ones_that_the_code_gives() -> None:
    assert renewed(SPEC) == SPEC
    assert set(re.findall(r"^<!-- (\w+): made by `make docs` -->$", SPEC, re.MULTILINE)) == set(TABLES)


def test_a_table_that_is_out_of_date_is_found() -> None:
    stale = SPEC.replace("| equal leaves and contribution | passed |", "| equal leaves | passed |")
    assert stale != SPEC
    assert renewed(stale) == SPEC
