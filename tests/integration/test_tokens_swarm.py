"""A swarm that trains on tokens of a tokenizer, from Parquet to a model that loads with it."""

from pathlib import Path

import pytest
import transformers

from p2p.blobs import BlobStore
from tests.corpus import END, documents, forms, write_tokenizer
from tests.swarm import final_digests, final_state, swarm
from tests.tiny import make_run
from trainer.commands.evaluate import export_and_evaluate
from trainer.commands.report import write_report
from trainer.folder import RunFolder
from verification.manifest import BundleRef
from verification.statements import VERIFIER, WORKER
from verification.tensors import Bundle, decode_bundle, tensor_digest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LIMIT = 1 << 24
SECTION = {
    "data.text": None,
    "data.parquet": "c.parquet",
    "data.tokenizer": "tokenizer.json",
    "data.separator": END,
    "data.packing": "cut",
    "model.config.vocab_size": 320,
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


def test_a_swarm_trains_on_tokens(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    list(forms(tmp_path, documents(90)))
    folder: RunFolder = make_run(tmp_path, SECTION).folder
    with swarm(folder, [WORKER, VERIFIER]) as peers:
        assert [peer.wait() for peer in peers] == [0, 0]
    assert len(final_digests(peers)) == 1
    state = final_state(folder)
    assert [len(worked.commits) for worked in state.rounds] == [1]
    assert not state.disputes
    manifest, last = state.manifest, state.current.sealed
    (records,) = bundle(folder.blobs, BundleRef(manifest.data.root, manifest.data.blob)).tensors
    assert (records.dtype, tensor_digest(records)) == ("int16", manifest.data.root)
    assert last is not None
    store = next(path for path in folder.stores() if BlobStore(path).has(last.blob))
    figures = export_and_evaluate(folder, bundle(folder.blobs, manifest.start), bundle(store, last))
    assert figures["loss_after"] != figures["loss_before"]
    assert all(5.5 < figures[name] < 6 for name in ("loss_before", "loss_after"))  # ln 320 is 5.77
    assert 1.5 < figures["bytes_per_token"] < 4
    assert figures["sample_after"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path / "model")
    wanted = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("the cat sat") == wanted.encode("the cat sat")
    assert transformers.AutoModelForCausalLM.from_pretrained(folder.path / "model").config.vocab_size == 320
    assert write_report(folder).result.ok
