"""What a dispute is about: the program that runs at its place, and what fixes its inputs. Pure. (SPEC.md 6.5)"""

from collections.abc import Sequence
from functools import partial

from verification import referee
from verification.claims import Result
from verification.crews import held_at, taken_by
from verification.layout import Home
from verification.manifest import Manifest, Place, Post
from verification.outer import Part, contributions_of, mixture
from verification.program import Program, first_node, program_head, values
from verification.referee import Contributed, Execution, Reader
from verification.sampling import record_index, round_number
from verification.state import Dispute, State, state_before
from verification.statements import OpenedInput, Opening
from verification.tensors import Tensor
from verification.units import Digest


def result_at(program: Program, number: int) -> Result:
    """Return where a node of a program makes its result."""
    known, node = values(program), program.nodes[number - first_node(program)]
    return referee.result_of(program_head(program), number, node, [known[source] for source in node.inputs])


def reader_of(state: State, dispute: Dispute, program: Program, brought: Sequence[OpenedInput]) -> Reader:
    """Return the numbers that evidence opens of the disputed node's inputs; raises BadEvidence."""
    game = dispute.game
    assert game.trace is not None
    assert game.node is not None
    assert game.result is not None
    node = program.nodes[game.node - game.trace.first]
    return Reader(
        execution_of(state, dispute), program_head(program), game.trace, node, game.result,
        partial(constant_of, program), brought,
    )  # fmt: skip


def constant_of(program: Program, number: int) -> Tensor:
    """Return the constant of a program that is a value of a number."""
    return program.constants[number - len(program.inputs)]


def execution_of(state: State, dispute: Dispute) -> Execution:
    """Return what fixes the inputs of an execution: public inputs and what both sides agree on. (SPEC.md 6.5)"""
    worked, manifest = state.rounds[dispute.round], state.manifest
    post = post_of(state, dispute)
    program = program_of(manifest, dispute.place, post)
    if dispute.place is Place.OUTER:
        mixed = mixture(state, worked)
        slots = {part.slot: slot_of(state, part) for part in mixed.parts}
        start = state_before(state, dispute.round).digest
        return Execution(dispute.place, program, start, slots=slots, ballast=mixed.ballast)
    given = {}
    if dispute.place is Place.PROLOGUE:
        steps, lead = worked.assignments[dispute.accused].steps, worked.lead(dispute.accused)
        index = record_index(manifest, worked.beacon, lead, steps)
        given = {Home.INDEX: index, Home.ROUND: round_number(dispute.round)}
    taken: tuple[Digest, ...] = ()
    if post is not None and dispute.place is Place.STEP:
        opening = worked.openings[dispute.accused]
        taken = taken_in(
            manifest, post, worked.assignments[dispute.accused].steps, opening, dispute.game.step
        )
    return Execution(
        dispute.place, program, worked.start.digest, dispute.game.agreed, manifest.data.root, given,
        held=held_at(manifest, post), taken=taken,
    )  # fmt: skip


def slot_of(state: State, part: Part) -> Contributed:
    """Return what stands in a slot of an outer step."""
    post = state.rounds[part.number].assignments[part.worker].post
    digests = tuple(ref.digest for ref in contributions_of(state, part))
    return contributed(state.manifest, part.weight, digests, post)


def contributed(
    manifest: Manifest, weight: int, digests: tuple[Digest, ...], post: Post | None
) -> Contributed:
    """Return what stands in a slot, from its contributions and the post of one of them."""
    shards = () if post is None else manifest.cuts[post.cut].shards
    return Contributed(weight, digests, tuple(tuple(map(int, shard.parameters)) for shard in shards))


def taken_in(manifest: Manifest, post: Post, steps: int, opening: Opening, step: int) -> tuple[Digest, ...]:
    """Return what a member of a crew has opened as taken in one inner step of a round. (SPEC.md 4.17)"""
    items = taken_by(manifest.cuts[post.cut], int(post.shard), steps)
    return tuple(d for d, item in zip(opening.taken, items, strict=True) if item.step == step)


def program_of(manifest: Manifest, place: Place, post: Post | None = None) -> Digest:
    """Return the digest of the program that runs at a place, of a crew's member that of its shard."""
    if place is Place.OUTER or post is None:
        return manifest.programs.at(place).digest
    return manifest.shard(post).at(place).digest


def post_of(state: State, dispute: Dispute) -> Post | None:
    """Return the post in which the accused made what is disputed; None for a whole worker, and for a seal."""
    if dispute.place is Place.OUTER:
        return None
    return state.rounds[dispute.round].assignments[dispute.accused].post
