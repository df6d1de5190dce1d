"""A swarm that goes on from a checkpoint with its own tokenizer, from Parquet to a model that loads and goes on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from p2p.blobs import BlobStore
from tests.corpus import END, documents, forms, write_tokenizer
from tests.swarm import final_digests, final_state, swarm
from tests.tiny import JOB, make_run
from trainer.commands.evaluate import evaluate_run, export_and_evaluate, held_out_loss, held_out_records
from trainer.commands.export import export_rounds, export_run
from trainer.commands.log import log_run
from trainer.commands.report import write_report
from trainer.folder import RunFolder
from trainer.programs.conversion import to_torch
from trainer.runs.create import create_run
from trainer.runs.facts import ModelFacts
from trainer.runs.job import read_job
from trainer.runs.states import ancestor_of, kept_state
from trainer.runs.tasks import TASKS
from verification.errors import UserError
from verification.manifest import BundleRef, Origin
from verification.report.figures import totals
from verification.statements import VERIFIER, WORKER
from verification.tensors import Bundle, Tensor, decode_bundle, tensor_digest
from verification.units import Count, Round

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LIMIT = 1 << 24
SECTION = {
    "data.text": None,
    "data.parquet": "c.parquet",
    "data.separator": END,
    "data.packing": "cut",
    **{key: None for key in JOB if key.startswith("model.config.")},
    "model.from": "start",
    "training.rounds": 1,
    "training.max_steps": 2,
    "training.leaf_every": 1,
    "swarm.workers": 1,
    "swarm.min_workers": 1,
    "accounts.peers": 2,
}


def bundle(store: Path, ref: BundleRef) -> Bundle:
    """Return a bundle in a store."""
    return decode_bundle(BlobStore(store).get(ref.blob), LIMIT)


def write_checkpoint(folder: Path) -> transformers.LlamaForCausalLM:
    """Write drawn weights in bfloat16 shards, as transformers does, with a tokenizer beside them."""
    torch.manual_seed(0)
    sizes = {key.removeprefix("model.config."): JOB[key] for key in JOB if key.startswith("model.config.")}
    config = transformers.LlamaConfig(**{**sizes, "vocab_size": 320, "tie_word_embeddings": True})
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="20KB")
    write_tokenizer(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return model


def test_a_swarm_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    begun = write_checkpoint(tmp_path / "start")
    list(forms(tmp_path, documents(90)))
    folder: RunFolder = make_run(tmp_path, SECTION).folder
    logged = tmp_path / "peer.csv"
    with swarm(folder, [WORKER, VERIFIER], {0: ["--log-to", str(logged)]}) as peers:
        assert [peer.wait() for peer in peers] == [0, 0]
    assert len(final_digests(peers)) == 1
    state = final_state(folder)
    assert [len(worked.commits) for worked in state.rounds] == [1]
    assert not state.disputes
    manifest, last = state.manifest, state.current.sealed
    records = BlobStore(folder.blobs).get(manifest.data.blob)
    shape = manifest.data.records, manifest.data.width
    assert tensor_digest(Tensor("int16", shape, records)) == manifest.data.root
    start = bundle(folder.blobs, manifest.start)
    for parameter, tensor in zip(begun.parameters(), start.tensors, strict=False):
        assert torch.equal(to_torch(tensor), parameter.float())
    assert last is not None
    store = next(path for path in folder.stores() if BlobStore(path).has(last.blob))
    figures = export_and_evaluate(folder, start, bundle(store, last))
    assert figures["loss_after"] != figures["loss_before"]
    assert all(5.5 < figures[name] < 6 for name in ("loss_before", "loss_after"))  # ln 320 is 5.77
    assert 1.5 < figures["bytes_per_token"] < 4
    assert figures["sample_after"]
    assert write_report(folder).result.ok
    is_evaluated(folder, tmp_path, figures)
    is_logged(folder, logged, figures["loss_after"])
    is_extended(folder, tmp_path)
    goes_on(folder, tmp_path, figures["loss_after"])
    is_kept_by_rounds(folder, tmp_path)


def is_evaluated(folder: RunFolder, beside: Path, figures: dict[str, Any]) -> None:
    """Check that start and last state are judged alike by `eval`, and that states which are gone are told."""
    said: list[str] = []
    found = evaluate_run(folder, 1, said.append, beside / "eval.json")
    assert [each.round for each in found] == [None, 0]
    assert [each.loss for each in found] == [figures["loss_before"], figures["loss_after"]]
    assert said[1].startswith("after round 0: held-out loss 5.")
    assert [each["round"] for each in json.loads((beside / "eval.json").read_text())] == [None, 0]
    with pytest.raises(UserError, match="cannot write there"):
        evaluate_run(folder, 1, said.append, beside / "nowhere" / "eval.json")


def is_logged(folder: RunFolder, logged: Path, loss: float) -> None:
    """Check that the worker logged what the report has, and that whoever logs later writes the same and evaluates."""
    said: list[str] = []
    lines = logged.read_text().splitlines()
    found = {(number, name): value for _, number, name, value, *_ in (line.split(",") for line in lines)}
    report = write_report(folder)
    (told,) = report.rounds
    assert float(found["0", "train/loss"]) == told.loss
    assert float(found["0", "train/round_seconds"]) == (told.closed_ms - told.opened_ms) / 1000
    assert found["1", "audits/passed"] == str(totals(report).passed) == "1"
    assert found["1", "money/paid"] == str(sum(peer.rewards for peer in report.peers))
    log_run(folder, [str(logged.with_name("later.csv"))], True, 1, said.append)
    later = logged.with_name("later.csv").read_text().splitlines()
    (judged,) = [line for line in later if line not in lines]
    assert [line for line in later if line != judged] == lines
    assert judged.split(",")[1:4] == ["0", "evaluation/loss", str(loss)]
    assert said == []


def is_extended(folder: RunFolder, beside: Path) -> None:
    """Check that a new run starts from the last state and names where it is from."""
    state, job = final_state(folder), read_job(beside / "job.toml")
    kept = kept_state(folder, state, None)
    ancestor = ancestor_of(kept, state, ModelFacts.read(folder))
    made = create_run(job, beside, beside / "next", ancestor=ancestor).manifest
    assert state.current.sealed is not None
    assert made.start.digest == state.current.sealed.digest
    assert made.origin == Origin(state.run, Round(0), Count(1))


def goes_on(folder: RunFolder, beside: Path, loss: float) -> None:
    """Check that the exported model is the run's, with its tokenizer, and trains on in plain PyTorch."""
    out, rounded = beside / "out", beside / "rounded"
    export_run(folder, out, None, "float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    wanted = transformers.PreTrainedTokenizerFast(tokenizer_file=str(beside / "start" / "tokenizer.json"))
    assert tokenizer.encode("the cat sat") == wanted.encode("the cat sat")
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    held_out = held_out_records(folder.held_out, ModelFacts.read(folder))
    task_loss = TASKS["causal-lm"].loss(model.config, ModelFacts.read(folder).marks)
    assert held_out_loss(model, held_out, task_loss) == pytest.approx(loss, rel=1e-6)
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        task_loss(model, held_out).backward()
        optimiser.step()
    assert held_out_loss(model, held_out, task_loss) < loss
    assert "after round 0" in export_run(folder, rounded, 0, "bfloat16")
    small = transformers.AutoModelForCausalLM.from_pretrained(rounded)
    exact = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert all(
        torch.equal(a, b.to(torch.bfloat16))
        for a, b in zip(small.parameters(), exact.parameters(), strict=True)
    )
    card = (out / "README.md").read_text()
    assert final_state(folder).run.hex() in card
    assert final_state(folder).manifest.data.root.hex() in card


def is_kept_by_rounds(folder: RunFolder, beside: Path) -> None:
    """Check that the model after each round is exported once, whole, beside nothing else; `goes_on` left it in out/."""
    each, said = beside / "each", list[str]()
    draft = each / ".round-0.draft"
    draft.mkdir(parents=True)
    (draft / "model.safetensors").write_bytes(b"half")
    for _ in range(2):
        export_rounds(folder, each, 1, True, "float32", said.append)
    assert said == [f"after round 0: {each / 'round-0'}"]
    assert [path.name for path in each.iterdir()] == ["round-0"]
    names = sorted(path.name for path in (beside / "out").iterdir())
    assert sorted(path.name for path in (each / "round-0").iterdir()) == names
    for name in names:
        assert (each / "round-0" / name).read_bytes() == (beside / "out" / name).read_bytes()
    (each / "round-0" / "README.md").write_text("another run's")
    with pytest.raises(UserError, match="round-0 holds something else: choose another folder"):
        export_rounds(folder, each, 1, False, "float32", said.append)
    export_rounds(folder, beside / "none", 2, False, "float32", said.append)
    assert not (beside / "none").exists()
    for store in folder.stores():
        shutil.rmtree(store)
    export_rounds(folder, beside / "none", 1, False, "float32", said.append)
    assert said[1].startswith("round 0 is left out: no peer's folder here holds state ")
    assert not (beside / "none").exists()
