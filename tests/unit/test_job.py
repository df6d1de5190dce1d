"""Job files: every mistake is one line that names the file, the key and the mend."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import job_text
from trainer.runs.job import OUTER, parse_job, read_job
from verification.errors import UserError

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"training.epochs": 3}, "training.epochs: is no key of a job file; remove it"),
    "unknown section": ({"optimiser.rate": 3}, "optimiser: is no key of a job file; remove it"),
    "text for a number": ({"training.rounds": "3"}, "training.rounds: input should be a valid integer, got '3'"),
    "fraction for an integer": ({"training.batch": 2.5}, "training.batch: input should be a valid integer"),
    "boolean for an integer": ({"training.batch": True}, "training.batch: input should be a valid integer"),
    "number for text": ({"title": 5}, "title: input should be a valid string, got 5"),
    "list for a section": ({"windows": [1]}, "windows: input should be"),
    "no rounds": ({"training.rounds": None}, "training.rounds: is missing"),
    "zero rounds": ({"training.rounds": 0}, "training.rounds: input should be greater than or equal to 1, got 0"),
    "rounds without end": ({"training.rounds": 10**20}, "training.rounds: input should be less than or equal"),
    "zero length": ({"data.length": 0}, "data.length: input should be greater"),
    "share above one": ({"swarm.audit_rate": 1.5}, "swarm.audit_rate: input should be less than or equal to 1"),
    "negative rate": ({"training.learning_rate": -0.1}, "training.learning_rate: input should be greater than 0"),
    "rate that is no number": ({"training.learning_rate": float("nan")}, "not TOML"),
    "negative seed": ({"seed": -1}, "seed: input should be greater"),
    "text and builtin": ({"data.builtin": "python-reference"}, "data: give one of text, json_lines, parquet, data"),
    "neither text nor builtin": ({"data.text": None}, "data: give one of text, json_lines, parquet, data"),
    "unknown builtin": ({"data.builtin": "wikipedia"}, "data.builtin: input should be 'python-reference'"),
    "images for text": (
        {"data.text": None, "data.images": "i.safetensors"},
        "data.images: the task causal-lm needs text or tokens",
    ),
    "text for images": (
        {"model.task": "image-classification"},
        "data.text: the task image-classification needs images",
    ),
    "a field of a text": ({"data.field": "body"}, "data.field: is nothing to data.text; remove it"),
    "nothing held out": ({"data.held_out": 0}, "data.held_out: input should be greater than 0, got 0"),
    "all held out": ({"data.held_out": 1.0}, "data.held_out: input should be less than 1, got 1.0"),
    "no files": ({"data.text": []}, "data.text"),
    "an unknown task": ({"model.task": "poetry"}, "model.task: input should be 'causal-lm', 'masked-lm' or"),
    "an unknown optimizer": ({"training.optimiser": "adam"}, "training.optimiser: input should be 'adamw', 'sgd' or"),
    "momentum of adamw": ({"training.momentum": 0.9}, "training.momentum: is nothing to adamw; remove it"),
    "betas of sgd": (
        {"training.optimiser": "sgd", "training.beta2": 0.9},
        "training.beta2: is nothing to sgd; remove it",
    ),
    "a warm-up longer than the run": ({"training.warmup": 12}, "training.warmup: must be less than the 12 steps of"),
    "a decay without wsd": ({"training.decay_steps": 3}, 'training.decay_steps: give it with schedule = "wsd"'),
    "wsd without a decay": ({"training.schedule": "wsd"}, 'training.decay_steps: give it with schedule = "wsd"'),
    "a decay longer than the run": (
        {"training.schedule": "wsd", "training.warmup": 6, "training.decay_steps": 7},
        "training.decay_steps: warmup and decay together must not exceed the schedule's 12 steps",
    ),
    "an end of a constant rate": ({"training.final_share": 0.1}, "training.final_share: is nothing to a constant"),
    "leaves of a run with crews": (
        {"swarm.crews": [2]},
        "training.leaf_every: must be 1 in a run with swarm.crews; set it so, or leave it out",
    ),
    "a crew of one": ({"swarm.crews": [1], "training.leaf_every": 1}, "swarm.crews.0: input should be greater than or"),
    "crews alike": ({"swarm.crews": [2, 2], "training.leaf_every": 1}, "swarm.crews: names a number of members twice"),
    "unequal parts of a batch": ({"training.accumulate": 3}, "training.accumulate: must divide batch into equal"),
    "config twice": ({"model.config_file": "c.json"}, "model: give either config, config_file, from or module"),
    "boundaries nowhere": ({"model.boundaries.bits": 8}, "model.boundaries: give either count, or after with"),
    "boundaries twice": (
        {"model.boundaries.count": 1, "model.boundaries.after": "model.layers.0"},
        "model.boundaries: give either count, or after with the names of blocks",
    ),
    "boundaries of odd bits": (
        {"model.boundaries.count": 1, "model.boundaries.bits": 5},
        "model.boundaries.bits: input should be 16, 8 or 4, got 5",
    ),
    "a bottleneck of nothing": (
        {"model.boundaries.count": 1, "model.boundaries.width": 0},
        "model.boundaries.width: input should be greater than or equal to 1, got 0",
    ),
    "a chunk that does not divide a bottleneck": (
        {"model.boundaries.count": 1, "model.boundaries.width": 36, "model.boundaries.chunk": 8},
        "model.boundaries.chunk: 8 does not divide width, 36: take a divisor, or leave it out",
    ),
    "a bottleneck in a checkpoint": (
        {"model.from": "start", "model.boundaries.count": 1, "model.boundaries.width": 8},
        "model.boundaries.width: drops at first most of what a trained model's blocks pass on",
    ),
    "a bottleneck beside an adapter": (
        {"training.lora.rank": 2, "model.boundaries.count": 1, "model.boundaries.width": 8},
        "model.boundaries.width: adds weights that no adapter holds, and training.lora trains an adapter alone",
    ),
    "leaf_every too large": ({"training.leaf_every": 5}, "training.leaf_every: must not exceed max_steps"),
    "min_workers too large": ({"swarm.min_workers": 3}, "swarm.min_workers: must not exceed workers"),
    "min_verifiers too large": ({"swarm.min_verifiers": 2}, "swarm.min_verifiers: must not exceed verifiers"),
    "more workers than can be traced": ({"swarm.workers": 1001}, "swarm.workers: input should be less"),
    "bond above stake": ({"money.accuser_bond": 2_000_000}, "money.accuser_bond: must not exceed verifier_stake"),
    "no slash grades": ({"money.slash_grades": []}, "money.slash_grades: needs at least one share"),
    "balance below stake": ({"accounts.balance": 10}, "accounts.balance: must cover worker_stake"),
    "unknown precision": ({"training.precision": 15}, "training.precision: input should be 8 or 14, got 15"),
    "unknown compression": ({"training.compression": "zip"}, "training.compression: input should be 'none', 'dense-8'"),
    "a chunk of nothing": ({"training.chunk": 64}, 'training.chunk: is nothing to compression "none"; remove it'),
    "a chunk of any size": (
        {"training.compression": "dense-4", "training.chunk": 1000},
        "training.chunk: must be a power of two",
    ),
    "a density of dense codes": (
        {"training.compression": "dense-4", "training.density": 0.1},
        'training.density: is for compression "top-k" and "low-rank" alone; remove it',
    ),
    "a density of nothing": (
        {"training.compression": "top-k", "training.density": 0.01, "training.chunk": 64},
        "training.density: keeps less than one of a chunk's 64 numbers; raise it or chunk",
    ),
    "token bits, which are gone": (
        {"training.compression": "low-rank", "training.token_bits": 2},
        "training.token_bits: is no key of a job file; remove it or correct its name",
    ),
    "several at once": ({"seed": -1, "title": 5}, "(and 1 more)"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_key(mistake: str) -> None:
    changes, expected = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        parse_job(job_text(changes).replace("NaN", "not-a-number"), "mine.toml")
    line = str(caught.value)
    assert line.startswith("mine.toml: ")
    assert expected in line
    assert "\n" not in line


@pytest.mark.parametrize("section", ["model", "data", "training"])
def test_a_missing_section_is_named(section: str) -> None:
    lines = [line for line in job_text().splitlines() if not line.startswith(section + ".")]
    with pytest.raises(UserError, match=rf"^mine.toml: {section}: is missing$"):
        parse_job("\n".join(lines), "mine.toml")


@pytest.mark.parametrize("text", ["[model", "rounds: 3", "a = 1\na = 2", "\x00"])
def test_what_is_not_toml_says_so(text: str) -> None:
    with pytest.raises(UserError, match=r"^mine.toml: not TOML: [^\n]+$"):
        parse_job(text, "mine.toml")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, reason in ((tmp_path / "none.toml", "no such job file"), (tmp_path, "cannot be read"),
                         (binary, "cannot be read as text")):  # fmt: skip
        with pytest.raises(UserError) as caught:
            read_job(path)
        assert str(caught.value).startswith(f"{path}: {reason}")
        assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(job_text(), encoding="utf-8-sig")
    assert read_job(path) == parse_job(job_text(), "job")
    path.write_text(job_text(), encoding="utf-16")
    with pytest.raises(UserError, match=r"cannot be read as text: .*; save it as UTF-8"):
        read_job(path)


def test_a_good_file_keeps_its_values_and_fills_in_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(job_text({"windows.commit": 7.5}), encoding="utf-8")
    job = read_job(path)
    assert (job.title, job.training.rounds, job.windows.commit) == ("tiny", 3, 7.5)
    assert (job.training.beta1, job.money.burned_share, job.windows.attest) == (0.9, 0.5, 60)


def test_the_outer_step_follows_the_overlap_unless_a_job_says_it() -> None:
    def outer(**training: Any) -> tuple[float, float]:
        return parse_job(
            job_text({f"training.{key}": value for key, value in training.items()}), "a job"
        ).training.outer

    assert outer() == OUTER[False]
    assert outer(overlap=True) == OUTER[True]
    assert outer(overlap=True, outer_momentum=0.25) == (OUTER[True][0], 0.25)
    assert outer(outer_rate=0.9) == (0.9, OUTER[False][1])


def test_a_run_with_crews_has_a_leaf_after_every_step() -> None:
    text = job_text({"swarm.crews": [3, 2], "training.leaf_every": None})
    job = parse_job(text, "job.toml")
    assert job.swarm.crews == [3, 2] and job.leaf_every == 1
    assert parse_job(job_text(), "job.toml").leaf_every == 2
