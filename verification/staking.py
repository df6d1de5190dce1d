"""What must hold of a run before anyone stakes on it: one check for who makes it and for who joins. (SPEC.md 11.7)

The numbers of a manifest are in range already, since nothing else can be read.
"""

from verification.economics import require_sound
from verification.errors import Refused, UserError
from verification.manifest import Manifest
from verification.program import require_affordable
from verification.sizes import PlacedPrograms, require_readable, require_sayable

MAX_NODE_WORK = 1 << 40
"""Work units of the dearest node that the law may have to execute: minutes on one core. (SPEC.md 7.2)"""


def check_manifest(
    manifest: Manifest, programs: PlacedPrograms, blob_limit: int, accept_unsound: bool = False
) -> None:
    """Raise UserError, with the mend, for a run on which nobody should stake.

    What an honest peer may have to say must fit the ledger, blobs must have at most `blob_limit` bytes, a node must not
    be too dear to judge, and cheating must not pay unless that is accepted.
    """
    require_readable(manifest.data.records, manifest.data.width, programs, blob_limit)
    require_sayable(manifest, programs)
    for place, program in programs.items():
        try:
            require_affordable(program, None, MAX_NODE_WORK)
        except Refused as refusal:
            raise UserError(
                f"the {place} program's {refusal}: make the model's widest layer or the batch smaller"
            ) from refusal
    try:
        if not accept_unsound:
            require_sound(manifest)
    except UserError as error:
        raise UserError(f"{error}, or accept it with --accept-unsound") from error
