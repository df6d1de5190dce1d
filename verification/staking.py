"""What must hold of a run before anyone stakes on it: one check for who makes it and for who joins. (SPEC.md 11.7)

The numbers of a manifest are in range already, since nothing else can be read.
"""

from verification.economics import require_sound
from verification.errors import BadEvidence, Unavailable, UserError
from verification.manifest import Manifest, Place
from verification.program import Program, program_head, values
from verification.referee import result_of
from verification.sizes import PlacedPrograms, require_data, require_readable, require_sayable


def check_manifest(
    manifest: Manifest, programs: PlacedPrograms, blob_limit: int, accept_unsound: bool = False
) -> None:
    """Raise UserError, with the mend, for a run on which nobody should stake.

    The law must know what every node makes, what an honest peer may have to say must fit the ledger, blobs must have at
    most `blob_limit` bytes, and cheating must not pay unless that is accepted.
    """
    for place, program in programs.items():
        _require_defined(place, program)
    require_data(manifest, programs)
    require_readable(programs, blob_limit)
    require_sayable(manifest, programs)
    try:
        if not accept_unsound:
            require_sound(manifest)
    except UserError as error:
        raise UserError(f"{error}, or accept it with --accept-unsound") from error


def _require_defined(place: Place, program: Program) -> None:
    """Raise UserError for a node whose numbers no definition gives: nobody could be convicted of them."""
    head, known = program_head(program), values(program)
    for number, node in enumerate(program.nodes, head.first):
        try:
            result_of(head, number, node, [known[source] for source in node.inputs])
        except (BadEvidence, Unavailable) as error:
            raise UserError(f"the law cannot judge the {place} program: {error}") from error
