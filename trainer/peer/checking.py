"""What a peer looks at before it stakes: the run's programs, and the post that it is to have there. (SPEC.md 11.7)"""

from collections.abc import Sequence

from p2p.lists import MAX_BLOB_BYTES
from trainer.shards.conventions import require_sound_cut
from verification.errors import UserError
from verification.library import Library
from verification.manifest import Manifest, Place, Post, ProgramRef, stake_for
from verification.sizes import PlacedPrograms
from verification.staking import check_manifest
from verification.statements import VERIFIER
from verification.units import Amount


def sound_programs(manifest: Manifest, library: Library, accept_unsound: bool) -> PlacedPrograms:
    """Return the whole model's programs of a run on which a peer may stake, as member of a crew or not.

    Raises UserError or Malformed for one on which nobody should, Unavailable for a program that is not in `library`.
    """

    def placed(refs: Sequence[ProgramRef]) -> PlacedPrograms:
        return {place: library.program(ref.digest) for place, ref in zip(Place, refs, strict=False)}

    programs = placed(manifest.programs.all())
    shards = {post: placed(manifest.shard(post).all()) for post in manifest.posts()}
    check_manifest(manifest, programs, MAX_BLOB_BYTES, accept_unsound, shards)
    for cut in manifest.cuts:
        require_sound_cut(cut, manifest.programs, library.program)
    return programs


def require_post(manifest: Manifest, post: Post | None) -> None:
    """Raise UserError for a post that a run has not, with those that it has."""
    if post is None or post in manifest.posts():
        return
    if not manifest.cuts:
        raise UserError("it has no crews: leave out --shard")
    if post.cut >= len(manifest.cuts):
        last = len(manifest.cuts) - 1
        raise UserError(f"it has no cut {post.cut}: take --cut 0{f' to {last}' if last else ''}")
    count = len(manifest.cuts[post.cut].shards)
    raise UserError(f"its crews of cut {post.cut} have {count} members: take --shard 1 to {count}")


def stake_of(manifest: Manifest, role: str, post: Post | None = None) -> Amount:
    """Return what a peer stakes that names no stake of its own: a member of a crew what its shard warrants."""
    if role == VERIFIER:
        return manifest.money.verifier_stake
    return manifest.money.worker_stake if post is None else stake_for(manifest, manifest.work.max_steps, post)
