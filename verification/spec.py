"""The tables of SPEC.md that are made from the code: `make docs` writes them, and a test fails when the two differ."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from verification.cases import CASES
from verification.law import HANDLERS
from verification.statements import OfRound
from verification.transitions import TRANSITIONS, never


def renewed(text: str) -> str:
    """Return SPEC.md with every table made anew; raises KeyError for markers of a table that is not made here."""

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}"

    return re.sub(r"(<!-- (\w+): made by `make docs` -->)\n.*?\n(<!-- end -->)", table, text, flags=re.DOTALL)


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
    """Return the kinds of statements with the rule of each."""
    rows = [
        (kind.__name__, "round" if issubclass(kind, OfRound) else "run", _told(process))
        for kind, process in HANDLERS.items()
    ]
    return _table(("kind", "of the", "what it does"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "transitions": transitions,
    "cases": cases,
    "statements": statements,
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
