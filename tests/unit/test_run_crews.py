"""A run that is divided for crews: its shards' programs are published, and fit together as they are read back."""

from pathlib import Path

import pytest

from p2p.blobs import BlobStore
from tests.tiny import make_run
from trainer.rounds.torch_engine import TorchEngine
from trainer.shards.conventions import require_sound_cut
from verification.errors import UserError
from verification.manifest import Manifest, ProgramRef
from verification.program import decode_program, work_units

pytestmark = pytest.mark.slow

CREWS = {"training.leaf_every": None, "training.max_steps": 2, "swarm.crews": [2, 3]}


def test_its_manifest_names_programs_that_fit_together(tmp_path: Path) -> None:
    told = list[str]()
    made = make_run(tmp_path, CREWS, tell=told.append)
    manifest, store = made.manifest, BlobStore(made.folder.blobs)
    assert manifest.work.leaf_every == 1
    assert [len(cut.shards) for cut in manifest.cuts] == [2, 3]
    inner = decode_program(store.get(manifest.programs.inner.blob))
    programs = {ref.digest: store.get(ref.blob) for ref in all_of(manifest)}
    engine = TorchEngine(programs)
    for cut in manifest.cuts:
        require_sound_cut(cut, manifest.programs, engine.program)
        assert 1 <= sum(shard.units.inner for shard in cut.shards) / work_units(inner) < 1.1
    assert sum("of a step, all together" in line for line in told) == 2
    assert sum("trying a step of a crew of" in line for line in told) == 2


def all_of(manifest: Manifest) -> list[ProgramRef]:
    """All programs that a manifest names."""
    shards = [shard for cut in manifest.cuts for shard in cut.shards]
    own = [ref for shard in shards for ref in (shard.prologue, shard.inner, shard.epilogue)]
    return [*manifest.programs.all(), *own]


def test_a_crew_s_cut_lies_in_a_bottleneck_where_there_is_one(tmp_path: Path) -> None:
    """Behind two layers of three, which do half of the work; rows of 32 numbers cross as 8 and an exponent, as do their
    gradients."""
    layers = {"model.config.num_hidden_layers": 3, "model.boundaries.after": "model.layers.1"}
    made = make_run(tmp_path, {**CREWS, **layers, "model.boundaries.width": 8, "swarm.crews": [2]})
    manifest, store = made.manifest, BlobStore(made.folder.blobs)
    (cut,) = manifest.cuts
    programs = {ref.digest: store.get(ref.blob) for ref in all_of(manifest)}
    require_sound_cut(cut, manifest.programs, TorchEngine(programs).program)
    inputs = [decode_program(programs[shard.inner.digest]).inputs for shard in cut.shards]
    rows = [sorted(port.shape for port in ports if port.shape[:2] == (2, 16)) for ports in inputs]
    assert rows == [[(2, 16, 1), (2, 16, 8)], [(2, 16, 1), (2, 16, 8)]]


def test_more_members_than_there_are_places_to_cut_is_a_person_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="take fewer"):
        make_run(tmp_path, CREWS | {"swarm.crews": [40]})
    assert not (tmp_path / "run").exists()


def test_a_run_without_crews_has_no_cuts(tmp_path: Path) -> None:
    assert make_run(tmp_path).manifest.cuts == ()
