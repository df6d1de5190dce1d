"""Programs of shards: together they make what the whole makes, bit by bit; what breaks a rule of the cut is refused."""

import pytest

from tests.crews import JOB, Town, equal_town
from tests.shards import RUNS
from trainer.shards.conventions import require_sound_parts
from verification.layout import per_parameter, summary_of
from verification.tensors import Tensor, tensor_digest


def assert_is_the_whole(made: Town) -> None:
    """All shards by turns make the states, contributions and the loss of the whole round."""
    outcome, whole = made.crews().audit(JOB, made.start, 0), made.whole()
    assert whole.contribution is not None and outcome.failed is None
    wanted = list(map(tensor_digest, per_parameter(whole.contribution.tensors)))
    found: dict[int, Tensor] = {}
    for part, contribution in zip(made.parts.shards, outcome.contributions, strict=True):
        found |= dict(zip(part.parameters, per_parameter(contribution.tensors), strict=True))
    assert [tensor_digest(found[place]) for place in range(len(found))] == wanted
    assert sum(outcome.losses) == whole.loss
    norms = [summary_of(each.tensors, "norm") for each in outcome.contributions]
    assert sum(int.from_bytes(norm.data, "little") for norm in norms) == int.from_bytes(
        summary_of(whole.contribution.tensors, "norm").data, "little"
    )


def working_of_all(made: Town) -> dict[str, set[bytes]]:
    """The digests of each working tensor after the round, wherever it is held."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", RUNS)
def test_shards_by_their_own_programs_make_the_whole(name: str, count: int) -> None:
    made = equal_town(name, count)
    require_sound_parts(made.parts)
    assert_is_the_whole(made)
