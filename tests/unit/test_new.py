"""`new`: folders from which `run create` makes a run as they stand."""

from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner

from trainer.cli import app
from trainer.commands.new import KINDS, make_folder
from trainer.runs.create import create_run
from trainer.runs.data.tokenizing import read_tokenizer
from trainer.runs.facts import ModelFacts
from trainer.runs.job import read_job
from verification.errors import UserError

pytestmark = pytest.mark.slow
WITH_CREATE = [kind for kind in KINDS if kind != "gpt2"]
"""GPT-2's step takes minutes."""


@pytest.mark.parametrize("kind", WITH_CREATE)
def test_a_folder_makes_a_run_as_it_stands(kind: str, tmp_path: Path) -> None:
    make_folder(tmp_path / "mine", kind)
    job = read_job(tmp_path / "mine" / "job.toml")
    assert job.title == "mine"
    heard: list[str] = []
    made = create_run(job, tmp_path / "mine", tmp_path / "runs" / "mine", heard.append)
    assert made.manifest.data.records > 100
    assert made.keys == ("peer-0", "peer-1", "peer-2")
    assert any(".lora_A." in name for name in ModelFacts.read(made.folder).parameter_names) == (
        kind == "lora"
    )
    assert not [line for line in heard if "cut off" in line and "0.00% is cut off" not in line]


def test_gpt2_is_gpt2_small_with_a_tokenizer_of_the_text(tmp_path: Path) -> None:
    make_folder(tmp_path / "mine", "gpt2")
    job = read_job(tmp_path / "mine" / "job.toml")
    config = transformers.GPT2Config()
    given = job.model.config
    assert {key: getattr(config, key) for key in given} == given
    assert job.data.length <= config.n_positions
    tokenizer = read_tokenizer(tmp_path / "mine" / str(job.data.tokenizer), False)
    assert 2000 < tokenizer.vocabulary.size <= config.vocab_size
    assert tokenizer.token(str(job.data.separator)) is not None
    assert list((tmp_path / "mine" / "data").iterdir()) == [
        tmp_path / "mine" / "data" / "python-reference.txt"
    ]


def test_the_next_commands_are_printed(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["new", str(tmp_path / "a name"), "--kind", "images"])
    assert said.exit_code == 0
    assert said.output.splitlines() == [
        f"{tmp_path}/a name/job.toml is ready; next:",
        f"proofswarm run create '{tmp_path}/a name/job.toml' --out 'runs/a name'",
        "proofswarm peer --run 'runs/a name' --key 'runs/a name/keys/peer-0.key'",
    ]


@pytest.mark.parametrize("name", ['say "so"', "größe", "a$b", "back\\slash"])
def test_a_name_of_any_letters_is_the_title(name: str, tmp_path: Path) -> None:
    make_folder(tmp_path / name, "images")
    assert read_job(tmp_path / name / "job.toml").title == name


def test_what_cannot_be_made_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_text("")
    for out, kind, reason in (
        (tmp_path / "here", "tiny", "is there already: choose another name"),
        (tmp_path / "file", "tiny", "is there already: choose another name"),
        (Path(), "tiny", "is there already: choose another name"),
        (tmp_path / "file" / "new", "tiny", "cannot write there: Not a directory; choose another name"),
        (tmp_path / "new", "bert", "--kind bert is none of tiny, gpt2, checkpoint, images, lora"),
    ):
        with pytest.raises(UserError, match=reason):
            make_folder(out, kind)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "here"]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.commands.new.python_reference", full)
    with pytest.raises(UserError, match="No space left on device; choose another name"):
        make_folder(tmp_path / "mine", "tiny")
    assert list(tmp_path.iterdir()) == []
