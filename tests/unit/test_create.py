"""Making a run: a folder that reads back, or one line and nothing left behind."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from p2p.blobs import BlobStore
from p2p.identity import load
from tests.tiny import TEXT, job_text, make_run, write_job
from trainer.exact import native
from trainer.programs.loops import compiled
from trainer.runs import create
from trainer.runs.create import Created, create_run
from trainer.runs.job import parse_job, read_job
from verification.economics import adversaries
from verification.errors import UserError
from verification.ledger.local import read_genesis, verify_log
from verification.manifest import cost_of_round
from verification.program import decode_program, program_digest
from verification.sizes import AROUND
from verification.statements import Evidence
from verification.tensors import Tensor, decode_bundle, digest_of, tensor_digest

pytestmark = pytest.mark.slow

LIMIT = 1 << 24
FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "text too short": (
        {"data.length": 2000, "model.config.max_position_embeddings": 2000},
        "make 2 records of 2000 tokens to train on and 0 to hold out, but 16 and 1 are needed: give more data",
    ),
    "missing text": ({"data.text": "none.txt"}, "none.txt: no such file; correct the name"),
    "unknown model": ({"model.config.model_type": "nothing"}, "transformers refuses the model's config"),
    "no model type": ({"model.config.model_type": None}, "lacks or misnames 'model_type'"),
    "heads do not divide": ({"model.config.num_attention_heads": 3}, "is not a multiple of the number of attention"),
    "wrong type in the config": ({"model.config.hidden_size": "wide"}, "expected int, got str"),
    "no width": ({"model.config.hidden_size": 0}, "transformers refuses the model's config"),
    "negative width": ({"model.config.hidden_size": -4}, "transformers refuses the model's config"),
    "vocabulary without all bytes": ({"model.config.vocab_size": 64}, "has 64 rows: give it at least 256"),
    "padding beyond the embedding": ({"model.config.pad_token_id": 32000}, "pad_token_id: 32000 is no token of 256"),
    "more than the model's positions": ({"data.length": 40}, "data.length: the model would read 40 tokens at once"),
    "a model that sees its answer": (
        {
            "model.config.model_type": "bert",
            "model.config.hidden_dropout_prob": 0.0,
            "model.config.attention_probs_dropout_prob": 0.0,
            "model.config.num_key_value_heads": None,
        },
        "set model.config.is_decoder = true, or take masked-lm",
    ),
    "operator that draws numbers": (
        {"model.config.model_type": "mixtral", "model.config.router_jitter_noise": 0.1},
        "draws random numbers (called at modeling_mixtral.py",
    ),
    "no exact form": ({"model.config.model_type": "jetmoe"}, "(called at modeling_jetmoe.py:"),
    "stall too short": ({"windows.stall": 10}, "stall must be longer than commit and twice"),
    "window below a millisecond": ({"windows.commit": 0.0001}, "at least one millisecond"),
    "cheating pays": ({"money.worker_stake": 1000, "money.accuser_bond": 50}, "cheating would pay (wrong rounds until"),
    "more leaves than an opening holds": (
        {"training.max_steps": 16000, "training.leaf_every": 1}, "Opening of 16001 leaves: up to 1088097 bytes of at",
    ),
    "rewards held too long": ({"money.escrow_rounds": 2_000_000}, "escrow_rounds must be at most 1000000"),
    "more money than there is": ({"accounts.balance": 2**61}, "all money together is at most"),
    "no account": ({"accounts.others.0x12": 5}, "'0x12' is no account"),
    "optimiser that divides by zero": ({"training.beta1": 1.0}, "the model's first steps fail"),
}  # fmt: skip


def test_a_run_reads_back(tiny_run: Created) -> None:
    folder = tiny_run.folder.checked()
    assert verify_log(folder.ledger) == 1
    genesis = read_genesis(folder.ledger)
    assert genesis.manifest == tiny_run.manifest
    assert genesis.deposit == cost_of_round(genesis.manifest) * 3
    accounts = {load(folder.keys / f"{name}.key").address for name in tiny_run.keys}
    assert {address for address, _ in genesis.balances} == accounts
    assert tiny_run.keys == ("peer-0", "peer-1", "peer-2")
    assert json.loads(folder.model.read_text())["width"] == 17


def test_every_blob_is_what_the_manifest_says(tiny_run: Created) -> None:
    store, manifest = BlobStore(tiny_run.folder.blobs), tiny_run.manifest
    for reference in vars(manifest.programs).values():
        encoded = store.get(reference.blob)
        assert program_digest(encoded) == reference.digest
        assert decode_program(encoded).arithmetic == manifest.arithmetic
    records = store.get(manifest.data.blob)
    shape = manifest.data.records, manifest.data.width
    assert tensor_digest(Tensor("uint8", shape, records)) == manifest.data.root
    assert records[:17] == TEXT[:17].encode()
    assert digest_of(decode_bundle(store.get(manifest.start.blob), LIMIT)) == manifest.start.digest


def test_a_toy_in_which_cheating_pays_must_be_asked_for(tmp_path: Path) -> None:
    write_job(tmp_path)
    job = parse_job(job_text({"money.worker_stake": 1000}), "job")
    made = create_run(job, tmp_path, tmp_path / "run", accept_unsound=True)
    assert any(row.pays for row in adversaries(made.manifest))


def test_a_node_that_no_dispute_could_judge_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evidence, "limit", AROUND + 8_000)
    with pytest.raises(
        UserError,
        match=r"program's node \d+ \(\w+\): up to \d+ bytes of at most 8000 .*: its numbers read too much",
    ):
        make_run(tmp_path)
    assert not (tmp_path / "run").exists()


def test_blobs_that_nobody_reads_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial, with the limit lowered: a state of 150 kB."""
    monkeypatch.setattr(create, "MAX_BLOB_BYTES", 64_000)
    with pytest.raises(
        UserError, match=r"a state would have \d+ bytes, .* more than 64000, .* a smaller model"
    ):
        make_run(tmp_path)
    monkeypatch.setattr(create, "MAX_BLOB_BYTES", 1_000)
    with pytest.raises(UserError, match=r"the data would have .* take less data"):
        make_run(tmp_path)
    assert not (tmp_path / "run").exists()


