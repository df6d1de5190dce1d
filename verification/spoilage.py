"""Contributions that are not what their commitment says, shown by their own bytes: guilt without a dispute.

A commitment names a contribution by its digest and its bytes by their address. No honest worker signs an address whose
bytes do not decode to that contribution, so the bytes and the commitment prove it together. (SPEC.md 4.15)
"""

from collections.abc import Sequence

from verification import codec, judgement, money, rulings
from verification.causes import Cause, Reason
from verification.content import chunks_root, content_address
from verification.debts import OpeningDebt
from verification.effects import Effect
from verification.errors import BadEvidence, Malformed, Refused
from verification.layout import SUMMARY, summary_of
from verification.library import Now
from verification.manifest import Place
from verification.membership import exclude, get_member, settle_debt
from verification.program import Sized, encoded_size, outputs_of
from verification.rounds import get_round
from verification.signed import Said
from verification.state import Phase, State, is_convicted
from verification.statements import MAX_STATEMENT, Commit, Spoiled
from verification.tensors import Bundle, decode_bundle, digest_of
from verification.units import Address, Count, Digest

MAX_SHOWN = MAX_STATEMENT - codec.MAX_MESSAGE
"""Bytes of the longest contribution that fits a statement."""


def fault(commit: Commit, outputs: Sequence[Sized], shown: Spoiled) -> Cause:
    """Return what is wrong with a contribution; raises BadEvidence when nothing is, or for other bytes than its own.

    `outputs` are the epilogue's. (SPEC.md 4.15)
    """
    if content_address(shown.size, shown.chunks) != commit.contribution.blob:
        raise BadEvidence("the commitment names other bytes")
    if shown.size != encoded_size(outputs):
        if shown.data:
            raise BadEvidence("of another size the bytes themselves show nothing")
        return Cause.SPOILED_SIZE
    if len(shown.data) != shown.size or chunks_root(shown.data) != shown.chunks:
        raise BadEvidence("these are not the bytes that the commitment names")
    return _fault_of_bytes(commit, outputs, shown.data)


def _fault_of_bytes(commit: Commit, outputs: Sequence[Sized], data: bytes) -> Cause:
    try:
        bundle = decode_bundle(data, len(data))
    except Malformed:
        return Cause.SPOILED_BYTES
    if digest_of(bundle) != commit.contribution.digest:
        return Cause.SPOILED_BUNDLE
    if [(t.dtype, t.shape) for t in bundle.tensors] != [(o.dtype, o.shape) for o in outputs]:
        return Cause.SPOILED_SHAPES
    if len(outputs) >= len(SUMMARY) and norm_of(bundle) != commit.norm:
        return Cause.SPOILED_NORM
    raise BadEvidence("the contribution is what the commitment says")


def norm_of(contribution: Bundle) -> int:
    """Return the squared norm that a contribution holds, on the grid."""
    return int.from_bytes(summary_of(contribution.tensors, "norm").data, "little")


def reason_for(shown: Spoiled, cause: Cause) -> Reason:
    """Return the reason for which a worker is convicted by the bytes shown."""
    return Reason(cause, shown.round, Place.EPILOGUE, count=int(shown.size))


def show_spoiled(
    worker: Address, commit: Commit, outputs: Sequence[Sized], size: int, chunks: Digest, data: bytes
) -> Spoiled | None:
    """Return what shows that a contribution is spoiled, None when it is not; above MAX_SHOWN it fits no statement."""
    needed = data if size == encoded_size(outputs) else b""
    shown = Spoiled(commit.round, worker, Count(size), chunks, needed)
    try:
        fault(commit, outputs, shown)
    except BadEvidence:
        return None
    return shown


def process_spoiled(state: State, said: Said[Spoiled], now: Now) -> list[Effect]:
    """Convict a worker of a contribution that is not what it signed; it counts as none. (SPEC.md 4.15)

    Disputes about the round are void and free, since a worker pays once for a round. Raises Refused where there is
    nothing to convict of, BadEvidence for other bytes than the commitment names, or those of a right contribution.
    """
    body = said.body
    worked, finder = get_round(state, body.round), get_member(state, said.sender)
    commit = worked.commits.get(body.worker)
    if commit is None or is_convicted(state, body.round, body.worker):
        raise Refused("the worker committed to nothing in this round, or it has been paid for")
    epilogue = state.manifest.programs_of(worked.assignments[body.worker].post).epilogue
    program = now.library.program(epilogue.digest)
    reason = reason_for(body, fault(commit, outputs_of(program), body))
    member = state.members[body.worker]
    state.convicted.add((body.round, body.worker))
    lead = worked.lead(body.worker)
    state.redraws.discard((body.round, lead))
    finders = [] if finder is member else [finder.address]
    if worked.phase in (
        Phase.COMMIT,
        Phase.ATTEST,
    ):  # once it has closed the crew's work counts, whatever it holds
        finders = money.with_mates(state, body.round, body.worker, finder.address)
    effects: list[Effect] = [money.slash(state, member, finders, reason)]
    effects += rulings.close_disputes(state, body.round, lead)
    effects += settle_debt(state, member, OpeningDebt(body.round))
    effects += judgement.end_waiting(state, body.round, lead)
    if member.convictions >= state.manifest.money.excluded_after:
        effects += exclude(member, Reason(Cause.CONVICTED_SPOILED, body.round))
    return effects
