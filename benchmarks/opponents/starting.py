"""Where every opponent starts from: a run of ours as it was made, its weights and records as files for the others."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmarks.opponents.task import RECORDS, Shared
from p2p.blobs import BlobStore
from p2p.bundles import map_data, read_bundle
from trainer.commands.evaluate import HeldOut
from trainer.folder import RunFolder
from trainer.programs.conversion import bundle_of, to_torch
from trainer.runs.facts import ModelFacts
from trainer.runs.ledgers import genesis_of
from trainer.runs.library import StoredPrograms
from verification.manifest import Place
from verification.sizes import contribution_size, data_port
from verification.tensors import Bundle

LIMIT = 1 << 36
"""Bytes of a state or of records that are read; they are our own."""


class Start:
    """A run's start: weights, records, sizes, and the judge of what comes of them."""

    def __init__(self, folder: RunFolder, seed: int) -> None:
        """Read a run's folder, as `run create` left it. `seed` draws the others' order of records."""
        self.folder, self._seed = folder, seed
        self._facts, self._judge = ModelFacts.read(folder), HeldOut(folder)
        manifest, store = genesis_of(folder).manifest, BlobStore(folder.blobs)
        self._state = read_bundle(store, manifest.start, LIMIT)
        library = StoredPrograms(store, manifest)
        programs = {place: library.program(manifest.programs.at(place).digest) for place in Place}
        (self._records,) = map_data(store, manifest.data, data_port(programs)).tensors
        self.contribution = contribution_size(programs)
        """Bytes of a contribution as it travels."""

    @property
    def parameters(self) -> int:
        """Return how many parameters the model has."""
        return sum(parameter.numel() for parameter in self._judge.whole.model.parameters())

    def write(self, shared: Shared) -> None:
        """Write it for opponents."""
        self._judge.whole.load(self._state)
        given = {"config": self._facts.config, "seed": self._seed}
        shared.config.write_text(json.dumps(given), encoding="utf-8")
        named = self._judge.whole.model.named_parameters()
        save_file(
            {RECORDS: to_torch(self._records), **{name: each.detach() for name, each in named}}, shared.start
        )

    def judge(self, state: Bundle | None) -> float | None:
        """Return the held-out loss that a state makes, in nats a token, by PyTorch's float32; None for none."""
        return None if state is None else self._judge.loss(state)

    def state_in(self, path: Path) -> Bundle | None:
        """Return the state of an opponent's weights in a file; None where there is no file."""
        if not path.exists():
            return None
        weights = load_file(path)
        return bundle_of([weights[name] for name in self._facts.parameter_names])