def test_two_runs_of_one_job_share_no_identity(tiny_run: Created, tmp_path: Path) -> None:
    other = make_run(tmp_path)
    assert other.manifest == tiny_run.manifest
    first, second = (read_genesis(made.folder.ledger) for made in (tiny_run, other))
    assert first.run != second.run
    assert first.chain != second.chain
    assert first.chain.startswith("local/")


def test_the_same_job_makes_the_same_manifest(tiny_run: Created, tmp_path: Path) -> None:
    write_job(tmp_path)
    again = create_run(parse_job(job_text(), "again"), tmp_path, tmp_path / "new" / "deep" / "run")
    assert again.manifest == tiny_run.manifest


def test_a_config_file_is_read_beside_the_job(tiny_run: Created, tmp_path: Path) -> None:
    write_job(tmp_path)
    prefix = "model.config."
    job = parse_job(job_text(), "inline")
    (tmp_path / "config.json").write_text(json.dumps(job.model.config))
    changes = {line.split(" = ")[0]: None for line in job_text().splitlines() if line.startswith(prefix)}
    filed = parse_job(job_text({**changes, "model.config_file": "config.json"}), "filed")
    assert create_run(filed, tmp_path, tmp_path / "run").manifest == tiny_run.manifest
    for wrong in ("{", "[1]"):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(UserError, match=r"config\.json: "):
            create_run(filed, tmp_path, tmp_path / "other")


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_one_line_and_leaves_nothing(failure: str, tmp_path: Path) -> None:
    changes, expected = FAILURES[failure]
    write_job(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as caught:
        create_run(parse_job(job_text(changes), "job"), tmp_path, tmp_path / "run")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_an_out_folder_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    write_job(tmp_path)
    job = parse_job(job_text(), "job")
    with pytest.raises(UserError, match="is not empty: choose another folder"):
        create_run(job, tmp_path, tmp_path)
    with pytest.raises(UserError, match="is a file: choose another folder"):
        create_run(job, tmp_path, tmp_path / "text.txt")
    with pytest.raises(UserError, match="cannot write there: Not a directory"):
        create_run(job, tmp_path, tmp_path / "text.txt" / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.toml", "text.txt"]


def test_a_folder_without_a_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="name a new one with --out"):
        create_run(parse_job(job_text(), "job"), tmp_path, Path())


def test_a_crash_leaves_no_draft_and_an_old_draft_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_job(tmp_path)
    stale = tmp_path / ".run.draft" / "blobs"
    stale.mkdir(parents=True)
    (stale / "half").write_bytes(b"written")
    job = parse_job(job_text(), "job")
    crashes = []

    def crash(*_: object) -> None:
        crashes.append(1)
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr("trainer.runs.create._genesis", crash)
        with pytest.raises(RuntimeError, match="a bug"):
            create_run(job, tmp_path, tmp_path / "run")
    assert len(crashes) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.toml", "text.txt"]
    (tmp_path / "run").mkdir()
    assert create_run(job, tmp_path, tmp_path / "run").folder.checked().path == tmp_path / "run"


VIT = {
    "model.task": "image-classification",
    "model.config.model_type": "vit",
    "model.config.hidden_dropout_prob": 0.0,
    "model.config.attention_probs_dropout_prob": 0.0,
    "model.config.image_size": 6,
    "model.config.patch_size": 3,
    "model.config.num_channels": 1,
    "model.config.num_labels": 3,
    "data.text": None,
    "data.images": "images.safetensors",
    "data.held_out": 0.25,
    "training.optimiser": "muon",
    **{
        f"model.config.{key}": None
        for key in ("vocab_size", "num_key_value_heads", "max_position_embeddings")
    },
    **{f"model.config.{key}": None for key in ("bos_token_id", "eos_token_id")},
}


def _write_images(folder: Path, **changes: Any) -> None:
    images = (torch.arange(40 * 36) * 37 % 251).view(40, 1, 6, 6).to(torch.uint8)
    tensors = {"images": images, "labels": (torch.arange(40) % 3).to(torch.uint8), **changes}
    save_file(
        {name: tensor for name, tensor in tensors.items() if tensor is not None},
        folder / "images.safetensors",
    )


def _create(folder: Path, changes: dict[str, Any]) -> Created:
    job = parse_job(write_job(folder, changes).read_text(), "job.toml")
    return create_run(job, folder, folder / "run")


def test_a_run_of_images_with_muon(tmp_path: Path) -> None:
    _write_images(tmp_path)
    made = _create(tmp_path, VIT)
    assert (made.manifest.data.records, made.manifest.data.width) == (30, 37)
    facts = json.loads(made.folder.model.read_text())
    assert (facts["task"], facts["width"]) == ("image-classification", 37)
    inner = decode_program(BlobStore(made.folder.blobs).get(made.manifest.programs.inner.blob))
    images = (torch.arange(40 * 36) * 37 % 251).view(40, 1, 6, 6).to(torch.uint8)
    (tmp_path / "last").mkdir()
    _write_images(tmp_path / "last", images=images.permute(0, 2, 3, 1).contiguous())
    assert _create(tmp_path / "last", VIT).manifest.data == made.manifest.data
    names = {port.name for port in inner.inputs}
    assert "working/momentum/vit.layers.0.mlp.fc1.weight" in names
    assert "working/v/classifier.weight" in names


def test_a_masked_language_model_with_sgd(tmp_path: Path) -> None:
    bert = {
        "model.task": "masked-lm",
        "model.config.model_type": "bert",
        "model.config.vocab_size": 257,
        "model.config.hidden_dropout_prob": 0.0,
        "model.config.attention_probs_dropout_prob": 0.0,
        "model.config.num_key_value_heads": None,
        "training.optimiser": "sgd",
        "training.momentum": 0.8,
    }
    made = _create(tmp_path, bert)
    inner = decode_program(BlobStore(made.folder.blobs).get(made.manifest.programs.inner.blob))
    assert not any(port.name.startswith("working/v/") for port in inner.inputs)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="vocab_size 257"):
        _create(tmp_path / "other", bert | {"model.config.vocab_size": 256})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": None}, "needs uint8 tensors images"),
        ({"labels": torch.zeros(39, dtype=torch.uint8)}, "needs uint8 tensors images"),
        ({"labels": torch.zeros(40)}, "needs uint8 tensors images"),
        ({"images": torch.zeros(40, 1, 5, 6, dtype=torch.uint8)}, "but images of"),
        (
            {"labels": torch.full((40,), 3, dtype=torch.uint8)},
            "image 0 has label 3, but the model tells 3 classes",
        ),
    ],
)
def test_images_that_do_not_fit_are_explained(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    _write_images(tmp_path, **changes)
    with pytest.raises(UserError, match=reason):
        _create(tmp_path, VIT)
    (tmp_path / "images.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no readable"):
        _create(tmp_path, VIT)


def test_kernels_that_are_refused_are_told_with_what_they_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "compiler", lambda: None)
    monkeypatch.setattr(compiled, "WORTHWHILE", 0)
    heard: list[str] = []
    create_run(read_job(write_job(tmp_path)), tmp_path, tmp_path / "run", heard.append, accept_unsound=True)
    slow = [line for line in heard if line.startswith("slow: ")]
    assert len(slow) == 1
    assert re.search(r"no C compiler was found: install gcc or clang \(a step takes [\d.]+ times", slow[0])
