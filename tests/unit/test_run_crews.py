"""A run that is divided for crews: its shards' programs are published, and fit together as they are read back."""

from pathlib import Path

import pytest

from p2p.blobs import BlobStore
from tests.tiny import LIMIT, make_run
from trainer.shards.conventions import require_sound_parts
from trainer.shards.parts import Part, Parts
from verification.errors import UserError
from verification.manifest import Cut
from verification.program import Program, decode_program, program_digest, work_units

pytestmark = pytest.mark.slow

CREWS = {"training.leaf_every": None, "training.max_steps": 2, "swarm.crews": [2, 3]}


def test_its_manifest_names_programs_that_fit_together(tmp_path: Path) -> None:
    told = list[str]()
    made = make_run(tmp_path, CREWS, tell=told.append)
    manifest, store = made.manifest, BlobStore(made.folder.blobs)
    assert manifest.work.leaf_every == 1
    assert [len(cut.shards) for cut in manifest.cuts] == [2, 3]
    inner = decode_program(store.get(manifest.programs.inner.blob))
    for cut in manifest.cuts:
        parts = read(cut, store)
        require_sound_parts(parts)
        for shard, part in zip(cut.shards, parts.shards, strict=True):
            programs = part.prologue, part.inner, part.epilogue
            units = shard.units
            assert [work_units(each) for each in programs] == [units.prologue, units.inner, units.epilogue]
        assert 1 <= sum(shard.units.inner for shard in cut.shards) / work_units(inner) < 1.1
    assert sum("of a step, all together" in line for line in told) == 2
    assert sum("trying a step of a crew of" in line for line in told) == 2


def read(cut: Cut, store: BlobStore) -> Parts:
    """A cut's programs as a peer reads them."""

    def program(digest: bytes, blob: bytes) -> Program:
        data = store.get(blob)  # type: ignore[arg-type]
        assert len(data) < LIMIT and program_digest(data) == digest
        return decode_program(data)

    shards = []
    for shard in cut.shards:
        refs = shard.prologue, shard.inner, shard.epilogue
        shards.append(Part(*(program(ref.digest, ref.blob) for ref in refs), shard.parameters))
    return Parts(tuple(shards), cut.crossings)


def test_more_members_than_there_are_places_to_cut_is_a_person_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="take fewer"):
        make_run(tmp_path, CREWS | {"swarm.crews": [40]})
    assert not (tmp_path / "run").exists()


def test_a_run_without_crews_has_no_cuts(tmp_path: Path) -> None:
    assert make_run(tmp_path).manifest.cuts == ()
