"""What must hold of a run before anyone stakes on it: one check for who makes it and for who joins. (SPEC.md 11.7)

The numbers of a manifest are in range already, since nothing else can be read.
"""

from collections.abc import Sequence

from verification.crews import held_at
from verification.economics import require_sound
from verification.errors import BadEvidence, Unavailable, UserError
from verification.layout import STATE, SUMMARY, Home, contribution_width, origin_of
from verification.manifest import Manifest, Place, Post
from verification.program import Program, Sized, inputs_read, outputs_of, program_head, values
from verification.referee import result_of
from verification.sizes import PlacedPrograms, ShardPrograms, require_data, require_readable, require_sayable
from verification.units import Count

Form = tuple[str, tuple[int, ...]]
"""Dtype and shape of a tensor."""


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
    """Raise UserError unless there are programs for every post, which fit each other and the outer step.

    What one shard gives has the dtype and shape of the port at which another takes it, a shard's working state those of
    the next one, its contribution those of the whole's for its parameters; and no outer step reads a contribution's
    summary, of which a crew has several. (SPEC.md 4.17)
    """
    posts = list(manifest.posts())
    if sorted(shards, key=_numbers) != posts:
        raise UserError("the run's cuts and the programs of their shards are not of one number")
    for post in posts:
        if not _fits(manifest, post, programs, shards):
            raise UserError(
                f"shard {post.shard} of cut {post.cut} does not fit the others: whoever made the run must make it again"
            )
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


def _fits(manifest: Manifest, post: Post, programs: PlacedPrograms, shards: ShardPrograms) -> bool:
    """Return whether a shard's programs have the ports and outputs that their neighbours in the round need."""
    held, own, cut = held_at(manifest, post), shards[post], manifest.cuts[post.cut]
    assert held is not None
    inner, whole = own[Place.STEP], programs[Place.EPILOGUE]
    state = len(inner.outputs) - held.gives
    working = _forms(outputs_of(own[Place.PROLOGUE]))
    ports = [*_forms(own[Place.PROLOGUE].inputs[: len(STATE) * len(held.parameters)]), *working]
    wanted = [_forms(outputs_of(whole))[place] for place in (*held.parameters, *SUMMARY_PORTS)]
    taken = [
        _given(manifest, post.cut, place, shards)
        for place, each in enumerate(cut.crossings)
        if post.shard in each.takers
    ]
    return (
        _forms(inner.inputs) == [*working, *taken]
        and _forms(outputs_of(inner))[:state] == working
        and _forms(own[Place.EPILOGUE].inputs) == ports
        and _forms(outputs_of(own[Place.EPILOGUE])) == wanted
    )


def _given(manifest: Manifest, number: int, crossing: int, shards: ShardPrograms) -> Form:
    """Return the dtype and shape of what crosses, as its maker gives it."""
    cut = manifest.cuts[number]
    maker = cut.crossings[crossing].maker
    before = sum(each.maker == maker for each in cut.crossings[:crossing])
    inner, held = (
        shards[Post(Count(number), maker)][Place.STEP],
        held_at(manifest, Post(Count(number), maker)),
    )
    assert held is not None
    return _forms(outputs_of(inner))[len(inner.outputs) - held.gives + before]


def _forms(values: Sequence[Sized]) -> list[Form]:
    return [(value.dtype, tuple(map(int, value.shape))) for value in values]


def _require_defined(place: Place, program: Program) -> None:
    """Raise UserError for a node whose numbers no definition gives: nobody could be convicted of them."""
    head, known = program_head(program), values(program)
    for number, node in enumerate(program.nodes, head.first):
        try:
            result_of(head, number, node, [known[source] for source in node.inputs])
        except (BadEvidence, Unavailable) as error:
            raise UserError(f"the law cannot judge the {place} program: {error}") from error
