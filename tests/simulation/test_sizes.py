"""Whatever an honest peer must say fits the ledger, in every run that the check of sizes lets pass."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import BrokenEngine, ToyLibrary, minimal
from simulator.world import World
from tests.law_vectors import Ask
from trainer.rounds.cheats import conduct_named
from verification import codec, sizes
from verification.effects import Slashed
from verification.errors import UserError
from verification.manifest import Manifest, Place
from verification.placed import Placed
from verification.signed import open_statement
from verification.sizes import PlacedPrograms, extent_of, largest, require_sayable
from verification.statements import (
    Body,
    Chunk,
    Evidence,
    NodeList,
    OpenedBlock,
    OpenedInput,
    Opening,
    Reveal,
    Trace,
)
from verification.units import MILLION, Count, Digest, Round

CHEATS = ("skip-steps", "wrong-data", "zero-update", "prologue", "inner", "epilogue", "ask")


def programs_of(manifest: Manifest) -> PlacedPrograms:
    """Return a toy run's programs."""
    return {place: ToyLibrary().program(manifest.programs.at(place).digest) for place in Place}


def played(manifest: Manifest, cheat: str, seed: int) -> tuple[World, list[Actor]]:
    """Return a run with one cheat, and its honest peers, under the invariants."""
    honest: list[Actor] = [Worker("w0"), Worker("w1"), Verifier("v0"), Verifier("v1")]
    liar = Worker("cheat")
    if cheat in ("prologue", "inner", "epilogue"):
        liar.engine = BrokenEngine(cheat, 3)
    elif cheat == "ask":
        liar = Worker("cheat", Ask(honest[0].address))
    else:
        liar = Worker("cheat", conduct=conduct_named(cheat, 1))
    world = World(manifest, [*honest, liar], random.Random(seed), check=Invariants(honest))
    world.run()
    return world, honest


