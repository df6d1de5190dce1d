"""The tables of the SPEC that are made from the code: `make docs` writes them, and a test fails when they differ."""

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from verification.cases import CASES
from verification.law import HANDLERS
from verification.operators import OPERATORS
from verification.placed import OfRound
from verification.transitions import TRANSITIONS, never

PAGES = ("SPEC.md", "SPEC-ledger.md", "SPEC-honest.md", "SPEC-economics.md")
"""The pages of the SPEC. Rules are numbered across all of them."""

CONSTANTS = {
    "manifest": (
        "PROTOCOL_VERSION",
        "MAX_COMMITTEE",
        "MAX_ROUNDS",
        "MAX_SLOTS",
        "MAX_VERIFIERS",
        "MAX_RECORDS",
        "MAX_WINDOW",
        "MAX_GRADES",
    ),
    "codec": ("MAX_MESSAGE", "MAX_ITEMS"),
    "statements": ("MAX_STATEMENT", "MAX_ENTRIES"),
    "content": ("CHUNK_BYTES",),
    "arithmetic.places": ("BLOCK", "MAX_DIMENSIONS"),
    "program": ("MAX_ELEMENTS", "MAX_PROGRAM"),
    "sampling": ("SPREAD", "SLACK"),
    "outer": ("SHARE", "CLIP_UNIT"),
    "state": ("RECENT_ROUNDS",),
    "units": ("MILLION", "MAX_AMOUNT"),
    "ledger.local": ("FORMAT", "APPLICATION", "BUSY_SECONDS"),
    "ledger.served": ("MAX_SAID", "ANSWER_BYTES", "ANSWER_ENTRIES"),
    "ledger.view": ("RUNS_ON",),
    "ledger.heads": ("PURPOSE", "FORK"),
}
"""The numbers that another implementation must share, by module of `verification`."""


def renewed(text: str) -> str:
    """Return a page with every table made anew; raises KeyError for markers of a table that is not made here."""

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}{TABLES[found[2]]()}\n{found[3]}"

    return re.sub(r"(<!-- (\w+): made by `make docs` -->\n).*?(<!-- end -->)", table, text, flags=re.DOTALL)


def transitions() -> str:
    """Return the transitions in their order."""
    rows = [
        (str(number), each.name, _told(each.deadline), _told(each.is_ready), _told(each.run))
        for number, each in enumerate(TRANSITIONS, 1)
    ]
    return _table(("", "transition", "at", "earlier, when", "what happens"), rows)


def cases() -> str:
    """Return the cases of an audit in their order."""
    rows = [(case.name, case.outcome.value, "; ".join(deed.value for deed in case.deeds)) for case in CASES]
    return _table(("case", "outcome", "what follows"), rows)


def statements() -> str:
    """Return the kinds of statements with the rule of each, and what bounds it."""
    rows = [
        (
            kind.__name__, "round" if issubclass(kind, OfRound) else "run", _told(process),
            kind.once.value, kind.price, "no" if kind.begins else "yes",
        )
        for kind, process in HANDLERS.items()
    ]  # fmt: skip
    head = ("kind", "of the", "what it does", "one sender says one for", "it costs", "also of the excluded")
    return _table(head, rows)


def operators() -> str:
    """Return what a node of each operator costs."""
    costs: dict[str, list[str]] = {}
    for name, operator in sorted(OPERATORS.items(), key=lambda item: (item[1].price, item[0])):
        price = "n" if operator.price == 1 else f"{operator.price}n"
        cost = "1" if operator.is_view else "1 + 2MKN" if operator.multiplies else f"1 + {price}"
        costs.setdefault(cost, []).append(name)
    return _table(("work units", "operators"), [(cost, ", ".join(names)) for cost, names in costs.items()])


def constants() -> str:
    """Return the constants with their values and modules."""
    rows = [
        (name, repr(getattr(importlib.import_module(f"verification.{module}"), name)), module)
        for module, names in CONSTANTS.items()
        for name in names
    ]
    return _table(("name", "value", "in"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "transitions": transitions,
    "cases": cases,
    "statements": statements,
    "operators": operators,
    "constants": constants,
}


def _told(function: Callable[..., Any]) -> str:
    """Return what a function is or does, in its own first words and with its rules' numbers."""
    if function is never:
        return ""
    doc = function.__doc__ or ""
    rules = re.findall(r"\(SPEC\.md ([^)]*)\)", doc)
    first = re.split(r"\.\s|\.$|; raises", " ".join(doc.split("\n\n")[0].split()))[0]
    first = re.sub(r" \(SPEC\.md [^)]*\)", "", first)
    return f"{first} ({', '.join(rules)})" if rules else first


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
