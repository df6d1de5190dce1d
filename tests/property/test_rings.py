"""A model whose head is tied, cut as a ring: the whole's digests, no endless waits, and hidden states alone cross."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import zoo
from tests.crews import JOB, assert_is_the_whole, together, town, traced
from tests.shards import by_shards, whole
from tests.stages import MUCH, Threads, shuffled
from trainer.programs.tracing.capture import TracedRun, trace_run
from trainer.runs.models import build_model
from trainer.runs.tasks import causal_lm_loss
from trainer.shards.conventions import require_sound_parts
from trainer.shards.cut import Cut, Machine, cut_at, cut_for
from trainer.shards.depth import depths_of
from trainer.shards.describe import described
from trainer.shards.memory import Turns, order_of, peak_of
from trainer.shards.parts import Parts, parts_of
from trainer.shards.places import tie_of
from trainer.shards.segments import FIRST
from verification.errors import UserError
from verification.program import Program, outputs_of, size_bytes, values

STEPS = 3
TIED = ("gpt2", "tied")
PART = 4 * 19 * 36 * 4
"""Bytes of the hidden states of half a batch."""


def programs_of(run: TracedRun) -> tuple[Program, ...]:
    """The four programs of a run."""
    return run.prologue, run.inner, run.epilogue, run.outer


def ring(run: TracedRun, after: Sequence[int], lead: int = 1) -> Cut:
    """A run cut as a ring behind some of its parameters, by their places in the order of the model."""
    depths = depths_of(run.inner)
    tie, starts = tie_of(run.inner, depths), sorted(set(depths.starts.values()))
    assert tie is not None
    ends = (*(starts[place + 1] for place in after), tie.head)
    return cut_at(programs_of(run), ends, depths, lead, is_ring=True)


def even_ring(run: TracedRun, count: int, lead: int = 1) -> Cut:
    """A ring of shards with about as many parameters each, the first with those of the embedding alone."""
    between = len(set(depths_of(run.inner).starts.values())) - 2
    return ring(run, [1 + between * place // (count - 1) for place in range(count - 1)], lead)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", TIED)
def test_a_ring_makes_what_the_whole_makes(name: str, count: int) -> None:
    known = whole(name, STEPS)
    for role, pieces in even_ring(traced(name), count).pieces.items():
        wanted = known.made[role]
        assert pieces.layout.shards == range(count)
        assert by_shards(pieces, known.given[role], len(wanted), Random(count)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", TIED)
def test_a_crew_in_a_ring_makes_what_the_whole_makes(name: str, count: int) -> None:
    parts = parts_of(traced(name), even_ring(traced(name), count))
    require_sound_parts(parts)
    assert_is_the_whole(town(name, parts))


@pytest.mark.slow
def test_members_in_a_ring_exchange_all_that_they_lack() -> None:
    made = town("gpt2", parts_of(traced("gpt2"), even_ring(traced("gpt2"), 3)))
    outcomes, letters = together(made)
    audited = made.crews().audit(JOB, made.start, 0)
    assert audited.failed is None and all(outcome.failed is None for outcome in outcomes)
    assert tuple(outcome.contribution for outcome in outcomes) == audited.contributions
    assert len(letters.seen) == 2 * len(made.parts.crossings)


@pytest.mark.slow
@settings(max_examples=3, deadline=None, derandomize=True)
@given(data=st.data())
def test_rings_cut_anywhere_keep_the_rules_and_make_the_whole(data: st.DataObject) -> None:
    run = traced("gpt2")
    places = range(len(set(depths_of(run.inner).starts.values())) - 1)
    after = sorted(data.draw(st.sets(st.sampled_from(places), min_size=1, max_size=3)))
    cut = ring(run, after)
    if len(set(cut.shards.values())) < cut.count:
        return
    parts = parts_of(run, cut)
    require_sound_parts(parts)
    assert_is_the_whole(town("gpt2", parts))


@pytest.mark.slow
@pytest.mark.parametrize(("stages", "lead"), [(2, 2), (3, 1)])
def test_a_group_in_a_ring_goes_on_whatever_comes_when(stages: int, lead: int) -> None:
    pieces, known = even_ring(traced("gpt2"), stages, lead).pieces["inner"], whole("gpt2", STEPS)
    assert Threads(pieces, lead=lead).trained(known.given["inner"], STEPS) == known.made["inner"]
    assert shuffled(pieces, known.given["inner"], 1, Random(lead)) == known.made["inner"][:1]


@pytest.mark.parametrize("lead", [1, 2])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_who_has_both_ends_begins_all_parts_that_it_may_before_it_waits(count: int, lead: int) -> None:
    pieces = even_ring(traced("gpt2"), count, lead).pieces["inner"]
    order = order_of(pieces, FIRST, lead)
    head = next(place for place, each in enumerate(order) if each.lap and each.parts)
    begun = {each.parts for each in order[:head] if each.is_forward and each.parts.bit_count() == 1}
    assert len(begun) == min(4, 1 + lead * count)
    laps = [(each.lap, each.parts) for each in order if each.lap and each.parts.bit_count() == 1]
    lag = lead * (count - 1)
    if lag < 4:
        assert laps.index((1, 1 << lag)) < laps.index((2, 1))
    assert all(each.lap == 0 for each in pieces.segments if each.shard != FIRST)


def test_a_head_goes_on_once_it_is_reached_and_need_not_wait_for_the_way_back() -> None:
    turns = Turns(3, 1, is_ring=True)
    order = sorted(
        [(turns.of(0, 1 << part, lap == 0, lap), lap, part) for lap in range(3) for part in range(6)]
    )
    assert [(lap, part) for _, lap, part in order] == [
        (0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (0, 4), (1, 1), (0, 5), (1, 2), (2, 0), (1, 3), (2, 1), (1, 4), (2, 2),
        (1, 5), (2, 3), (2, 4), (2, 5),
    ]  # fmt: skip
    assert [turns.ahead(shard) for shard in range(3)] == [4, 3, 2]
    assert [Turns(3, 1, is_ring=False).ahead(shard) for shard in range(3)] == [3, 2, 1]


def test_crossings_are_named_by_the_pass_that_they_are_of() -> None:
    run = traced("gpt2")
    parts = parts_of(run, even_ring(run, 3))
    ways = large_ways(parts, PART // 2)
    assert ways == {
        "forward": {(0, 1), (1, 2), (2, 0)},
        "backward": {(0, 2), (2, 1), (1, 0)},
    }


def large_ways(parts: Parts, least: int) -> dict[str, set[tuple[int, int]]]:
    """Who gives to whom what has so many bytes, by the names of what is given."""
    found: dict[str, set[tuple[int, int]]] = {"forward": set(), "backward": set()}
    given = [
        iter(list(zip(part.inner.outputs, outputs_of(part.inner), strict=True))[len(part.prologue.outputs) :])
        for part in parts.shards
    ]
    for crossing in parts.crossings:
        output, value = next(given[crossing.maker])
        if size_bytes(value) >= least:
            way = output.name.rstrip("0123456789")
            found[way] |= {(int(crossing.maker), int(taker)) for taker in crossing.takers}
    return found


def with_vocabulary(size: int) -> TracedRun:
    """GPT-2 with so many tokens, of which records hold few."""
    config = zoo.CONFIGS["gpt2"] | {"vocab_size": size}
    return trace_run(build_model(config, 1), causal_lm_loss, replace(zoo.JOB, accumulate=2))


def crossing_bytes(cut: Cut) -> list[int]:
    """The bytes of each value that crosses in an inner step."""
    pieces = cut.pieces["inner"]
    known = values(pieces.program)
    return [size_bytes(known[number]) for number, _, _ in pieces.crossings()]


@pytest.mark.parametrize("count", [2, 3])
def test_of_a_large_vocabulary_nothing_as_large_as_the_embedding_crosses(count: int) -> None:
    run, embedding = with_vocabulary(4096), 4096 * 36 * 4
    cut = cut_for(programs_of(run), [Machine(MUCH, 1)] * count)
    assert cut.is_ring and cut.shards["transformer.wte.weight"] == FIRST
    assert max(crossing_bytes(cut)) <= PART < embedding // 50
    assert sum(crossing_bytes(cut)) < 1.1 * 2 * count * 2 * PART, (
        "hidden states and their gradients, of two parts"
    )
    parts = parts_of(run, cut)
    require_sound_parts(parts)
    ports = [port for part in parts.shards for port in part.inner.inputs[len(part.prologue.outputs) :]]
    assert max(size_bytes(port) for port in ports) <= PART
    line = cut_at(programs_of(run), cut.ends[:-1])
    assert max(crossing_bytes(line)) == embedding


def test_with_a_small_vocabulary_the_head_stays_with_the_last_layers() -> None:
    run = with_vocabulary(32)
    for count in (2, 3):
        cut, tie = (
            cut_for(programs_of(run), [Machine(MUCH, 1)] * count),
            tie_of(run.inner, depths_of(run.inner)),
        )
        assert tie is not None and not cut.is_ring
        other = cut_at(programs_of(run), (*cut.ends, tie.head), is_ring=True)
        assert sum(crossing_bytes(cut)) < sum(crossing_bytes(other))


def test_a_ring_keeps_within_memory_and_follows_speed() -> None:
    run = with_vocabulary(4096)
    free = described(cut_for(programs_of(run), [Machine(MUCH, 1)] * 3))
    less = free[1].memory * 9 // 10
    kept = cut_for(programs_of(run), [Machine(MUCH, 1), Machine(less, 1), Machine(MUCH, 1)])
    assert kept.is_ring and kept.peaks[1] <= less
    assert kept.peaks == [
        max(peak_of(pieces, shard, kept.lead) for pieces in kept.pieces.values()) for shard in range(3)
    ]
    fast = cut_for(programs_of(run), [Machine(MUCH, 6), Machine(MUCH, 1), Machine(MUCH, 2)])
    first, second, third = (each.work for each in described(fast))
    assert fast.is_ring and first > third > second
    with pytest.raises(UserError, match="fits their memory"):
        cut_for(programs_of(run), [Machine(free[0].memory // 4, 1)] * 3)
