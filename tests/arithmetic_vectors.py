"""Vectors of the arithmetic: numbers with all that they are made of, and their judgement by the standard library alone.

docs/arithmetic-vectors.md describes the format. `python -m tests.arithmetic_vectors` judges the files that it is given;
`python -m tests.make_arithmetic_vectors` makes them.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from verification.arithmetic.definition import Definition, Read, Totals, finish
from verification.arithmetic.numbers import FORMATS, EndsStep, Number, bits_of, of_bits
from verification.arithmetic.places import Site, Spec
from verification.operators import OPERATORS, definition_of, made_by

FORMAT = "proofswarm/arithmetic/1"
FOLDER = Path(__file__).parent / "vectors" / "arithmetic"
Json = dict[str, Any]


def hexed(dtype: str, number: Number) -> str:
    """A number's bits as hexadecimal digits, the highest first."""
    return f"{bits_of(dtype, number):0{2 * FORMATS[dtype].size}x}"


class Reading:
    """Reads the places of a vector in its order; AssertionError where the definition asks for another."""

    def __init__(self, site: Site, reads: Sequence[Sequence[Any]]) -> None:
        self._site = site
        self._left = list(reads)

    def __call__(self, place: int, index: int) -> Number:
        expected, at, digits = self._left.pop(0)
        assert (place, index) == (expected, at), "another place is read"
        return of_bits(self._site.inputs[place].dtype, int(digits, 16))

    def end(self) -> None:
        """AssertionError where a place of the vector was not read."""
        assert not self._left, "a place is not read"


def judge_file(vectors: Json) -> int:
    """Return how many numbers a file holds, each found right; AssertionError for one that is not."""
    assert vectors["format"] == FORMAT
    count = 0
    for node in vectors["nodes"]:
        site = site_of(node)
        assert made_by(vectors["operator"], site) == site.result
        definition = definition_of(vectors["operator"], site)
        for number in node["numbers"]:
            _judge(definition, site, number)
            count += 1
    return count


def site_of(node: Json) -> Site:
    """Return the node that a vector describes."""
    inputs = tuple(Spec(given["dtype"], tuple(given["shape"])) for given in node["inputs"])
    result = Spec(node["result"]["dtype"], tuple(node["result"]["shape"]))
    return Site({name: tuple(numbers) for name, numbers in node["attributes"].items()}, inputs, result)


def _judge(definition: Definition, site: Site, vector: Json) -> None:
    index, totals = vector["index"], ()
    for total, given in zip(definition.totals, vector["totals"], strict=False):
        assert given["combine"] == total.combine
        terms = [_term(total.term, site, index, k, each, totals) for k, each in enumerate(given["terms"])]
        assert len(terms) == total.count(site)
        made = total.combine.of(terms, total.start)
        assert made == (None if given["total"] is None else int(given["total"]))
        if made is None:
            assert vector["result"] is None and len(totals) + 1 == len(vector["totals"])
            return
        totals = (*totals, made)
    assert len(totals) == len(definition.totals)
    reading = Reading(site, vector["reads"])
    try:
        found = hexed(site.result.dtype, finish(definition, site, index, reading, totals))
    except EndsStep:
        found = None
    reading.end()
    assert found == vector["result"]


def _term(term: Any, site: Site, index: int, k: int, given: Json, totals: Totals) -> int | None:
    reading = Reading(site, given["reads"])
    try:
        made: int | None = term(site, index, k, reading, totals)
    except EndsStep:
        made = None
    reading.end()
    assert made == (None if given["term"] is None else int(given["term"]))
    return made


def told(definition: Definition, site: Site, index: int, read: Read) -> Json:
    """Return the vector of a number: its totals with their terms, what finishes it, and what it is."""
    reads: list[list[Any]] = []

    def watched(place: int, at: int) -> Number:
        number = read(place, at)
        reads.append([place, at, hexed(site.inputs[place].dtype, number)])
        return number

    totals: list[Json] = []
    found: Totals = ()
    for total in definition.totals:
        terms: list[Json] = []
        for k in range(total.count(site)):
            reads.clear()
            try:
                made: int | None = total.term(site, index, k, watched, found)
            except EndsStep:
                made = None
            terms.append({"reads": list(reads), "term": None if made is None else str(made)})
        parts = [None if term["term"] is None else int(term["term"]) for term in terms]
        whole = total.combine.of(parts, total.start)
        totals.append(
            {"combine": total.combine, "terms": terms, "total": None if whole is None else str(whole)}
        )
        if whole is None:
            return {"index": index, "totals": totals, "reads": [], "result": None}
        found = (*found, whole)
    reads.clear()
    try:
        result: str | None = hexed(site.result.dtype, finish(definition, site, index, watched, found))
    except EndsStep:
        result = None
    return {"index": index, "totals": totals, "reads": list(reads), "result": result}


def files() -> Iterator[tuple[str, Json]]:
    """Yield the vectors of every operator."""
    for name in sorted(OPERATORS):
        yield name, json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def main() -> None:
    """Judge all vectors and say how many numbers were right."""
    for name, vectors in files():
        print(f"{name}: {judge_file(vectors)} numbers", flush=True)


if __name__ == "__main__":
    sys.exit(main())
