"""Shards' own programs against the whole, wherever the model is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.crews import assert_is_the_whole, cut_with, town, traced
from trainer.shards.conventions import require_sound_parts
from trainer.shards.depth import depths_of
from trainer.shards.legs import legs_of
from trainer.shards.parts import parts_of
from trainer.shards.programs import Parts


@st.composite
def drawn_parts(draw: st.DrawFn, name: str) -> Parts:
    """The programs of two to four shards, each of which holds a parameter."""
    starts = sorted(set(depths_of(traced(name).inner).starts.values()))
    after = draw(st.sets(st.sampled_from(range(len(starts) - 1)), min_size=1, max_size=3))
    ends = tuple(draw(st.integers(1 + starts[place], starts[place + 1])) for place in sorted(after))
    return parts_of(traced(name), cut_with(name, ends))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data())
def test_shards_cut_anywhere_make_the_whole(name: str, data: st.DataObject) -> None:
    parts = data.draw(drawn_parts(name))
    require_sound_parts(parts)
    assert_is_the_whole(town(name, parts))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "experts", "dropping"])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_programs_cut_anywhere_keep_the_rules_and_each_node_is_in_a_leg(
    name: str, data: st.DataObject
) -> None:
    parts = data.draw(drawn_parts(name))
    require_sound_parts(parts)
    for part in parts.shards:
        legs = legs_of(part.inner, len(part.prologue.outputs))
        made = [number for leg in legs for number in leg.makes]
        assert len(set(made)) == len(made)
        here = set(range(len(part.inner.inputs)))
        for leg in legs:
            assert here.issuperset(leg.reads) and not here.intersection(leg.makes)
            here = (here | set(leg.makes)) - set(leg.last)
        sources = {int(output.source) for output in part.inner.outputs}
        assert sources <= here
