"""What must hold of a run before anyone stakes on it: one check for who makes it and for who joins. (SPEC.md 11.7)

The numbers of a manifest are in range already, since nothing else can be read.
"""

from verification.economics import require_sound
from verification.errors import BadEvidence, Unavailable, UserError
from verification.layout import SUMMARY, Home, contribution_width, origin_of
from verification.manifest import Manifest, Place, Post
from verification.program import Program, inputs_read, program_head, values
from verification.referee import result_of
from verification.sizes import PlacedPrograms, ShardPrograms, require_data, require_readable, require_sayable


def check_manifest(
    manifest: Manifest,
    programs: PlacedPrograms,
    blob_limit: int,
    accept_unsound: bool = False,
    shards: ShardPrograms | None = None,
) -> None:
    """Raise UserError, with the mend, for a run on which nobody should stake; `shards` are the programs of its posts.

    The law must know what every node makes, what an honest peer may have to say must fit the ledger, blobs must have at
    most `blob_limit` bytes, and cheating must not pay unless that is accepted.
    """
    shards = shards or {}
    for placed in (programs, *shards.values()):
        for place, program in placed.items():
            _require_defined(place, program)
    require_posts(manifest, programs, shards)
    require_data(manifest, programs)
    require_readable(programs, blob_limit)
    require_sayable(manifest, programs, shards)
    try:
        if not accept_unsound:
            require_sound(manifest)
    except UserError as error:
        raise UserError(f"{error}, or accept it with --accept-unsound") from error


def require_posts(manifest: Manifest, programs: PlacedPrograms, shards: ShardPrograms) -> None:
    """Raise UserError unless there are programs for every post, and the outer step reads no contribution's summary, of
    which a crew has several. (SPEC.md 4.17)

    That a cut's programs fit each other is `trainer.shards.conventions`'s.
    """
    posts = list(manifest.posts())
    if sorted(shards, key=_numbers) != posts:
        raise UserError("the run's cuts and the programs of their shards are not of one number")
    outer = programs[Place.OUTER]
    read = (origin_of(Place.OUTER, program_head(outer), n) for n in inputs_read(outer))
    width = contribution_width(len(outer.outputs))
    if posts and any(p.home is Home.CONTRIBUTION and p.index - width in SUMMARY_PORTS for p in read):
        raise UserError(
            "the outer step reads a contribution's norm or loss, of which a crew has several: no cuts then"
        )


SUMMARY_PORTS = tuple(place - len(SUMMARY) for place in range(len(SUMMARY)))
"""Where a contribution's summary stands, from its end."""


def _numbers(post: Post) -> tuple[int, int]:
    return int(post.cut), int(post.shard)


def _require_defined(place: Place, program: Program) -> None:
    """Raise UserError for a node whose numbers no definition gives: nobody could be convicted of them."""
    head, known = program_head(program), values(program)
    for number, node in enumerate(program.nodes, head.first):
        try:
            result_of(head, number, node, [known[source] for source in node.inputs])
        except (BadEvidence, Unavailable) as error:
            raise UserError(f"the law cannot judge the {place} program: {error}") from error
