"""The pages that guide a reader through the code name files and functions that exist, and links that lead somewhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
FILE = r"`([a-z0-9_]+(?:/[a-z0-9_]+)+\.py)`"
PLACE = re.compile(FILE + r"\s+`([A-Za-z_]+(?:\.[a-z_]+)?)`")


def defined(path: Path) -> set[str]:
    """The functions and classes of a module, and methods as `Class.method`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{method.name}" for method in methods}
    return found


def test_the_walks_name_what_is_there() -> None:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    places = PLACE.findall(text)
    assert len(places) > 30
    assert [place for place in places if place[1] not in defined(ROOT / place[0])] == []
    assert [name for name in re.findall(FILE, text) if not (ROOT / name).is_file()] == []


def test_a_walk_takes_at_most_ten_steps() -> None:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    steps = [int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
    assert steps.count(1) == 4
    assert max(steps) <= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    inside = [target for target in targets if "://" not in target]
    assert [target for target in inside if not (page.parent / target).exists()] == []
