"""A worker whose steps a group makes: its round is one machine's, and what goes wrong inside shows outside."""

import pytest
import torch

from tests.groups import Threads, alone, outcome, programs_of
from tests.tiny import STEPS, make_run, start_of
from trainer.groups.engine import GroupEngine
from trainer.programs.conversion import from_torch, to_torch
from trainer.programs.options import NODE_BY_NODE
from trainer.runs.create import Created
from verification.errors import Unsound, UserError
from verification.tensors import Bundle

BATCH = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Created:
    """A run whose batches three members share unevenly."""
    return make_run(tmp_path_factory.mktemp("run"), {"training.batch": BATCH})


def group_engine(made: Created, members: Threads) -> GroupEngine:
    """The engine of a group's leader."""
    return GroupEngine(members.joined, programs_of(made), NODE_BY_NODE)


@pytest.mark.parametrize("size", [2, 3])
def test_a_groups_round_is_one_machines(made: Created, size: int) -> None:
    members = Threads(size)
    assert outcome(made, group_engine(made, members), checked=3) == alone(made)
    assert members.counts == [size] * STEPS
    assert members.given == 1, "members have the working state from then on"


def test_an_engine_says_who_made_its_last_step(made: Created) -> None:
    engine = group_engine(made, Threads(3, leaves_at=2))
    assert engine.group == ()
    outcome(made, engine)
    leader, other = engine.group
    assert leader.records + other.records == BATCH and leader.records
    assert leader.micros > 0 and other.micros == 1


def test_a_second_round_begins_from_its_own_state(made: Created) -> None:
    members = Threads(2)
    engine = group_engine(made, members)
    assert outcome(made, engine) == outcome(made, engine) == alone(made)
    assert members.given == 2


def test_a_step_that_a_member_leaves_is_made_again_by_the_rest(made: Created) -> None:
    members = Threads(3, leaves_at=2)
    assert outcome(made, group_engine(made, members)) == alone(made)
    assert members.counts == [3, 3, 2, 2, 2]


def test_a_leader_goes_on_alone(made: Created) -> None:
    members = Threads(2, leaves_at=3)
    assert outcome(made, group_engine(made, members)) == alone(made)
    assert members.counts == [2, 2, 2]


def test_a_lie_inside_a_group_is_the_workers_lie(made: Created) -> None:
    """An audit compares a re-run's digests with the worker's, and all but those of the round's start differ."""
    told, right = outcome(made, group_engine(made, Threads(3, lies=True))), alone(made)
    assert [a == b for a, b in zip(told.digests, right.digests, strict=True)] == [True, False, False]
    assert told.contribution != right.contribution


def test_the_leaders_own_check_of_a_step_finds_a_lie(made: Created) -> None:
    with pytest.raises(Unsound, match="the group makes another digest"):
        outcome(made, group_engine(made, Threads(2, lies=True)), checked=1)


def test_a_round_that_fails_fails_alike(made: Created) -> None:
    """Parameters so large that a step ends: which node ends it, the leader finds out by itself."""
    tensors = [to_torch(tensor) for tensor in start_of(made).tensors]
    start = Bundle(tuple(from_torch(torch.full_like(tensor, 3e38)) for tensor in tensors))
    right = alone(made, start)
    assert right.failed is not None
    assert outcome(made, group_engine(made, Threads(3)), start) == right


def test_a_batch_of_too_few_records_is_refused_before_anything_runs(made: Created) -> None:
    with pytest.raises(UserError, match=rf"a batch of {BATCH} records cannot be split over 6 machines"):
        group_engine(made, Threads(6))
