"""A run that goes on from another: the same states as one that ran through, and what cannot be gone on from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import make_run, start_of, trained, write_job
from trainer.commands.report import read_state
from trainer.runs.create import Created, create_run
from trainer.runs.facts import ModelFacts
from trainer.runs.job import read_job
from trainer.runs.states import Ancestor, ancestor_of, kept_state
from verification.digest import integer, tagged
from verification.errors import UserError
from verification.manifest import Origin
from verification.tensors import Bundle, digest_of
from verification.units import Count, Round

pytestmark = pytest.mark.slow
CHANGES: dict[str, Any] = {
    "training.schedule": "cosine",
    "training.horizon": 6,
    "training.warmup": 6,
    "training.gradient_clip": 0.5,
    "training.grid": 14,
    "swarm.workers": 1,
    "swarm.min_workers": 1,
}


def extended(made: Created, state: Bundle, rounds: int, folder: Path) -> Created:
    """A run that goes on from a state of another after so many rounds in all."""
    folder.mkdir()
    origin = Origin(tagged("run", integer(rounds)), Round(1), Count(rounds))
    ancestor = Ancestor(origin, state, ModelFacts.read(made.folder))
    job = read_job(write_job(folder, {**CHANGES, "training.rounds": 2}))
    return create_run(job, folder, folder / "run", ancestor=ancestor)


def digests(states: Sequence[Bundle]) -> list[str]:
    """Their digests, in hex."""
    return [digest_of(state).hex() for state in states]


def test_a_run_extended_twice_is_one_that_ran_through(tmp_path: Path) -> None:
    whole = make_run(tmp_path, {**CHANGES, "training.rounds": 6})
    through = trained(whole, 0, 6)
    assert len(set(digests(through))) == 6
    (tmp_path / "a").mkdir()
    made, found = make_run(tmp_path / "a", {**CHANGES, "training.rounds": 2}), list[Bundle]()
    for rounds in (2, 4):
        found += trained(made, rounds - 2, 2)
        made = extended(made, found[-1], rounds, tmp_path / str(rounds))
        assert made.manifest.start.digest == digest_of(found[-1])
        assert made.manifest.origin is not None
        assert made.manifest.origin.trained == rounds
    found += trained(made, 4, 2)
    assert digests(found) == digests(through)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model.config.hidden_size": 48}, r"parameter 'model.embed_tokens.weight' has shape \[256, 32\]"),
        ({"model.config.num_hidden_layers": 2}, r"differ: see \['model.layers.1"),
        ({"model.config.tie_word_embeddings": True}, r"differ: see \['lm_head.weight'\]"),
    ],
)
def test_another_model_is_named(
    changes: dict[str, Any], reason: str, tiny_run: Created, tmp_path: Path
) -> None:
    facts = ModelFacts.read(tiny_run.folder)
    ancestor = Ancestor(Origin(tagged("run"), Round(0), Count(1)), start_of(tiny_run), facts)
    job = read_job(write_job(tmp_path, changes))
    with pytest.raises(UserError, match=reason):
        create_run(job, tmp_path, tmp_path / "run", ancestor=ancestor)
    assert not (tmp_path / "run").exists()


def test_a_run_that_trained_nothing_is_not_gone_on_from(tiny_run: Created) -> None:
    state = read_state(tiny_run.folder)
    with pytest.raises(UserError, match="has trained no round"):
        ancestor_of(kept_state(tiny_run.folder, state, None), state, ModelFacts.read(tiny_run.folder))