@contextmanager
def lowered(limit: int) -> Iterator[None]:
    """Let no statement of any kind have a body of more than so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Placed, Evidence, Chunk):
            patch.setattr(kind, "limit", limit)
        yield


def items_in(value: object) -> int:
    """Return how many items a message has as `codec.unpack` counts them."""
    return 1 + len(value) + sum(map(items_in, value)) if isinstance(value, tuple) else 0


def bounds(manifest: Manifest) -> dict[type[Body], sizes.Extent]:
    """Return the most bytes and items of a body by kind."""
    found: dict[type[Body], sizes.Extent] = {}
    for each in largest(manifest, programs_of(manifest)):
        before = found.get(each.kind, sizes.Extent(0))
        size, items = max(before.size, each.extent.size), max(before.items, each.extent.items)
        found[each.kind] = sizes.Extent(size, items)
    return found


@settings(max_examples=6, deadline=None)
@given(
    cheat=st.sampled_from(CHEATS), leaf_every=st.integers(1, 12), max_steps=st.sampled_from((12, 70)),
    batch=st.integers(1, 4), chain=st.sampled_from((0, 70)),
)  # fmt: skip
def test_no_statement_of_a_run_is_larger_than_its_bound(
    cheat: str, leaf_every: int, max_steps: int, batch: int, chain: int
) -> None:
    manifest = minimal(
        max_steps=max_steps, leaf_every=leaf_every, batch=batch, chain=chain, audit_rate=MILLION, rounds=3
    )
    most, seen = bounds(manifest), Counter[type[Body]]()
    world, _ = played(manifest, cheat, 1)
    for line in world.ledger.log:
        if line.kind != "statement":
            continue
        said = open_statement(line.data)
        around = len(line.data) - len(said.statement.body)
        assert around < sizes.AROUND
        extent = most.get(type(said.body))
        if extent is not None:
            seen[type(said.body)] += 1
            assert len(said.statement.body) <= extent.size
            assert items_in(codec.unpack(said.statement.body)) <= extent.items
    assert seen[Opening] and seen[Reveal]


@given(leaves=st.integers(1, 2000), bits=st.integers(0, 255))
def test_bounds_of_long_lists_are_close(leaves: int, bits: int) -> None:
    digests = (Digest(bytes([bits]) * 32),) * leaves
    opening = Opening(Round(2**31), digests, digests)
    encoded, extent = (
        codec.encode(opening),
        extent_of(Opening, {"digests": leaves, "salts": leaves, "taken": 0}),
    )
    assert extent.size - 20 <= len(encoded) <= extent.size
    assert items_in(codec.unpack(encoded)) == extent.items


@given(
    blocks=st.lists(st.integers(0, 8192), max_size=5), path=st.integers(0, 20), in_row=st.integers(0, 9),
    in_tensor=st.integers(0, 17),
)  # fmt: skip
def test_the_bound_of_an_input_holds_for_every_input(
    blocks: list[int], path: int, in_row: int, in_tensor: int
) -> None:
    digest, largest = Digest(b"\xff" * 32), Count(2**53)
    paths = (digest,) * in_row, (digest,) * in_tensor
    opened = OpenedInput(
        largest,
        (digest,) * path,
        tuple(OpenedBlock(largest, largest, bytes(size), *paths) for size in blocks),
    )
    counts = {"path": path, "in_row": in_row, "in_tensor": in_tensor, "data": max(blocks, default=0)}
    encoded, extent = codec.encode(opened), extent_of(OpenedInput, counts | {"blocks": len(blocks)})
    assert len(encoded) <= extent.size
    assert items_in(codec.unpack(encoded)) <= extent.items


def test_leaves_that_do_not_fit_are_refused_and_would_convict_the_honest() -> None:
    """The trial: 33 leaves in 2 KiB, three honest peers."""
    manifest = minimal(max_steps=32, leaf_every=1, audit_rate=MILLION, rounds=8)
    require_sayable(manifest, programs_of(manifest))
    with lowered(2 << 10):
        with pytest.raises(UserError, match=r"Opening of 33 leaves: .* raise training.leaf_every"):
            require_sayable(manifest, programs_of(manifest))
        honest = [Worker("w0"), Worker("w1"), Verifier("v0")]
        world = World(manifest, honest, random.Random(1))
        world.run()
    assert {slashed.address for slashed in world.seen(Slashed)} & {actor.address for actor in honest[:2]}
    assert any("over the limit" in reason for reason in world.refused)


@pytest.mark.parametrize("kind", [Evidence, Chunk])
def test_what_cannot_be_brought_is_refused_at_the_very_byte(kind: type[Placed]) -> None:
    manifest = minimal(max_steps=200, batch=4, leaf_every=100)
    room = bounds(manifest)[kind].size + sizes.AROUND  # type: ignore[index]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "limit", room)
        require_sayable(manifest, programs_of(manifest))
        patch.setattr(kind, "limit", room - 1)
        cause = {Evidence: r"about the .* program's node \d+ \(\w+\)", Chunk: "of a contribution"}
        with pytest.raises(UserError, match=rf"{kind.__name__} {cause[kind]}: .* take a"):
            require_sayable(manifest, programs_of(manifest))


def test_items_count_like_bytes() -> None:
    manifest = minimal(max_steps=200, batch=4, leaf_every=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "MAX_ITEMS", sizes.AROUND + 380)
        with pytest.raises(UserError, match=r"Opening of 201 leaves: .* in 410 items of at most 380"):
            require_sayable(manifest, programs_of(manifest))


@settings(max_examples=12, deadline=None)
@given(
    cheat=st.sampled_from(CHEATS), limit=st.integers(sizes.AROUND + 2300, sizes.AROUND + 4500),
    leaf_every=st.integers(1, 8), max_steps=st.integers(8, 60), seed=st.integers(0, 99),
)  # fmt: skip
def test_what_the_check_accepts_costs_no_honest_peer_anything(
    cheat: str, limit: int, leaf_every: int, max_steps: int, seed: int
) -> None:
    manifest = minimal(
        max_steps=max_steps, leaf_every=leaf_every, batch=1, chain=70, audit_rate=MILLION, rounds=3
    )
    with lowered(limit):
        try:
            require_sayable(manifest, programs_of(manifest))
        except UserError:
            return
        world, honest = played(manifest, cheat, seed)
    names = {actor.name for actor in honest}
    assert not [each for each in world.refused if "over the limit" in each and each.split(":")[0] in names]


def test_the_kinds_that_a_run_decides_are_all_bounded() -> None:
    assert {Opening, Reveal, Trace, NodeList, Evidence, Chunk} < bounds(minimal()).keys()
